package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// twice builds p, then what other makes of a copy of its source, and explains the difference. The build cache is the user's:
// what must differ here differs whatever the cache holds.
func twice(t *testing.T, p Params, other func(*Params)) []Difference {
	t.Helper()
	one, err := Run(t.Context(), p, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(fail.As(err).Lines, "\n"))
	}
	defer one.Close()
	q := p
	q.Cache = t.TempDir()
	dir, tree, err := CopySource(t.Context(), p, filepath.Join(t.TempDir(), "a longer name"))
	if err != nil {
		t.Fatal(err)
	}
	q.Dir = dir
	if other != nil {
		other(&q)
	}
	two, err := Run(t.Context(), q, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(fail.As(err).Lines, "\n"))
	}
	defer two.Close()
	for i := range one.Builds {
		for j := range one.Builds[i].Programs {
			if one.Builds[i].Programs[j].Digest != two.Builds[i].Programs[j].Digest {
				d, err := Explain(one, two, Where{First: p.Dir, Second: q.Dir, Tree: tree})
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
		}
	}
	return nil
}

// rodata is where a format keeps what a program cannot change.
func rodata() string {
	switch runtime.GOOS {
	case "darwin":
		return "__TEXT,__rodata"
	case "windows":
		return ".rdata"
	}
	return ".rodata"
}

// explained holds that one program differs in a section and that the likeliest cause says so.
func explained(t *testing.T, got []Difference, section, cause, fix string) {
	t.Helper()
	if len(got) != 1 {
		t.Fatalf("%d differences, want one: %+v", len(got), got)
	}
	d := got[0]
	if want := platform.Host().String() + "/shop"; d.File != want {
		t.Errorf("the file is %q, want %q", d.File, want)
	}
	if section != "" && !slices.ContainsFunc(d.Sections, func(s Section) bool { return s.Name == section && (s.Bytes > 0 || s.First != s.Second) }) {
		t.Errorf("%s is not among the sections that differ: %v", section, d.Sections)
	}
	contains(t, d.What, section)
	if !strings.Contains(d.Causes[0], cause) {
		t.Errorf("the first cause of %q does not say %q", d.Causes, cause)
	}
	contains(t, d.Fix, fix)
}

const stamped = "package main\n\nvar made = \"never\"\n\nfunc main() { println(made) }\n"

func TestSameSourceIsTheSame(t *testing.T) {
	p := module(t, map[string]string{"main.go": small, "cmd/tool/tool.go": small})
	p.Build = spec.Build{Main: ".", Programs: map[string]string{"tool": "./cmd/tool"}}
	repository(t, p.Dir)
	if got := twice(t, p, nil); got != nil {
		t.Errorf("%+v", got)
	}
}

func TestDateOfTheLinker(t *testing.T) {
	p := module(t, map[string]string{"main.go": stamped})
	p.Build.Ldflags = []string{"-X main.made=2026-11-20T10:00:00Z"}
	got := twice(t, p, func(q *Params) { q.Build.Ldflags = []string{"-X main.made=2026-11-21T12:30:00Z"} })
	explained(t, got, rodata(), "main.made=2026-11-20T10:00:00Z, main.made=2026-11-21T12:30:00Z", "time from the commit")
	if n := len(got[0].Causes); n < 2 || !strings.Contains(got[0].Causes[1], `"2026-11-20T10:00:00", "2026-11-21T12:30:00"`) {
		t.Errorf("the times in the program are not found: %q", got[0].Causes)
	}
}

func TestVersionThatACloneLacks(t *testing.T) {
	p := module(t, map[string]string{"main.go": small})
	repository(t, p.Dir)
	got := twice(t, p, func(q *Params) { git(t, q.Dir, "tag", "-d", "v1.2.3") })
	explained(t, got, rodata(), "main.version=v1.2.3, main.version=", "lacks tags")
}

// TestGeneratedFileWithATime is a file that a generator writes anew, with the time in it.
func TestGeneratedFileWithATime(t *testing.T) {
	p := module(t, map[string]string{"main.go": stamped, "zz_generated.go": "package main\n\nfunc init() { made = \"Made Fri Nov 20 10:00:00 UTC 2026\" }\n"})
	got := twice(t, p, func(q *Params) {
		write(t, q.Dir, map[string]string{"zz_generated.go": "package main\n\nfunc init() { made = \"Made Sat Nov 21 12:30:00 UTC 2026\" }\n"})
	})
	explained(t, got, rodata(), `a time stands in it: "Nov 20 10:00:00", "Nov 21 12:30:00"`, "generated files")
}

