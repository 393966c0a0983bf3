//go:build linux

package inspect_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// program is one file of the set.
type program struct {
	name string
	path string
	argv []string // how to start it so that it ends with 0 at once; nil for what is not for this machine
	ours bool     // built by Go here: then go version -m knows all of it
}

// debian are programs and libraries of the distribution, by the package that has each.
var debian = []struct {
	path, pkg string
	argv      []string
}{
	{"/bin/ls", "coreutils", []string{"--version"}},
	{"/bin/bash", "bash", []string{"--version"}},
	{"/bin/tar", "tar", []string{"--version"}},
	{"/usr/bin/perl", "perl-base", []string{"-v"}},
	{"/usr/bin/file", "file", []string{"--version"}},
	{"/usr/bin/git", "git", []string{"--version"}},
	{"/usr/bin/ld", "binutils", []string{"--version"}},
	{"/sbin/ldconfig", "libc-bin", []string{"--version"}}, // a static PIE
	{"/bin/busybox", "busybox-static", []string{"true"}},
	{"libc.so.6", "libc6", nil},
	{"libstdc++.so.6", "libstdc++6", nil},
	{"libz.so.1", "zlib1g", nil},
}

const mainGo = `package main

import "example.com/dep"

func main() { println(dep.Word) }
`

const cgoGo = `package main

// #include <stdlib.h>
// int three(void) { return abs(-3); }
import "C"

func main() { println(C.three()) }
`

const missingGo = `package main

// #cgo LDFLAGS: -L${SRCDIR} -lnowhere
// int nowhere(void);
import "C"

func main() { println(C.nowhere()) }
`

// built are the builds of one small module.
var built = []struct{ name, dir, env, flags string }{
	{"linux-amd64", ".", "GOOS=linux GOARCH=amd64", ""},
	{"linux-arm64", ".", "GOOS=linux GOARCH=arm64", ""},
	{"linux-386", ".", "GOOS=linux GOARCH=386", ""},
	{"linux-arm", ".", "GOOS=linux GOARCH=arm GOARM=6", ""},
	{"linux-riscv64", ".", "GOOS=linux GOARCH=riscv64", ""},
	{"linux-s390x", ".", "GOOS=linux GOARCH=s390x", ""},
	{"linux-ppc64le", ".", "GOOS=linux GOARCH=ppc64le", ""},
	{"darwin-amd64", ".", "GOOS=darwin GOARCH=amd64", ""},
	{"darwin-arm64", ".", "GOOS=darwin GOARCH=arm64", ""},
	{"windows-amd64", ".", "GOOS=windows GOARCH=amd64", ""},
	{"windows-386", ".", "GOOS=windows GOARCH=386", ""},
	{"freebsd-amd64", ".", "GOOS=freebsd GOARCH=amd64", ""},
	{"stripped", ".", "", "-ldflags=-s"},
	{"windows-stripped", ".", "GOOS=windows GOARCH=amd64", "-ldflags=-s"},
	{"darwin-stripped", ".", "GOOS=darwin GOARCH=arm64", "-ldflags=-s"},
	{"symbols-only", ".", "", "-ldflags=-w -trimpath"},
	{"pie", ".", "", "-buildmode=pie"},
	{"v3", ".", "GOAMD64=v3", ""},
	{"committed", ".", "", "-buildvcs=true"},
	{"dirty", ".", "", "-buildvcs=true"},
	{"cgo", "./cgo", "CGO_ENABLED=1", ""},
	{"cgo-static", "./cgo", "CGO_ENABLED=1", "-ldflags=-linkmode=external|-extldflags=-static"},
	{"cgo-static-pie", "./cgo", "CGO_ENABLED=1", "-buildmode=pie -ldflags=-linkmode=external|-extldflags=-static-pie"},
	{"race", ".", "CGO_ENABLED=1", "-race"},
	{"library-missing", "./missing", "CGO_ENABLED=1", ""},
}

