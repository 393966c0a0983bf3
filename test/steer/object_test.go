package steer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestObject: what is checked in is what `go generate` makes of the source beside it.
func TestObject(t *testing.T) {
	rig.Tool(t, "clang-14", "clang-14")
	rig.Tool(t, "llvm-strip-14", "llvm-14")
	if _, err := os.Stat("/usr/include/bpf/bpf_helpers.h"); err != nil {
		if err := rig.Install(t, "libbpf-dev"); err != nil {
			rig.Missing(t, "no headers of libbpf: %v", err)
		}
	}
	room, dir := filepath.Join(rig.Root(t), "internal", "steer"), t.TempDir()
	for _, name := range []string{"steer.go", "steer.bpf.c"} {
		b, err := os.ReadFile(filepath.Join(room, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "generate", "steer.go")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(filepath.Join(dir, "steer.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(room, "steer.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("internal/steer/steer.bpf.o is not what its source makes (%d bytes, %d made): run `go generate ./internal/steer`", len(got), len(want))
	}
}
