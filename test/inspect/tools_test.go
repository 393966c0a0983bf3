//go:build linux

package inspect_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// output runs a tool in English and returns what it says, also when it complains.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// starts reports whether this machine starts a program, from its own mouth.
func starts(t *testing.T, cmd *exec.Cmd) (bool, string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	return err == nil, fmt.Sprintf("%v: %s", err, out)
}
