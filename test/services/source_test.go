package services_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// newTree makes an empty git repository for a service's source.
func newTree(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		rig.Missing(t, "no git: %v", err)
	}
	tree := t.TempDir()
	git(t, tree, "init", "--quiet")
	return tree
}

// commit records the tree as it is, tagged with a version.
func commit(t *testing.T, tree, version string) {
	t.Helper()
	git(t, tree, "add", "--all", "--force")
	git(t, tree, "commit", "--quiet", "--allow-empty", "--message", version)
	git(t, tree, "tag", "--force", version)
}

// git runs without the user's own configuration: it may sign commits, or run hooks.
func git(t *testing.T, tree string, args ...string) {
	t.Helper()
	env := []string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@example.com", "GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@example.com"}
	if _, err := rig.Command(t, tree, env, "git", args...); err != nil {
		t.Fatal(err)
	}
}

// checkout puts a published version of a module into tree, and fetches what its package main is made of.
func checkout(t *testing.T, tree, module, version, main string) {
	t.Helper()
	out := fetched(t, t.TempDir(), "mod", "download", "-json", module+"@"+version)
	var got struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	replace(t, tree, got.Dir)
	fetched(t, tree, "list", "-deps", main)
	commit(t, tree, version)
}

// fetched runs a go command that may need the network.
func fetched(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := rig.Command(t, dir, []string{"GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=0"}, "go", args...)
	if err != nil {
		rig.Missing(t, "source or dependencies cannot be fetched: %v", err)
	}
	return out
}

// replace makes tree hold what from holds, and keeps tree's git.
func replace(t *testing.T, tree, from string) {
	t.Helper()
	old, err := os.ReadDir(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range old {
		if e.Name() == ".git" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(tree, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	// CopyFS makes folders writable, but files only as writable as those of the module cache, which are not at all. The go
	// command must write these two.
	if err := os.CopyFS(tree, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := os.Chmod(filepath.Join(tree, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// adopt lets fairlead write its file, and returns it.
func adopt(t *testing.T, m *rig.Machine, tree string) string {
	t.Helper()
	if stdout, stderr, code := m.Run(t, "init", tree); code != 0 {
		t.Fatalf("fairlead init: exit code %d\n%s%s", code, stdout, stderr)
	}
	b, err := os.ReadFile(filepath.Join(tree, "fairlead.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
