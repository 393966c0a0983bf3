// Package build makes a static, reproducible program out of a Go module, and looks at the result rather than trusting it.
package build

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Params say what to build.
type Params struct {
	Dir      string     // the service's folder, inside a Go module
	Build    spec.Build // of the spec
	Name     string     // the program's file name
	Platform string     // GOOS/GOARCH; "" for this machine's
	Cache    string     // folder for outputs; "" for the user's cache folder
	Go       string     // the go command; "" for the one on PATH
}

// Result is a built program on disk. The file stays in the cache and belongs to this package: copy or link it.
type Result struct {
	Artifact release.Artifact
	Path     string
}

// Run builds. A program that does not compile gives a [fail.Build] with the compiler's own lines, one that is not what was
// asked for a [fail.Build] that says what it is instead.
func Run(ctx context.Context, p Params, sink event.Sink) (Result, error) {
	if p.Go == "" {
		p.Go = "go"
	}
	goos, goarch := p.platform()
	main, err := Main(ctx, p)
	if err != nil {
		return Result{}, err
	}
	src := describe(ctx, p.Dir)
	out, unlock, err := p.output(main, goos, goarch)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	sink.Send(event.Event{Type: "build", Text: fmt.Sprintf("build %s for %s/%s", main.ImportPath, goos, goarch)})
	args := p.args(main, src, out)
	cmd := exec.CommandContext(ctx, p.Go, args...)
	cmd.Dir, cmd.Env = p.Dir, p.env()
	if err := compile(ctx, cmd, p.packages(ctx, main), main.ImportPath, sink); err != nil {
		return Result{}, err
	}
	info, err := Inspect(out)
	if err != nil {
		return Result{}, err
	}
	if err := info.verify(goos, goarch); err != nil {
		return Result{}, err
	}
	digest, size, err := digestFile(out)
	if err != nil {
		return Result{}, err
	}
	a := release.Artifact{Digest: digest, Size: size, Name: p.Name, Platform: goos + "/" + goarch, Version: src.version, Commit: src.commit,
		Modified: src.modified, Time: src.time, GoVersion: info.GoVersion, Main: main.ImportPath}
	sink.Send(event.Event{Type: "build", Text: fmt.Sprintf("built %s %s (%.1f MB, static, %s)", p.Name, a.Version, float64(size)/1e6, info.GoVersion), Data: a})
	return Result{Artifact: a, Path: out}, nil
}

// output is where the program goes: the same place for the same package, so that the go command sees when there is
// nothing to do. Two builds at once wait for each other.
func (p Params) output(main Package, goos, goarch string) (string, func(), error) {
	cache := p.Cache
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", nil, err
		}
		cache = filepath.Join(user, "fairlead", "build")
	}
	key := sha256.Sum256([]byte(main.Dir))
	dir := filepath.Join(cache, hex.EncodeToString(key[:8]), goos+"-"+goarch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	unlock, err := lockedfile.MutexAt(filepath.Join(dir, ".lock")).Lock()
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, p.Name), unlock, nil
}

func (p Params) args(main Package, src source, out string) []string {
	var ld []string
	if !p.Build.Debug {
		ld = append(ld, "-s", "-w")
	}
	for _, x := range versionVars(main, src) {
		ld = append(ld, "-X", quoteFlag(x))
	}
	ld = append(ld, p.Build.Ldflags...)
	args := []string{"build", "-v", "-trimpath", "-o", out}
	if len(ld) > 0 {
		args = append(args, "-ldflags="+strings.Join(ld, " "))
	}
	if src.vcs {
		args = append(args, "-buildvcs=true")
	} else {
		args = append(args, "-buildvcs=false")
	}
	if len(p.Build.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(p.Build.Tags, ","))
	}
	return append(append(args, p.Build.Flags...), main.ImportPath)
}

// quoteFlag protects a -X value with spaces from the go command's splitting.
func quoteFlag(s string) string {
	if strings.ContainsAny(s, " \t'\"") {
		return "'" + strings.ReplaceAll(s, "'", "") + "'"
	}
	return s
}

func (p Params) platform() (goos, goarch string) {
	if p.Platform == "" {
		return runtime.GOOS, runtime.GOARCH
	}
	goos, goarch, _ = strings.Cut(p.Platform, "/")
	return goos, goarch
}

// env is the environment of every go command: the packages are listed as they are for the platform that is built for.
func (p Params) env() []string {
	goos, goarch := p.platform()
	cgo := "0"
	if p.Build.Cgo {
		cgo = "1"
	}
	env := append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED="+cgo)
	keys := make([]string, 0, len(p.Build.Env))
	for k := range p.Build.Env {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		env = append(env, k+"="+p.Build.Env[k])
	}
	return env
}

// packages lists the import paths that the program is made of, to tell the compiler's progress from its complaints.
func (p Params) packages(ctx context.Context, main Package) map[string]bool {
	args := append([]string{"list", "-deps"}, p.listFlags()...)
	cmd := exec.CommandContext(ctx, p.Go, append(args, main.ImportPath)...)
	cmd.Dir, cmd.Env = p.Dir, p.env()
	b, err := cmd.Output()
	if err != nil {
		return nil // go build will say what is wrong
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		all[strings.TrimSpace(line)] = true
	}
	return all
}

