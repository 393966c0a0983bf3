//go:build linux

package inspect_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// tool returns the path of a program, and installs its Debian package first where it is not there.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if err := install(t, pkg); err != nil {
		rig.Missing(t, "no %s, and its package cannot be installed: %v", name, err)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s was installed: %v", pkg, err)
	}
	return path
}

// install runs apt-get; a second time with fresh lists, as those of an image are out of date or not there at all.
func install(t *testing.T, pkg string) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return fmt.Errorf("apt-get install %s needs root", pkg)
	}
	err := apt(t, nil, "install", "-y", "--no-install-recommends", pkg)
	if err == nil {
		return nil
	}
	if err := apt(t, nil, "update"); err != nil {
		return err
	}
	if err = apt(t, nil, "install", "-y", "--no-install-recommends", pkg); err == nil {
		return nil
	}
	return backport(t, pkg, err)
}

// backport takes a package from Debian's backports, with lists of its own: Debian 12 has UPX nowhere else, and the
// machine's own sources are not ours to change.
func backport(t *testing.T, pkg string, why error) error {
	t.Helper()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return why
	}
	_, rest, ok := strings.Cut(string(release), "VERSION_CODENAME=")
	codename, _, _ := strings.Cut(rest, "\n")
	if !ok || codename == "" {
		return why
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "lists/partial"), 0o755); err != nil {
		return err
	}
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s-backports main\n", codename)
	write(t, filepath.Join(dir, "sources.list"), source)
	options := []string{"-o", "Dir::Etc::sourcelist=" + dir + "/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::lists=" + dir + "/lists"}
	if err := apt(t, options, "update"); err != nil {
		return err
	}
	return apt(t, options, "install", "-y", "--no-install-recommends", pkg)
}

func apt(t *testing.T, options []string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append(append([]string{"-o", "DPkg::Lock::Timeout=60"}, options...), args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

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
