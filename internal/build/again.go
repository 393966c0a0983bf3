package build

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Tree is what a copy of the source left out.
type Tree struct {
	Clone   bool   // the copy is a clone of the commit; else it is the folder as it lies there
	Missing string // a file that the build could see in the first folder and git does not have, "" for none
}

// CopySource copies the module that dir stands in to a new folder, and returns the folder that dir became. A clean
// repository is cloned, so that what is not committed cannot help the second build; anything else is copied as it is.
func CopySource(ctx context.Context, dir, to string) (string, Tree, error) {
	top, clean := repositoryOf(ctx, dir)
	if top == "" || !clean {
		root := top
		if root == "" {
			root = ModuleOf(dir)
		}
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return "", Tree{}, err
		}
		return filepath.Join(to, rel), Tree{}, copyTree(root, to)
	}
	rel, err := filepath.Rel(top, dir)
	if err != nil {
		return "", Tree{}, err
	}
	cmd := exec.CommandContext(ctx, "git", "clone", "--quiet", "--no-hardlinks", top, to)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", Tree{}, fail.New(fail.Build, "clone "+top, "%w: %s", err, out)
	}
	out, err := gitIn(ctx, top, "ls-files", "--others", "--ignored", "--exclude-standard")
	if err != nil {
		return "", Tree{}, err
	}
	t := Tree{Clone: true}
	for line := range strings.Lines(out) {
		if f := strings.TrimSpace(line); strings.HasSuffix(f, ".go") || strings.Contains(f, "embed") || strings.Contains(f, "static/") || strings.Contains(f, "dist/") {
			t.Missing = f
			break
		}
	}
	return filepath.Join(to, rel), t, nil
}

func gitIn(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	b, err := cmd.Output()
	return strings.TrimSpace(string(b)), err
}

func repositoryOf(ctx context.Context, dir string) (top string, clean bool) {
	top, err := gitIn(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", false
	}
	if _, err := gitIn(ctx, dir, "rev-parse", "HEAD"); err != nil {
		return "", false
	}
	status, err := gitIn(ctx, dir, "status", "--porcelain")
	return top, err == nil && status == ""
}

// ModuleOf is the nearest folder above dir with a go.mod.
func ModuleOf(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, b, 0o644) //nolint:gosec // source code
		}
		return nil
	})
}

// differing lists settings of two programs that are not the same, as NAME: one, other.
func differing(a, b map[string]string) []string {
	var out []string
	for k := range a {
		if a[k] != b[k] {
			out = append(out, k+": "+a[k]+", "+or(b[k], "not set"))
		}
	}
	for k := range b {
		if _, both := a[k]; !both {
			out = append(out, k+": not set, "+b[k])
		}
	}
	slices.Sort(out)
	return out
}

func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}
