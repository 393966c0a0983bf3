package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// TestMain keeps the user's settings of Go and git out of the tests. The build cache stays: without it each build would
// compile the runtime.
func TestMain(m *testing.M) {
	for k, v := range map[string]string{"GOFLAGS": "", "GOWORK": "off", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GIT_CONFIG_GLOBAL": os.DevNull,
		"GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_DATE": "2026-01-31T12:00:00Z", "GIT_COMMITTER_DATE": "2026-01-31T12:00:00Z",
		"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.com", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.com"} {
		if err := os.Setenv(k, v); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

const goMod = "module example.com/shop\n\ngo 1.24\n"

// small is a program that needs only the runtime, so that building it takes little time.
const small = "package main\n\nvar version, commit string\n\nfunc main() { println(version, commit) }\n"

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func module(t *testing.T, files map[string]string) Params {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"go.mod": goMod})
	write(t, dir, files)
	return Params{Dir: dir, Name: "shop", Cache: t.TempDir()}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v\n%s", args, err, out)
	}
}

func repository(t *testing.T, dir string) {
	t.Helper()
	git(t, dir, "init", "-q", "-b", "main")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "one")
	git(t, dir, "tag", "v1.2.3")
}

// result is what a build of one program for one platform came to.
type result struct {
	Program
	Source
}

func run(t *testing.T, p Params) result {
	t.Helper()
	out, err := Run(t.Context(), p, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(fail.As(err).Lines, "\n"))
	}
	defer out.Close()
	return result{out.Builds[0].Programs[0], out.Source}
}

// refused builds what must not build, and returns the error's parts.
func refused(t *testing.T, p Params, kind fail.Kind) *fail.Error {
	t.Helper()
	r, err := Run(t.Context(), p, nil)
	if fail.KindOf(err) != kind {
		t.Fatalf("%v (%+v), want a failure of kind %s", err, r, kind)
	}
	return fail.As(err)
}

func contains(t *testing.T, have string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(have, w) {
			t.Errorf("%q does not say %q", have, w)
		}
	}
}

