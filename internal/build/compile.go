package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// args are the go command's, behind `build -o FILE`.
func (j *job) args(m main, pl platform.Platform) []string {
	var ld []string
	if !j.Build.Debug {
		ld = append(ld, "-s", "-w")
	}
	for _, x := range versionVars(m.Package, j.source) {
		ld = append(ld, "-X", quoteFlag(x))
	}
	ld = append(ld, j.Build.Ldflags...)
	args := []string{"-trimpath"}
	if len(ld) > 0 {
		args = append(args, "-ldflags="+strings.Join(ld, " "))
	}
	if j.source.VCS {
		args = append(args, "-buildvcs=true")
	} else {
		args = append(args, "-buildvcs=false")
	}
	if len(j.Build.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(j.Build.Tags, ","))
	}
	if j.Build.PGO != "" {
		args = append(args, "-pgo="+j.profile())
	}
	if j.Build.Race && pl == platform.Host() {
		args = append(args, "-race")
	}
	return append(append(args, j.Build.Flags...), m.ImportPath)
}

// profile is the path of build.pgo; "off" and "auto" are the go command's own words.
func (j *job) profile() string {
	if p := j.Build.PGO; p == "off" || p == "auto" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(j.Dir, filepath.FromSlash(j.Build.PGO))
}

// quoteFlag protects a -X value with spaces from the go command's splitting.
func quoteFlag(s string) string {
	if strings.ContainsAny(s, " \t'\"") {
		return "'" + strings.ReplaceAll(s, "'", "") + "'"
	}
	return s
}

// env is what every go command gets beside the user's environment: the packages are listed as they are for the platform
// that is built for.
func (j *job) env(pl platform.Platform) []string {
	cgo := "0"
	if j.Build.Cgo || j.Build.Race {
		cgo = "1"
	}
	env := append(pl.Env(), "CGO_ENABLED="+cgo)
	if j.Fresh != "" {
		env = append(env, "GOCACHE="+j.Fresh)
	}
	keys := make([]string, 0, len(j.Build.Env))
	for k := range j.Build.Env {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		env = append(env, k+"="+j.Build.Env[k])
	}
	return env
}

// environ is our own environment without the levels of architectures: they belong into build.platforms, or the same source
// would give another program to each user.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return platform.IsLevel(name)
	})
}

func (j *job) command(ctx context.Context, args, env []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, j.Go, args...)
	cmd.Dir, cmd.Env = j.Dir, append(environ(), env...)
	return cmd
}

// packageLine is a line of `go build -v` that names what was compiled. What the compiler and the linker complain about has
// a space or a colon in it.
var packageLine = regexp.MustCompile(`^[A-Za-z0-9_.~+@!/-]+$`)

// compile runs the go command. Its lines that only name a package are progress; the others are the compiler's own.
func (j *job) compile(ctx context.Context, args, env []string, name string) error {
	cmd := j.command(ctx, args, env)
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
		if line = strings.TrimRight(line, "\r\n"); packageLine.MatchString(line) {
			done++
			j.sink.Send(event.Event{Type: "compile", Text: line, Done: done})
		} else if line != "" {
			lines = append(lines, line)
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
	case strings.Contains(text, "inconsistent vendoring"):
		return "run `go mod vendor` in the module's folder"
	case strings.Contains(text, "no space left on device"):
		return "free some space, or point GOCACHE, GOTMPDIR and FAIRLEAD_DIR to a larger disk"
	case strings.Contains(text, "is not a main package"), strings.Contains(text, "go.mod file not found"):
		return "set build.main to a main package of this module"
	case strings.Contains(text, "unsupported GOOS/GOARCH pair"):
		return "`go tool dist list` prints the platforms this Go builds for"
	case strings.Contains(text, "preprofile") || strings.Contains(text, "pprof"):
		return "build.pgo must be a CPU profile in pprof's format"
	}
	return ""
}
