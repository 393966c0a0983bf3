package steer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestObjects: what is checked in is what `go generate` makes of the sources beside it.
func TestObjects(t *testing.T) {
	rig.Tool(t, "clang-14", "clang-14")
	rig.Tool(t, "llvm-strip-14", "llvm-14")
	if _, err := os.Stat("/usr/include/bpf/bpf_helpers.h"); err != nil {
		if err := rig.Install(t, "libbpf-dev"); err != nil {
			rig.Missing(t, "no headers of libbpf: %v", err)
		}
	}
	room, dir := filepath.Join(rig.Root(t), "internal", "steer"), t.TempDir()
	for _, name := range []string{"steer.go", "steer.bpf.c", "port.bpf.c"} {
		if err := os.WriteFile(filepath.Join(dir, name), read(t, filepath.Join(room, name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := rig.Command(t, dir, nil, "go", "generate", "steer.go"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"steer.bpf.o", "port.bpf.o"} {
		got, want := read(t, filepath.Join(room, name)), read(t, filepath.Join(dir, name))
		if !bytes.Equal(got, want) {
			t.Errorf("internal/steer/%s is not what its source makes (%d bytes, %d made): run `go generate ./internal/steer`", name, len(got), len(want))
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
