package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// Tree is how a copy of the source was made, and what it left out.
type Tree struct {
	Clone   bool     // the copy is a clone of the commit; else it is the folder as it lies there
	Unknown []string // files that the build of the first folder reads and git does not have, as paths from the repository's top
}

// CopySource copies what p is built from to a new folder, and returns the folder that p.Dir became. A clean repository is
// cloned, so that what is not committed cannot help the second build; anything else is copied as it is.
func CopySource(ctx context.Context, p Params, to string) (string, Tree, error) {
	top, clean := repositoryOf(ctx, p.Dir)
	root := Context(ctx, p.Dir)
	rel, err := Inside(root, p.Dir)
	if err != nil {
		return "", Tree{}, err
	}
	rel = filepath.FromSlash(rel)
	if top == "" || !clean {
		return filepath.Join(to, rel), Tree{}, copyTree(root, to)
	}
	cmd := exec.CommandContext(ctx, "git", "clone", "--quiet", "--no-hardlinks", top, to)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", Tree{}, fail.New(fail.Build, "clone "+top, "%w: %s", err, out)
	}
	unknown, err := unknownTo(ctx, p, top)
	return filepath.Join(to, rel), Tree{Clone: true, Unknown: unknown}, err
}

// Context is the folder that has everything a build in dir may read of its own: the repository, or the workspace or module
// where there is none.
func Context(ctx context.Context, dir string) string {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved // as git tells it
	}
	if top, _ := repositoryOf(ctx, dir); top != "" {
		return top
	}
	if w := above(dir, "go.work"); w != "" {
		return w
	}
	if m := above(dir, "go.mod"); m != "" {
		return m
	}
	return dir
}

// Inside is dir as a slash-separated path below a folder that [Context] returned.
func Inside(root, dir string) (string, error) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	rel, err := filepath.Rel(root, dir)
	return filepath.ToSlash(rel), err
}

// above is dir or the nearest folder over it that has a file of that name; "" for none.
func above(dir, name string) string {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return ""
		}
	}
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
	return filepath.FromSlash(top), err == nil && status == ""
}

// unknownTo lists what the go command reads below top and git has not: ignored files, since the tree is clean. They are
// what a build works with in one folder and lacks, or has otherwise, in the next.
func unknownTo(ctx context.Context, p Params, top string) ([]string, error) {
	tracked, err := gitIn(ctx, top, "ls-files", "-z")
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, f := range strings.Split(tracked, "\x00") {
		has[f] = true
	}
	read, err := (&job{Params: p.defaults()}).reads(ctx)
	if err != nil {
		return nil, nil //nolint:nilerr // the first build was made; what it read is a hint, not what was asked for
	}
	var out []string
	for _, f := range read {
		if resolved, err := filepath.EvalSymlinks(f); err == nil {
			f = resolved
		}
		rel, err := filepath.Rel(top, f)
		if err == nil && filepath.IsLocal(rel) && !has[filepath.ToSlash(rel)] {
			out = append(out, filepath.ToSlash(rel))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (p Params) defaults() Params {
	if p.Go == "" {
		p.Go = "go"
	}
	if len(p.Platforms) == 0 {
		p.Platforms = []platform.Platform{platform.Host()}
	}
	return p
}

// reads lists the files of a build for the first platform that are not the toolchain's.
func (j *job) reads(ctx context.Context) ([]string, error) {
	pl := j.Platforms[0]
	mains, err := j.mains(ctx, pl)
	if err != nil {
		return nil, err
	}
	args := []string{"list", "-deps", "-json=Dir,Standard,GoFiles,CgoFiles,CFiles,CXXFiles,HFiles,SFiles,SysoFiles,EmbedFiles", "-tags=" + strings.Join(j.Build.Tags, ",")}
	for _, m := range mains {
		args = append(args, m.ImportPath)
	}
	b, err := j.command(ctx, args, j.env(pl)).Output()
	if err != nil {
		return nil, err
	}
	var out []string
	for dec := json.NewDecoder(bytes.NewReader(b)); ; {
		var pkg struct {
			Dir                                                                        string
			Standard                                                                   bool
			GoFiles, CgoFiles, CFiles, CXXFiles, HFiles, SFiles, SysoFiles, EmbedFiles []string
		}
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if pkg.Standard {
			continue
		}
		for _, f := range slices.Concat(pkg.GoFiles, pkg.CgoFiles, pkg.CFiles, pkg.CXXFiles, pkg.HFiles, pkg.SFiles, pkg.SysoFiles, pkg.EmbedFiles) {
			out = append(out, filepath.Join(pkg.Dir, f))
		}
	}
	b, err = j.command(ctx, []string{"env", "GOMOD", "GOWORK"}, j.env(pl)).Output()
	for line := range strings.Lines(string(b)) {
		if f := strings.TrimSpace(line); filepath.IsAbs(f) && f != os.DevNull {
			out = append(out, f)
		}
	}
	return out, err
}

// copyTree copies a folder with its files' modes, or git would see that they changed. What is neither file, folder nor
// symbolic link is left out.
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
			fi, err := d.Info()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, b, fi.Mode().Perm()|0o600)
		}
		return nil
	})
}

// The words that [Commands] has in place of what version control says, which is not known before the build.
const (
	TheVersion = "@VERSION@"
	TheCommit  = "@COMMIT@"
	TheDate    = "0001-01-01T00:00:00Z" // the form in which the commit's time stands in a program
)

// Command is a go command that makes one program.
type Command struct {
	Name string   // the program's file name
	Args []string // behind `go build -o FILE`; the last is the package
	Env  []string // beside the user's own
}

// Commands are what Run would do for one platform, for any commit of the same source: where it would tell a program what
// version control says, they have [TheVersion], [TheCommit] and [TheDate]. A profile is named relative to p.Dir. The errors
// are those of Run before it compiles anything, and a [fail.Usage] for a profile that lies outside of root.
func Commands(ctx context.Context, p Params, root string) ([]Command, error) {
	p = p.defaults()
	vcs := Describe(ctx, p.Dir).VCS
	j := &job{Params: p, source: Source{VCS: vcs, Version: TheVersion, Commit: TheCommit, Time: time.Time{}}}
	pl := p.Platforms[0]
	mains, err := j.mains(ctx, pl)
	if err != nil {
		return nil, err
	}
	var out []Command
	for _, m := range mains {
		c := Command{Name: j.programName(m, pl), Args: j.args(m, pl), Env: j.env(pl)}
		for i, a := range c.Args {
			path, ok := strings.CutPrefix(a, "-pgo=")
			if !ok || !filepath.IsAbs(path) {
				continue
			}
			inside, err := Inside(root, path)
			if err != nil || !filepath.IsLocal(filepath.FromSlash(inside)) {
				return nil, fail.New(fail.Usage, "build.pgo", "%s is not in %s", path, root).Hinted("put the profile beside the main package")
			}
			rel, err := filepath.Rel(p.Dir, path)
			if err != nil {
				return nil, err
			}
			c.Args[i] = "-pgo=" + filepath.ToSlash(rel)
		}
		out = append(out, c)
	}
	return out, nil
}