// TestUnixTime holds that ten digits are taken for a time when they are about now, and for a number otherwise.
func TestUnixTime(t *testing.T) {
	now := time.Now().Unix()
	text := func(sec int64) string { return time.Unix(sec, 0).UTC().Format("20060102") } // no form that is known
	one, two := []byte("x made "+text(now)+" at 1776356839 and 1616029739\x00"), []byte("x")
	if got := stamps(one); got != nil {
		t.Errorf("%q are taken for times", got)
	}
	if got := stamps(two); got != nil {
		t.Errorf("%q", got)
	}
	if got := stamps([]byte("at " + time.Now().Format("2006-01-02 15:04") + ", 1776356839")); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestIgnoredFileIsEmbedded(t *testing.T) {
	p := module(t, map[string]string{
		"main.go":    "package main\n\nimport \"embed\"\n\n//go:embed assets\nvar fs embed.FS\n\nfunc main() { d, _ := fs.ReadDir(\"assets\"); println(len(d)) }\n",
		"assets/a":   "committed\n",
		".gitignore": "assets/made*\nnotes\n",
		"notes":      "not read by the build\n",
	})
	repository(t, p.Dir)
	write(t, p.Dir, map[string]string{"assets/made.txt": "Fri Nov 20 10:00:00\n"})
	explained(t, twice(t, p, nil), rodata(), "reads assets/made.txt, which git ignores", "commit assets/made.txt")

	_, tree, err := CopySource(t.Context(), p, filepath.Join(t.TempDir(), "copy"))
	if err != nil || !tree.Clone || !slices.Equal(tree.Unknown, []string{"assets/made.txt"}) {
		t.Errorf("%+v (%v)", tree, err)
	}
}

// TestDirtyTreeIsCopied holds that what is not committed yet is checked as it lies there, with git's knowledge of it.
func TestDirtyTreeIsCopied(t *testing.T) {
	p := module(t, map[string]string{"main.go": stamped, "run.sh": "#!/bin/sh\n"})
	if err := os.Chmod(filepath.Join(p.Dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	repository(t, p.Dir)
	write(t, p.Dir, map[string]string{"untracked.go": "package main\n\nfunc init() { made = \"untracked\" }\n"})
	to := filepath.Join(t.TempDir(), "copy")
	dir, tree, err := CopySource(t.Context(), p, to)
	if err != nil || tree.Clone || dir != to {
		t.Fatalf("%s %+v %v", dir, tree, err)
	}
	cmd := exec.CommandContext(t.Context(), "git", "status", "--porcelain")
	cmd.Dir = to
	if out, err := cmd.Output(); err != nil || string(out) != "?? untracked.go\n" {
		t.Errorf("git says of the copy: %q %v", out, err)
	}
	if got := twice(t, p, nil); got != nil {
		t.Errorf("%+v", got)
	}
}

func TestWithoutTrimpath(t *testing.T) {
	p := module(t, map[string]string{"main.go": "package main\n\nimport \"runtime\"\n\nfunc main() { _, f, _, _ := runtime.Caller(0); println(f) }\n"})
	p.Build.Flags = []string{"-trimpath=false"}
	got := twice(t, p, nil)
	explained(t, got, "", "the path of this folder stands in it: "+p.Dir, "-trimpath")
	if runtime.GOOS == "linux" {
		explained(t, got, ".gopclntab", p.Dir, "")
	}
	contains(t, strings.Join(got[0].Causes, "\n"), "the path of the second build's folder")
}

// TestCgo has a C file that says something else in the second build, as one with __DATE__ and __TIME__ does, which the
// warm build cache would hide.
func TestCgo(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil || runtime.GOOS != "linux" {
		t.Skip("cgo needs a C compiler, and a static program Linux")
	}
	text := func(c string) map[string]string {
		return map[string]string{"main.go": "package main\n\n// const char *made(void) { return " + c + "; }\nimport \"C\"\n\nfunc main() { println(C.made()) }\n"}
	}
	p := module(t, text(`"Nov 20 2026 10:00:00"`))
	p.Build = spec.Build{Cgo: true, Ldflags: []string{"-linkmode=external", "-extldflags=-static"}}
	got := twice(t, p, func(q *Params) { write(t, q.Dir, text(`"Nov 21 2026 12:30:00"`)) })
	explained(t, got, ".rodata", `"Nov 20 2026", "Nov 21 2026"`, "generated files")
	contains(t, strings.Join(got[0].Causes, "\n"), `"10:00:00", "12:30:00"`, "cgo: what the C compiler")
	// What has no date in it is the same anywhere: -trimpath reaches the C compiler, too.
	write(t, p.Dir, text("__FILE__"))
	if got := twice(t, p, nil); got != nil {
		t.Errorf("%+v", got)
	}
}

// TestOtherFormats holds that the sections of Mach-O and PE files are told apart.
func TestOtherFormats(t *testing.T) {
	for text, section := range map[string]string{"darwin/arm64": "__TEXT,__rodata", "windows/amd64": ".rdata", "linux/arm64": ".rodata"} {
		t.Run(text, func(t *testing.T) {
			pl, err := platform.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			p := module(t, map[string]string{"main.go": stamped})
			p.Platforms, p.Build.Ldflags = []platform.Platform{pl}, []string{"-X main.made=2026-11-20T10:00:00Z"}
			if _, err := exec.LookPath("go"); err != nil {
				t.Skip(err)
			}
			got := twice(t, p, func(q *Params) { q.Build.Ldflags = []string{"-X main.made=2026-11-21T12:30:00Z"} })
			if len(got) != 1 || !slices.ContainsFunc(got[0].Sections, func(s Section) bool { return s.Name == section && s.Bytes > 0 }) {
				t.Errorf("%s is not among them: %+v", section, got)
			}
		})
	}
}

// TestNothingOfAFileIsLeftOut holds that the parts make up the whole file: a difference is always somewhere.
func TestNothingOfAFileIsLeftOut(t *testing.T) {
	p := module(t, map[string]string{"main.go": small})
	file, err := os.ReadFile(run(t, p).Path)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, s := range sections(file) {
		total += len(s.data)
	}
	if total != len(file) {
		t.Errorf("the sections have %d bytes, the file %d", total, len(file))
	}
	if s := sections([]byte("no executable")); len(s) != 1 || s[0].name != headers || len(s[0].data) != 13 {
		t.Errorf("%+v", s)
	}
}

func TestCommands(t *testing.T) {
	p := module(t, map[string]string{"main.go": small, "cmd/tool/tool.go": "package main\n\nvar date string\n\nfunc main() { println(date) }\n", "cpu.pprof": ""})
	p.Build = spec.Build{Main: ".", Programs: map[string]string{"tool": "./cmd/tool"}, PGO: "cpu.pprof"}
	repository(t, p.Dir)
	got, err := Commands(t.Context(), p, p.Dir)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	for i, want := range []Command{
		{Name: "shop", Args: []string{"-trimpath", "-ldflags=-s -w -X main.version=@VERSION@ -X main.commit=@COMMIT@", "-buildvcs=true", "-pgo=cpu.pprof", "example.com/shop"}},
		{Name: "tool", Args: []string{"-trimpath", "-ldflags=-s -w -X main.date=" + TheDate, "-buildvcs=true", "-pgo=cpu.pprof", "example.com/shop/cmd/tool"}},
	} {
		if got[i].Name != want.Name || !slices.Equal(got[i].Args, want.Args) {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
	p.Build.PGO = filepath.Join(t.TempDir(), "elsewhere.pprof")
	if _, err := Commands(t.Context(), p, p.Dir); fail.KindOf(err) != fail.Usage {
		t.Errorf("a profile from elsewhere: %v", err)
	}
}

func TestContext(t *testing.T) {
	p := module(t, map[string]string{"svc/main.go": small})
	resolved, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	svc := filepath.Join(p.Dir, "svc")
	if got := Context(t.Context(), svc); got != resolved {
		t.Errorf("of a module: %s, want %s", got, resolved)
	}
	write(t, svc, map[string]string{"go.mod": goMod, "fairlead.yaml": ""})
	if got := Context(t.Context(), svc); got != filepath.Join(resolved, "svc") {
		t.Errorf("of a module in a module: %s", got)
	}
	write(t, p.Dir, map[string]string{"go.work": "go 1.24\n"})
	if got := Context(t.Context(), svc); got != resolved {
		t.Errorf("of a workspace: %s", got)
	}
}
