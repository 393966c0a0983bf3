package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Tool returns the path of a program, and installs its Debian package first where it is not there. Without it the test is
// [Missing].
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if err := Install(t, pkg); err != nil {
		Missing(t, "no %s, and its package cannot be installed: %v", name, err)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s was installed: %v", pkg, err)
	}
	return path
}

// Install installs a Debian package; a second time with fresh lists, as those of an image are out of date or not there at
// all.
func Install(t testing.TB, pkg string) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return fmt.Errorf("apt-get install %s needs root", pkg)
	}
	_, err := apt(t, nil, "install", "-y", "--no-install-recommends", pkg)
	if err == nil {
		return nil
	}
	if _, err := apt(t, nil, "update"); err != nil {
		return err
	}
	if _, err = apt(t, nil, "install", "-y", "--no-install-recommends", pkg); err == nil {
		return nil
	}
	return errors.Join(err, backport(t, pkg))
}

// backport takes a package from the backports of the release that runs here: Debian 12 has UPX nowhere else. The lists are
// the test's own, for the machine's sources are not ours to change.
func backport(t testing.TB, pkg string) error {
	t.Helper()
	known, err := apt(t, nil, "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages")
	if err != nil {
		return err
	}
	var mirror, codename string
	for line := range strings.Lines(known) {
		if m, c, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.Contains(c, "-") { // not -security, not -updates
			mirror, codename = m, c
		}
	}
	if mirror == "" {
		return errors.New("apt-get knows no mirror")
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755); err != nil {
		return err
	}
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s-backports main\n", mirror, codename)
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(source), 0o644); err != nil {
		return err
	}
	options := []string{"-o", "Dir::Etc::sourcelist=" + dir + "/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::lists=" + dir + "/lists"}
	if _, err := apt(t, options, "update"); err != nil {
		return err
	}
	_, err = apt(t, options, "install", "-y", "--no-install-recommends", pkg)
	return err
}

func apt(t testing.TB, options []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append(append([]string{"-o", "DPkg::Lock::Timeout=60"}, options...), args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// GoTool installs a Go program, package@version, once for all runs, and returns its path. Without it the test is [Missing].
func GoTool(t testing.TB, pkg string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path, version, _ := strings.Cut(pkg, "@")
	name := filepath.Base(path)
	if major, _, _ := strings.Cut(version, "."); name == major {
		name = filepath.Base(filepath.Dir(path)) // a module's root, whose path ends in its major version
	}
	bin := filepath.Join(cache, "fairlead", "test", "tools", name+"-"+version)
	tool := filepath.Join(bin, name)
	if _, err := os.Stat(tool); err == nil {
		return tool
	}
	if out, err := Command(t, "", []string{"GOBIN=" + bin}, "go", "install", pkg); err != nil {
		Missing(t, "go install %s: %v\n%s", pkg, err, out)
	}
	return tool
}