// newModule writes the module's source, with a dependency that is replaced, into a git repository.
func newModule(t *testing.T) string {
	t.Helper()
	rig.Tool(t, "git", "git")
	rig.Tool(t, "gcc", "gcc")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":          "module example.com/thing\n\ngo 1.26\n\nrequire example.com/dep v1.2.3\n\nreplace example.com/dep => ./dep\n",
		"main.go":         mainGo,
		"cgo/main.go":     cgoGo,
		"missing/main.go": missingGo,
		"missing/lib.txt": "int nowhere(void) { return 1; }\n", // no .c file, which cgo would compile in
		"dep/go.mod":      "module example.com/dep\n\ngo 1.26\n",
		"dep/dep.go":      "// Package dep is one.\npackage dep\n\n// Word is printed.\nconst Word = \"hello\"\n",
		".gitignore":      "*.so\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	run(t, dir, "", "gcc", "-shared", "-o", "missing/libnowhere.so", "-x", "c", "missing/lib.txt", "-Wl,-soname,libnowhere.so.1")
	git := "GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.com GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.com"
	run(t, dir, git, "git", "init", "--quiet")
	run(t, dir, git, "git", "add", "--all")
	run(t, dir, git, "git", "commit", "--quiet", "--message", "first")
	return dir
}

func run(t *testing.T, dir, env, name string, args ...string) {
	t.Helper()
	if _, err := rig.Command(t, dir, strings.Fields(env), name, args...); err != nil {
		t.Fatal(err)
	}
}

// newSet collects and builds the files.
func newSet(t *testing.T) (set []program) {
	t.Helper()
	for _, d := range debian {
		if path := installed(t, d.path, d.pkg); path != "" {
			p := program{name: filepath.Base(path), path: path}
			if d.argv != nil {
				p.argv = append([]string{path}, d.argv...)
			}
			set = append(set, p)
		}
	}
	src, out := newModule(t), t.TempDir()
	for _, b := range built {
		if b.name == "dirty" {
			write(t, filepath.Join(src, "note.txt"), "not committed\n")
		}
		path := filepath.Join(out, b.name)
		args := []string{"build", "-o", path}
		for _, f := range strings.Fields(b.flags) {
			args = append(args, strings.ReplaceAll(f, "|", " "))
		}
		run(t, src, "GOTOOLCHAIN=local GOWORK=off GOFLAGS= CGO_ENABLED=0 "+b.env, "go", append(args, b.dir)...)
		p := program{name: b.name, path: path, ours: true}
		if !strings.Contains(b.env, "GOARCH=") || b.name == "linux-"+runtime.GOARCH {
			p.argv = []string{path}
		}
		set = append(set, p)
	}
	if runtime.GOARCH == "amd64" {
		v3 := filepath.Join(out, "c-v3")
		write(t, filepath.Join(out, "v3.c"), "int main(void) { return 0; }\n")
		run(t, out, "", "gcc", "-o", v3, "v3.c", "-Wl,-z,x86-64-v3")
		set = append(set, program{name: "c-v3", path: v3, argv: []string{v3}})
	}
	// Packed on its own: where there is no UPX the rest is still compared.
	t.Run("upx", func(t *testing.T) {
		upx := rig.Tool(t, "upx", "upx-ucl")
		for _, name := range []string{"stripped", "cgo", "windows-stripped"} {
			packed := filepath.Join(out, "upx-"+name)
			run(t, out, "", upx, "-1", "-q", "-o", packed, filepath.Join(out, name))
			p := program{name: "upx-" + name, path: packed}
			if name != "windows-stripped" {
				p.argv = []string{packed}
			}
			set = append(set, p)
		}
	})
	return set
}

// installed returns the path of a file of Debian's; a bare name is that of a library for this machine.
func installed(t *testing.T, path, pkg string) string {
	t.Helper()
	if !filepath.IsAbs(path) {
		found, err := filepath.Glob("/usr/lib/*/" + path)
		if err != nil || len(found) == 0 {
			rig.Missing(t, "no %s of package %s", path, pkg)
		}
		return found[0]
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := rig.Install(t, pkg); err != nil {
			rig.Missing(t, "no %s: %v", path, err)
		}
	}
	return path
}

// command starts a program of the set.
func (p program) command(t *testing.T) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), p.argv[0], p.argv[1:]...)
}