func TestBuild(t *testing.T) {
	p := module(t, map[string]string{"main.go": small, "lib/lib.go": "package lib\n"})
	var events []event.Event
	o, err := Run(t.Context(), p, func(e event.Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	r := o.Builds[0].Programs[0]
	out, err := exec.CommandContext(t.Context(), r.Path).CombinedOutput()
	if err != nil || string(out) != " \n" {
		t.Errorf("it prints %q: %v", out, err)
	}
	fi, err := os.Stat(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := Program{Digest: r.Digest, Size: fi.Size(), Name: "shop", Path: r.Path, BuildID: r.BuildID, GoVersion: runtime.Version(), Main: "example.com/shop"}
	if r != want || !strings.HasPrefix(r.Digest, "blake2b:") || len(r.Digest) != 8+128 || r.BuildID == "" {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
	if o.Source != (Source{Version: "v0.0.0-unknown"}) || o.GoVersion != runtime.Version() || o.Builds[0].Platform != platform.Host() {
		t.Errorf("%+v", o)
	}
	last := events[len(events)-1]
	if events[0].Text != "build example.com/shop for "+platform.Host().String() || last.Type != "build" || last.Time.IsZero() {
		t.Errorf("%+v", events)
	}
	contains(t, last.Text, "built shop v0.0.0-unknown", "go1.")
	if again := run(t, p); again.Program != r {
		t.Errorf("%+v the second time", again)
	}
}

func TestProgressNamesPackages(t *testing.T) {
	p := module(t, map[string]string{
		"main.go": "package main\n\nimport \"example.com/shop/lib\"\n\nfunc main() { lib.F() }\n",
		// A text of its own, or the build cache has the package from the last run and there is nothing to tell.
		"lib/lib.go": fmt.Sprintf("package lib\n\nfunc F() { println(%q) }\n", t.TempDir()),
	})
	var got []string
	o, err := Run(t.Context(), p, func(e event.Event) {
		if e.Type == "compile" {
			got = append(got, fmt.Sprint(e.Done, " ", e.Text))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	if want := []string{"1 example.com/shop/lib", "2 example.com/shop"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

func TestDoesNotCompile(t *testing.T) {
	p := module(t, map[string]string{"main.go": "package main\n\nfunc main() {\n\tx := 1\n\tundefined()\n}\n"})
	e := refused(t, p, fail.Build)
	contains(t, e.Error(), "example.com/shop does not compile")
	contains(t, strings.Join(e.Lines, "\n"), "main.go:4:2: declared and not used: x", "main.go:5:2: undefined: undefined")
	for _, l := range e.Lines {
		if l == "" {
			t.Errorf("an empty line among %q", e.Lines)
		}
	}
}

func TestSourceThatCannotBeBuilt(t *testing.T) {
	for _, c := range []struct {
		name       string
		files      map[string]string
		build      spec.Build
		kind       fail.Kind
		text, hint string
	}{
		{"no main", map[string]string{"lib.go": "package lib\n"}, spec.Build{}, fail.Usage, "no main package", "package main"},
		{"no Go files", nil, spec.Build{}, fail.Usage, "no main package", "package main"},
		{"several mains", map[string]string{"cmd/a/a.go": small, "cmd/b/b.go": small}, spec.Build{}, fail.Usage,
			"2 main packages: ./cmd/a, ./cmd/b", "build: {main: ./cmd/a}"},
		{"not a main", map[string]string{"lib/lib.go": "package lib\n", "main.go": small}, spec.Build{Main: "./lib"}, fail.Usage, "./lib is not a main package", "build.main"},
		{"no such folder", map[string]string{"main.go": small}, spec.Build{Main: "./nope"}, fail.Usage, "nope", "build.main"},
		{"no such package", map[string]string{"main.go": small}, spec.Build{Main: "nope"}, fail.Usage, "nope", "build.main"},
		{"a missing module", map[string]string{"main.go": "package main\n\nimport _ \"example.com/other\"\n\nfunc main() {}\n"}, spec.Build{}, fail.Build, "does not compile", "go mod tidy"},
		{"a broken go.mod", map[string]string{"main.go": small, "go.mod": "modul x\n"}, spec.Build{}, fail.Build, "cannot be listed", ""},
		{"syntax", map[string]string{"main.go": "package main\n\nfunc main() {\n"}, spec.Build{}, fail.Build, "does not compile", ""},
		{"only cgo", map[string]string{"main.go": "package main\n\nimport _ \"example.com/shop/c\"\n\nfunc main() {}\n", "c/c.go": "package c\n\nimport \"C\"\n"},
			spec.Build{}, fail.Build, "does not compile", "only cgo files"},
		{"another platform from outside", map[string]string{"main.go": small}, spec.Build{Env: map[string]string{"GOARCH": "arm"}}, fail.Build, "the result is for", "build.env"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := module(t, c.files)
			p.Build = c.build
			e := refused(t, p, c.kind)
			contains(t, e.Error(), c.text)
			contains(t, e.Hint, c.hint)
		})
	}
}

func TestNoGoCommand(t *testing.T) {
	p := module(t, map[string]string{"main.go": small})
	p.Go = "no-such-go"
	e := refused(t, p, fail.Preflight)
	contains(t, e.Error(), "there is no `no-such-go` command")
	contains(t, e.Hint, "PATH")
}

func TestWhichMain(t *testing.T) {
	p := module(t, map[string]string{"main.go": small, "cmd/tool/tool.go": small, "pkg/lib.go": "package pkg\n"})
	for main, want := range map[string]string{"": "example.com/shop", ".": "example.com/shop", "./cmd/tool": "example.com/shop/cmd/tool",
		"cmd/tool": "example.com/shop/cmd/tool", "example.com/shop/cmd/tool": "example.com/shop/cmd/tool", "./cmd/...": "example.com/shop/cmd/tool",
		filepath.Join(p.Dir, "cmd", "tool"): "example.com/shop/cmd/tool"} {
		j := &job{Params: p}
		j.Go = "go"
		if got, err := j.main(t.Context(), platform.Host(), main); err != nil || got.ImportPath != want {
			t.Errorf("%q: %s (%v), want %s", main, got.ImportPath, err, want)
		}
	}
}

func TestReplacedModule(t *testing.T) {
	p := module(t, map[string]string{
		"go.mod":                 goMod + "\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ./third_party/lib\n",
		"main.go":                "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Name) }\n",
		"third_party/lib/go.mod": "module example.com/lib\n\ngo 1.24\n",
		"third_party/lib/lib.go": "package lib\n\nconst Name = \"replaced\"\n",
	})
	out, err := exec.CommandContext(t.Context(), run(t, p).Path).CombinedOutput()
	if err != nil || string(out) != "replaced\n" {
		t.Errorf("%q %v", out, err)
	}
}

func TestTagsLdflagsAndDebug(t *testing.T) {
	p := module(t, map[string]string{
		"main.go":  "package main\n\nvar mode, note = \"plain\", \"none\"\n\nfunc main() { println(mode, note) }\n",
		"extra.go": "//go:build extra\n\npackage main\n\nfunc init() { mode = \"extra\" }\n",
	})
	stripped := run(t, p)
	p.Build = spec.Build{Tags: []string{"extra", "netgo"}, Ldflags: []string{"-X 'main.note=two words'"}, Debug: true}
	r := run(t, p)
	out, err := exec.CommandContext(t.Context(), r.Path).CombinedOutput()
	if err != nil || string(out) != "extra two words\n" {
		t.Errorf("%q %v", out, err)
	}
	if r.Size <= stripped.Size {
		t.Errorf("with symbols %d bytes, without %d", r.Size, stripped.Size)
	}
}

func TestInterrupted(t *testing.T) {
	p := module(t, map[string]string{"main.go": small})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := fail.New(fail.Interrupted, "", "Ctrl-C")
	_, err := Run(ctx, p, func(event.Event) { cancel(stop) })
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// What a user happens to have set for one architecture does not change what is built.
func TestLevelsOfTheShellDoNotCount(t *testing.T) {
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GOARM", "5")
	for _, v := range environ() {
		if strings.HasPrefix(v, "GOAMD64=") || strings.HasPrefix(v, "GOARM=") {
			t.Errorf("%s reaches the go command", v)
		}
	}
}
