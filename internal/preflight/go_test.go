package preflight

import (
	"archive/zip"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

func TestToolchain(t *testing.T) {
	for _, c := range []struct {
		name, have, setting, proxy, mod string
		local                           bool
		severity                        Severity
		want                            string
	}{
		{"same", "go1.26.8", "local", "", "go 1.26", false, OK, "go1.26.8"},
		{"newer than asked", "go1.26.8", "auto", "", "go 1.21.3", false, OK, ""},
		{"no go line", "go1.26.8", "local", "", "", false, OK, ""},
		{"experiments", "go1.26.8 X:nocoverageredesign", "local", "", "go 1.26.8", false, OK, "go1.26.8"},
		{"development version", "devel go1.28-abc", "local", "", "go 1.27", false, OK, ""},
		{"release candidate", "go1.27rc1", "local", "", "go 1.27rc1", false, OK, ""},
		{"too old and local", "go1.26.8", "local", "", "go 1.27", false, Error, "export GOTOOLCHAIN=auto"},
		{"too old and pinned", "go1.26.8", "go1.26.8", "", "go 1.27", false, Error, "go1.27.0"},
		{"too old, path", "go1.26.8", "go1.26.8+path", "", "go 1.27.1", false, Error, "no go1.27.1 on PATH"},
		{"too old, on the path", "go1.26.8", "path", "", "go 1.27.1", true, OK, "switch to go1.27.1"},
		{"too old, will download", "go1.26.8", "auto", "https://proxy.example.com", "go 1.27.1", false, Info, "download go1.27.1"},
		{"too old, may not download", "go1.26.8", "local+auto", "off", "go 1.27.1", false, Error, "unset GOPROXY"},
		{"too old, downloaded", "go1.26.8", "auto", "off", "go 1.27.1", true, OK, "switch"},
		{"toolchain line followed", "go1.26.8", "auto", "", "go 1.26\n\ntoolchain go1.27.2", false, Info, "download go1.27.2"},
		{"toolchain line not followed", "go1.26.8", "local", "", "go 1.26\n\ntoolchain go1.27.2", false, Info, "GOTOOLCHAIN=local keeps it"},
		{"toolchain line older", "go1.26.8", "local", "", "go 1.26\n\ntoolchain go1.26.1", false, OK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := modfile.Parse("go.mod", []byte("module m\n\n"+c.mod+"\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			e := goEnv{GOVERSION: c.have, GOTOOLCHAIN: c.setting, GOPROXY: c.proxy}
			expect(t, judgeToolchain(e, f, func() bool { return c.local }), c.severity, c.want)
		})
	}
}

func TestHaveToolchain(t *testing.T) {
	if haveToolchain(goEnv{GOMODCACHE: t.TempDir()}, "go1.99.0") {
		t.Error("found what is not there")
	}
}

func TestNoGo(t *testing.T) {
	p := service(t)
	p.Go = "no-such-go-command"
	r, err := newRun(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fs := checkGo(t.Context(), r)
	expect(t, fs[0], Error, "no `no-such-go-command` on PATH")
	expect(t, judgeNoGo("go", errors.New("exit status 2 flag")), Error, "exit status 2 flag")
}

func TestGoTooOldEndToEnd(t *testing.T) {
	p := service(t)
	p.Dir = write(t, map[string]string{"go.mod": "module m\n\ngo 1.999\n", "main.go": "package main\n\nfunc main() {}\n"})
	p.Spec.Build.Env = map[string]string{"GOTOOLCHAIN": "local"}
	r, err := newRun(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fs := checkGo(t.Context(), r)
	expect(t, fs[0], Error, "go1.999.0 or newer", "remove GOTOOLCHAIN from build.env")
	for _, f := range fs {
		if f.ID == IDSum {
			t.Errorf("asked a go that cannot load the module: %+v", f)
		}
	}
}

func TestModule(t *testing.T) {
	dir := write(t, map[string]string{
		"good/go.mod": "module example.com/a\n", "good/cmd/x/main.go": "package main\n",
		"broken/go.mod": "module m\n\nrequire (\n", "odd/go.mod": "module m\n\nfrobnicate x\n", "empty/go.mod": "go 1.21\n",
	})
	for _, c := range []struct {
		dir      string
		severity Severity
		want     string
	}{
		{"good", OK, "example.com/a"},
		{"good/cmd/x", OK, filepath.Join(dir, "good")},
		{"broken", Error, filepath.Join("broken", "go.mod") + ":"},
		{"odd", Error, filepath.Join("odd", "go.mod") + ":3"},
		{"empty", Error, "no module line"},
		{".", Error, "no go.mod in " + dir},
	} {
		mod, f := checkModule(filepath.Join(dir, c.dir))
		expect(t, f, c.severity, c.want)
		if (mod != nil) != (c.severity == OK) {
			t.Errorf("%s: module %v", c.dir, mod)
		}
	}
}

func TestReplace(t *testing.T) {
	dir := write(t, map[string]string{
		"repo/.git/HEAD": "", "repo/lib/go.mod": "module lib\n", "other/go.mod": "module other\n",
		"repo/shop/go.mod": "module shop\n\nreplace lib => ../lib\nreplace other v1.2.3 => ../../other\nreplace gone => ./gone\nreplace a => b v1.0.0\n",
		"clean/go.mod":     "module clean\n",
	})
	mod, _ := checkModule(filepath.Join(dir, "repo", "shop"))
	fs := checkReplace(mod)
	if len(fs) != 3 {
		t.Fatalf("%+v", fs)
	}
	expect(t, fs[0], OK, "part of this repository")
	expect(t, fs[1], Warning, filepath.Join(dir, "other"), "-dropreplace=other@v1.2.3")
	expect(t, fs[2], Error, "no go.mod", "-dropreplace=gone`")
	mod, _ = checkModule(filepath.Join(dir, "clean"))
	expect(t, one(t, checkReplace(mod)), OK)
}

// modules is a folder of modules in the form of a proxy, a service that imports one of them, and an environment in which
// go looks nowhere else.
func modules(t *testing.T) (r *run, cache string) {
	t.Helper()
	proxy := write(t, map[string]string{
		"example.com/dep/@v/v1.0.0.mod": "module example.com/dep\n", "example.com/dep/@v/v1.0.0.info": `{"Version":"v1.0.0"}`,
	})
	f, err := os.Create(filepath.Join(proxy, "example.com", "dep", "@v", "v1.0.0.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	for name, text := range map[string]string{"go.mod": "module example.com/dep\n", "dep.go": "package dep\n"} {
		w, err := z.Create("example.com/dep@v1.0.0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p := service(t)
	p.Dir = write(t, map[string]string{
		"go.mod":  "module example.com/shop\n\ngo 1.21\n\nrequire example.com/dep v1.0.0\n",
		"main.go": "package main\n\nimport _ \"example.com/dep\"\n\nfunc main() {}\n",
	})
	cache = t.TempDir()
	// modcacherw lets the test's folder be removed.
	p.Environ = append(os.Environ(), "GOPROXY=file://"+filepath.ToSlash(proxy), "GOMODCACHE="+cache, "GOFLAGS=-modcacherw", "GONOSUMDB=*",
		"GOSUMDB=off", "GOPRIVATE=", "GONOPROXY=", "GOTOOLCHAIN=local", "GOWORK=off")
	if r, err = newRun(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return r, cache
}

func runGo(t *testing.T, r *run, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = r.Dir, r.environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", args, err, out)
	}
}

func sum(t *testing.T, r *run) Finding {
	t.Helper()
	for _, f := range checkGo(t.Context(), r) {
		if f.ID == IDSum {
			return f
		}
	}
	t.Fatal("no finding for go.sum")
	return Finding{}
}

// The life of a module's sums: none, complete, not downloaded, fetched by Fix, changed on disk.
func TestSum(t *testing.T) {
	r, cache := modules(t)
	expect(t, sum(t, r), Error, "missing go.sum entry", "go mod tidy")
	runGo(t, r, "mod", "tidy")
	expect(t, sum(t, r), OK, "complete")

	runGo(t, r, "clean", "-modcache")
	f := sum(t, r)
	expect(t, f, Info, "not downloaded yet")
	done, err := Fix(t.Context(), r.Params, []Finding{f})
	if err != nil || len(done) != 1 {
		t.Fatalf("%v %v", done, err)
	}
	expect(t, sum(t, r), OK)

	dep := filepath.Join(cache, "example.com", "dep@v1.0.0", "dep.go")
	if err := errors.Join(os.Chmod(dep, 0o644), os.WriteFile(dep, []byte("package dep // changed\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	expect(t, sum(t, r), Error, "dir has been modified", "go clean -modcache")
}

func TestSumOfVendored(t *testing.T) {
	r, _ := modules(t)
	runGo(t, r, "mod", "tidy")
	runGo(t, r, "mod", "vendor")
	runGo(t, r, "clean", "-modcache")
	expect(t, sum(t, r), OK, "vendor")
	if err := os.WriteFile(filepath.Join(r.Dir, "vendor", "modules.txt"), []byte("# example.com/dep v0.9.0\n## explicit\nexample.com/dep\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, sum(t, r), Error, "inconsistent vendoring", "go mod vendor")
}

func TestSumOfMissingImport(t *testing.T) {
	r, _ := modules(t)
	runGo(t, r, "mod", "tidy")
	if err := os.WriteFile(filepath.Join(r.Dir, "b.go"), []byte("package main\n\nimport _ \"example.com/gone\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, sum(t, r), Error, "example.com/gone", "go mod tidy")
	r.Spec = &spec.Spec{Build: spec.Build{Main: "./cmd/none"}}
	expect(t, sum(t, r), Error, "cmd/none")
}

func TestJudgeSum(t *testing.T) {
	expect(t, judgeList("go: downloading example.com/x v1\nmain.go:3:8: "+notDownloaded+"\n", "off"), Error, "unset GOPROXY")
	expect(t, judgeList("verifying example.com/x@v1: checksum mismatch\n\tdownloaded: h1:a\n", ""), Error, "example.com/x@v1: checksum mismatch")
	expect(t, judgeList("go: downloading x\nmain.go:1:1: expected 'package'\n", ""), Error, "expected 'package'", "go build")
	expect(t, judgeVerify("a v1: dir has been modified (/a)\nb v1: zip has been modified (/b)\n"), Error, "a v1", "and 1 more")
	expect(t, judgeVerify("go: "+notDownloaded), Info)
	expect(t, judgeVerify("go: odd"), Error, "go: odd")
	if f := judgeList("main.go:3:8: missing go.sum entry for x (imported by y); to add:\n\tgo get y", ""); strings.HasSuffix(f.Found, ":") {
		t.Errorf("%q", f.Found)
	}
}

func TestVCS(t *testing.T) {
	git := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull,
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	dir := write(t, map[string]string{"old.go": "package a\n\nvar Long = `a name that git finds again`\n", "b.go": "package a\n"})
	r, err := newRun(t.Context(), Params{Dir: dir, Spec: &spec.Spec{}, Environ: append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, one(t, checkVCS(t.Context(), r)), Info, "not a git repository")
	git(dir, "init", "-q")
	git(dir, "add", ".")
	git(dir, "commit", "-q", "-m", "first")
	expect(t, one(t, checkVCS(t.Context(), r)), OK)
	git(dir, "mv", "old.go", "new.go")
	if err := os.WriteFile(filepath.Join(dir, "c d.go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, one(t, checkVCS(t.Context(), r)), Warning, "1 changed and 1 untracked: new.go, c d.go")
}

func TestJudgeVCS(t *testing.T) {
	expect(t, judgeVCS("?? a\x00?? b\x00?? c\x00?? d\x00?? e\x00?? f\x00 M g\x00", "", nil), Warning, "1 changed and 6 untracked: g, a, b, c, d and 2 more")
	expect(t, judgeVCS("", "fatal: detected dubious ownership in repository at '/x'\n", errors.New("exit status 128")), Warning, "safe.directory")
	expect(t, judgeVCS("", "", &exec.Error{Name: "git", Err: exec.ErrNotFound}), Info, "no git")
	if f := judgeVCS("", "fatal: bad object\nmore\n", errors.New("exit status 128")); f.Severity != Warning || f.Found != "git status: exit status 128: fatal: bad object" {
		t.Errorf("%+v", f)
	}
}
