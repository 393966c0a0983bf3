package build

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/inspect"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// TestSameBytesAnywhere builds two clones of a repository in different folders, with different caches and a different day.
func TestSameBytesAnywhere(t *testing.T) {
	p := module(t, map[string]string{"cmd/shop/main.go": small, "README": "x\n"})
	repository(t, p.Dir)
	one := run(t, p)
	other := Params{Dir: filepath.Join(t.TempDir(), "a longer folder"), Name: "shop", Cache: t.TempDir()}
	git(t, p.Dir, "clone", "-q", p.Dir, other.Dir)
	late := time.Now().Add(48 * time.Hour)
	if err := os.Chtimes(filepath.Join(other.Dir, "cmd", "shop", "main.go"), late, late); err != nil {
		t.Fatal(err)
	}
	two := run(t, other)
	if one.Digest != two.Digest || one.Source != two.Source {
		t.Errorf("%+v\n%+v", one, two)
	}
	a := one.Source
	if a.Version != "v1.2.3" || a.Modified || len(a.Commit) != 40 || !a.Time.Equal(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", a)
	}
	out, err := exec.CommandContext(t.Context(), one.Path).CombinedOutput()
	if err != nil || string(out) != "v1.2.3 "+a.Commit+"\n" {
		t.Errorf("it prints %q: %v", out, err)
	}
	bi, err := buildinfo.ReadFile(one.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range bi.Settings {
		if strings.Contains(s.Value, p.Dir) {
			t.Errorf("%s=%s names the folder it was built in", s.Key, s.Value)
		}
	}
}

func TestDirtyTree(t *testing.T) {
	p := module(t, map[string]string{"main.go": small, ".gitignore": "*.ignored\n"})
	repository(t, p.Dir)
	clean := run(t, p).Source
	write(t, p.Dir, map[string]string{"x.ignored": ""})
	if a := run(t, p).Source; a != clean {
		t.Errorf("an ignored file makes it %+v", a)
	}
	write(t, p.Dir, map[string]string{"new.txt": ""})
	untracked := run(t, p).Source
	write(t, p.Dir, map[string]string{"main.go": small + "\n// changed\n"})
	changed := run(t, p).Source
	for _, a := range []struct {
		version  string
		modified bool
	}{{untracked.Version, untracked.Modified}, {changed.Version, changed.Modified}} {
		if a.version != "v1.2.3-dirty" || !a.modified {
			t.Errorf("%+v", a)
		}
	}
	git(t, p.Dir, "add", ".")
	git(t, p.Dir, "commit", "-q", "-m", "two")
	if a := run(t, p).Source; a.Modified || !strings.HasPrefix(a.Version, "v1.2.3-1-g") || a.Commit == clean.Commit {
		t.Errorf("%+v", a)
	}
}

// TestRepositoryWithoutCommits is a service just begun.
func TestRepositoryWithoutCommits(t *testing.T) {
	p := module(t, map[string]string{"main.go": small})
	git(t, p.Dir, "init", "-q")
	if a := run(t, p).Source; a.Version != "v0.0.0-unknown" || a.Commit != "" {
		t.Errorf("%+v", a)
	}
}

func TestVersionVars(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a.go": `package main

var version, other string = "dev", "x"
var Commit string
var (
	Date = ` + "`now`" + `
	buildTime, BuildDate = "a", "b"
)
`,
		"b.go": `package main

type text string

const revision = "const"

var gitCommit text
var GitCommit = commitOf()
var Revision int
var REVISION = name

func commitOf() string { var version string; return version }
`,
		"broken.go": "package main\n\nvar (",
	})
	s := Source{VCS: true, Version: "v1 'x", Commit: "abc", Time: time.Unix(0, 0).UTC()}
	got := versionVars(Package{Dir: dir, GoFiles: []string{"a.go", "b.go", "broken.go", "gone.go"}}, s)
	const date = "1970-01-01T00:00:00Z"
	want := []string{"main.version=v1 'x", "main.Commit=abc", "main.Date=" + date, "main.buildTime=" + date, "main.BuildDate=" + date}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	if got := versionVars(Package{Dir: dir, GoFiles: []string{"a.go"}}, Source{Version: "v0.0.0-unknown"}); got != nil {
		t.Errorf("%q outside version control", got)
	}
	if got := quoteFlag(want[0]); got != "'main.version=v1 x'" {
		t.Errorf("%q", got)
	}
}

func TestOtherPlatforms(t *testing.T) {
	p := module(t, map[string]string{
		"main.go":       "package main\n\nfunc main() { println(name) }\n",
		"linux.go":      "//go:build linux\n\npackage main\n\nconst name = \"linux\"\n",
		"only_arm64.go": "package main\n\nvar version string\n\nfunc init() { println(version) }\n",
		"windows.go":    "//go:build windows\n\npackage main\n\nconst name = \"windows\"\n",
	})
	repository(t, p.Dir)
	for _, pl := range []platform.Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}} {
		p.Platforms = []platform.Platform{pl}
		r := run(t, p)
		info, err := inspect.File(r.Path, inspect.Options{FileOnly: true})
		if err != nil || info.OS != pl.OS || info.Arch != pl.Arch || !info.Static() {
			t.Errorf("%s: %+v %v", pl, info, err)
		}
		j := &job{Params: p}
		main, err := j.main(t.Context(), pl, "")
		if has := slices.Contains(main.GoFiles, "only_arm64.go"); err != nil || has != (pl.Arch == "arm64") {
			t.Errorf("%s: listed for another platform: %s (%v)", pl, main.GoFiles, err)
		}
	}
	write(t, p.Dir, map[string]string{"linux.go": "//go:build linux && !arm64\n\npackage main\n\nconst name = \"linux\"\n"})
	p.Platforms = []platform.Platform{{OS: "linux", Arch: "arm64"}}
	contains(t, strings.Join(refused(t, p, fail.Build).Lines, "\n"), "undefined: name")
}

func TestDynamicIsRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has static programs")
	}
	p := module(t, map[string]string{"main.go": small})
	p.Build = spec.Build{Flags: []string{"-buildmode=pie"}}
	e := refused(t, p, fail.Build)
	contains(t, e.Error(), "not static", "loader")
	contains(t, e.Hint, "-buildmode=pie")

	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("cgo needs a C compiler")
	}
	p = module(t, map[string]string{"main.go": "package main\n\n// int one(void) { return 1; }\nimport \"C\"\n\nfunc main() { println(C.one()) }\n"})
	p.Build = spec.Build{Cgo: true}
	e = refused(t, p, fail.Build)
	contains(t, e.Error(), "not static", "libc.so")
	contains(t, e.Hint, "-extldflags=-static")
	p.Build.Ldflags = []string{"-linkmode=external", "-extldflags=-static"}
	out, err := exec.CommandContext(t.Context(), run(t, p).Path).CombinedOutput()
	if err != nil || string(out) != "1\n" {
		t.Errorf("%q %v", out, err)
	}
}

// TestTwoBuildsAtOnce holds that builds of one package wait for each other and of two do not mix.
func TestTwoBuildsAtOnce(t *testing.T) {
	p := module(t, map[string]string{"a/a.go": "package main\n\nfunc main() { println(\"a\") }\n", "b/b.go": "package main\n\nfunc main() { println(\"b\") }\n"})
	for _, main := range []string{"a", "b", "a", "b"} {
		t.Run(main, func(t *testing.T) {
			t.Parallel()
			p := p
			p.Build.Main = "./" + main
			out, err := exec.CommandContext(t.Context(), run(t, p).Path).CombinedOutput()
			if err != nil || string(out) != main+"\n" {
				t.Errorf("%q %v", out, err)
			}
		})
	}
}
