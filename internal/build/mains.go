package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	gobuild "go/build"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// Package is a main package of a module.
type Package struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Module     *struct{ Path, Dir string } // only of [MainPackages]
}

// main is a package and the name its program gets.
type main struct {
	Package
	Program string
}

// mains are the service's own main package and the others that go with it, by name.
func (j *job) mains(ctx context.Context, pl platform.Platform) ([]main, error) {
	own, err := j.main(ctx, pl, j.Build.Main)
	if err != nil {
		return nil, err
	}
	out := []main{{own, j.Name}}
	names := make([]string, 0, len(j.Build.Programs))
	for name := range j.Build.Programs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		m, err := j.main(ctx, pl, j.Build.Programs[name])
		if err != nil {
			e := *fail.As(err)
			e.Op = "build.programs." + name
			return nil, &e
		}
		out = append(out, main{m, name})
	}
	return out, nil
}

// main returns the package that pattern names, or the only one there is.
func (j *job) main(ctx context.Context, pl platform.Platform, pattern string) (Package, error) {
	if m, ok := j.quickMain(pl, pattern); ok {
		return m, nil
	}
	given := pattern
	if pattern == "" {
		pattern = "./..."
	} else if !strings.HasPrefix(pattern, ".") && !filepath.IsAbs(pattern) {
		if fi, err := os.Stat(filepath.Join(j.Dir, pattern)); err == nil && fi.IsDir() {
			pattern = "./" + pattern
		}
	}
	mains, err := j.list(ctx, pl, pattern)
	if err != nil {
		return Package{}, err
	}
	switch {
	case len(mains) == 1:
		return mains[0], nil
	case len(mains) == 0 && given != "":
		return Package{}, fail.New(fail.Usage, "", "%s is not a main package", given).Hinted("set build.main to a folder whose Go files say `package main`")
	case len(mains) == 0:
		return Package{}, fail.New(fail.Usage, "", "there is no main package in %s", j.Dir).Hinted("a service needs a `package main`; `fairlead init --new NAME` makes one")
	}
	var names []string
	for _, m := range mains {
		if m.Dir == j.Dir && given == "" {
			return m, nil // the one that stands beside fairlead.yaml
		}
		rel, err := filepath.Rel(j.Dir, m.Dir)
		if err != nil {
			rel = m.Dir
		}
		names = append(names, "./"+filepath.ToSlash(rel))
	}
	return Package{}, fail.New(fail.Usage, "", "the module has %d main packages: %s", len(names), strings.Join(names, ", ")).
		Hinted("set `build: {main: %s}` in fairlead.yaml", names[0])
}

// Mains returns the import paths of the programs' main packages, the service's first.
func Mains(ctx context.Context, p Params) ([]string, error) {
	if p.Go == "" {
		p.Go = "go"
	}
	mains, err := (&job{Params: p}).mains(ctx, platform.Host())
	var out []string
	for _, m := range mains {
		out = append(out, m.ImportPath)
	}
	return out, err
}

// MainPackages lists the main packages that pattern names in dir, in their import paths' order.
func MainPackages(ctx context.Context, p Params, pattern string) ([]Package, error) {
	if p.Go == "" {
		p.Go = "go"
	}
	return (&job{Params: p}).list(ctx, platform.Host(), pattern)
}

// quickMain finds the main package by reading the source folder, in a few milliseconds where `go list` takes a hundred.
// It answers only what is certain; for everything else the go command is asked, which also words the error.
func (j *job) quickMain(pl platform.Platform, pattern string) (Package, bool) {
	cgo := j.Build.Cgo || j.Build.Race
	c := gobuild.Default
	c.GOOS, c.GOARCH, c.BuildTags, c.CgoEnabled, c.GOPATH = pl.OS, pl.Arch, j.Build.Tags, cgo, ""
	if os.Getenv("GO111MODULE") == "off" || strings.Contains(pattern, "...") {
		return Package{}, false
	}
	dir := j.Dir
	if pattern != "" {
		if dir = filepath.FromSlash(pattern); !filepath.IsAbs(dir) {
			dir = filepath.Join(j.Dir, dir)
		}
		return quickPackage(c, dir)
	}
	if m, ok := quickPackage(c, dir); ok {
		return m, true
	}
	var found []Package
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || p == dir {
			return err
		}
		if n := d.Name(); n == "vendor" || n == "testdata" || strings.HasPrefix(n, ".") || strings.HasPrefix(n, "_") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
			return filepath.SkipDir // another module
		}
		if m, ok := quickPackage(c, p); ok {
			if found = append(found, m); len(found) > 1 {
				return fs.SkipAll
			}
		}
		return nil
	})
	if err != nil || len(found) != 1 {
		return Package{}, false
	}
	return found[0], true
}

func quickPackage(c gobuild.Context, dir string) (Package, bool) {
	p, err := c.ImportDir(dir, 0)
	if err != nil || p.Name != "main" {
		return Package{}, false
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil {
			rel, err := filepath.Rel(d, dir)
			mod := modfile.ModulePath(b)
			if mod == "" || err != nil {
				return Package{}, false
			}
			return Package{ImportPath: path.Join(mod, filepath.ToSlash(rel)), Dir: dir, Name: p.Name, GoFiles: p.GoFiles}, true
		}
		if !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			return Package{}, false
		}
	}
}

// list asks the go command for the main packages.
func (j *job) list(ctx context.Context, pl platform.Platform, pattern string) ([]Package, error) {
	args := []string{"list", "-e", "-json=ImportPath,Dir,Name,GoFiles,Module,Error"}
	if len(j.Build.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(j.Build.Tags, ","))
	}
	for _, f := range j.Build.Flags {
		if strings.HasPrefix(f, "-mod=") || strings.HasPrefix(f, "-modfile=") {
			args = append(args, f)
		}
	}
	cmd := j.command(ctx, append(args, pattern), j.env(pl))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if _, ran := errors.AsType[*exec.ExitError](err); err != nil && (!ran || ctx.Err() != nil) {
		return nil, goError(ctx, cmd, err)
	}
	if err != nil {
		lines := splitLines(stderr.String())
		return nil, fail.New(fail.Build, "", "the packages in %s cannot be listed: %w", j.Dir, err).WithLines(lines).Hinted("%s", buildHint(lines))
	}
	var out []Package
	for dec := json.NewDecoder(bytes.NewReader(b)); ; {
		var pkg struct {
			Package
			Error *struct{ Err string }
		}
		if err := dec.Decode(&pkg); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			return nil, err
		}
		if pkg.Error != nil && pkg.Name == "" {
			return nil, fail.New(fail.Usage, "", "%s", strings.TrimSpace(pkg.Error.Err)).Hinted("set build.main to a main package, as ./cmd/shop")
		}
		if pkg.Name == "main" {
			out = append(out, pkg.Package)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ImportPath < out[j].ImportPath })
	return out, nil
}
