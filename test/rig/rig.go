// Package rig is what the suites under test/ share: the command line built once, machines of their own to run it on, and
// a bounded load that counts what its clients saw.
//
// A suite works the product from outside, as a person or a script does: it runs the program and reads its JSON. What it
// imports of the product is only the types which that JSON stands for.
package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built is the command line that this test binary made, if a test asked for it.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs a suite and removes the program it built. Every suite says
//
//	func TestMain(m *testing.M) { rig.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// CLI returns the path of the fairlead program, which is built from this module's source when first asked for.
func CLI(t testing.TB) string {
	t.Helper()
	root := Root(t)
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "fl-cli"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.dir, "fairlead"), "./cmd/fairlead")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build ./cmd/fairlead: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "fairlead")
}

// Root returns the folder of this module's go.mod.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env GOMOD: %v", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		t.Fatalf("this test does not stand in a Go module: GOMOD is %q", mod)
	}
	return filepath.Dir(mod)
}

// Missing is for what a test needs and this machine lacks. On a developer's machine the test is skipped and says why; in
// CI, which promises to have it, that is a failure.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("with CI=true this may not be skipped: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Command runs a program in dir and returns its standard output; env stands before what the program inherits.
func Command(t testing.TB, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, exit.Stderr, out)
	}
	return string(out), err
}