func (p Params) listFlags() []string {
	var out []string
	if len(p.Build.Tags) > 0 {
		out = append(out, "-tags="+strings.Join(p.Build.Tags, ","))
	}
	for _, f := range p.Build.Flags {
		if strings.HasPrefix(f, "-mod=") || strings.HasPrefix(f, "-modfile=") {
			out = append(out, f)
		}
	}
	return out
}

// compile runs the go command. Its lines that only name a package are progress; the others are the compiler's own.
func compile(ctx context.Context, cmd *exec.Cmd, all map[string]bool, name string, sink event.Sink) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		return goError(ctx, cmd, err)
	}
	var lines []string
	done := int64(0)
	in := bufio.NewReader(stderr)
	for {
		line, err := in.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			if all[line] {
				done++
				sink.Send(event.Event{Type: "compile", Text: line, Done: done})
			} else {
				lines = append(lines, line)
			}
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := fail.New(fail.Build, "", "%s does not compile", name)
	e.Lines = append(lines, splitLines(stdout.String())...)
	e.Hint = buildHint(e.Lines)
	return e
}

// goError says why a go command could not do its work, where that is not for what it was given.
func goError(ctx context.Context, cmd *exec.Cmd, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fail.New(fail.Preflight, "", "there is no `%s` command on PATH", cmd.Args[0]).Hinted("install Go, or add its bin folder to PATH")
	}
	return err
}

func splitLines(text string) []string {
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// buildHint knows the complaints that have one answer.
func buildHint(lines []string) string {
	text := strings.Join(lines, "\n")
	switch {
	case strings.Contains(text, "build constraints exclude all Go files"):
		return "a package in the list has only cgo files; fairlead builds without cgo. Set `build: {cgo: true}` and link statically, or use a pure-Go package"
	case strings.Contains(text, "missing go.sum entry"), strings.Contains(text, "updates to go.mod needed"), strings.Contains(text, "no required module provides"):
		return "run `go mod tidy` in the module's folder"
	case strings.Contains(text, "no space left on device"):
		return "free some space, or point GOCACHE, GOTMPDIR and FAIRLEAD_DIR to a larger disk"
	case strings.Contains(text, "is not a main package"), strings.Contains(text, "go.mod file not found"):
		return "set build.main to a main package of this module"
	}
	return ""
}

func digestFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), n, err
}

// Package is a main package of a module.
type Package struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Module     *struct{ Path, Dir string }
}

// MainPackages lists the main packages below dir, in their import paths' order.
func MainPackages(ctx context.Context, p Params, pattern string) ([]Package, error) {
	if p.Go == "" {
		p.Go = "go"
	}
	cmd := exec.CommandContext(ctx, p.Go, append(append([]string{"list", "-e", "-json=ImportPath,Dir,Name,GoFiles,Module,Error"}, p.listFlags()...), pattern)...)
	cmd.Dir, cmd.Env = p.Dir, p.env()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if _, ran := errors.AsType[*exec.ExitError](err); err != nil && (!ran || ctx.Err() != nil) {
		return nil, goError(ctx, cmd, err)
	}
	if err != nil {
		lines := splitLines(stderr.String())
		return nil, fail.New(fail.Build, "", "the packages in %s cannot be listed: %w", p.Dir, err).WithLines(lines).Hinted("%s", buildHint(lines))
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

// Main returns the package to build: the spec's, or the only one there is.
func Main(ctx context.Context, p Params) (Package, error) {
	pattern := p.Build.Main
	if pattern == "" {
		pattern = "./..."
	} else if !strings.HasPrefix(pattern, ".") && !filepath.IsAbs(pattern) {
		if fi, err := os.Stat(filepath.Join(p.Dir, pattern)); err == nil && fi.IsDir() {
			pattern = "./" + pattern
		}
	}
	mains, err := MainPackages(ctx, p, pattern)
	if err != nil {
		return Package{}, err
	}
	switch {
	case len(mains) == 1:
		return mains[0], nil
	case len(mains) == 0 && p.Build.Main != "":
		return Package{}, fail.New(fail.Usage, "", "%s is not a main package", p.Build.Main).Hinted("set build.main to a folder whose Go files say `package main`")
	case len(mains) == 0:
		return Package{}, fail.New(fail.Usage, "", "there is no main package in %s", p.Dir).Hinted("a service needs a `package main`; `fairlead init --new NAME` makes one")
	}
	var names []string
	for _, m := range mains {
		if m.Dir == p.Dir && p.Build.Main == "" {
			return m, nil // the one that stands beside fairlead.yaml
		}
		rel, err := filepath.Rel(p.Dir, m.Dir)
		if err != nil {
			rel = m.Dir
		}
		names = append(names, "./"+filepath.ToSlash(rel))
	}
	return Package{}, fail.New(fail.Usage, "", "the module has %d main packages: %s", len(names), strings.Join(names, ", ")).
		Hinted("set `build: {main: %s}` in fairlead.yaml", names[0])
}
