package inspect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

const (
	glibcLoader = "/lib64/ld-linux-x86-64.so.2"
	muslLoader  = "/lib/ld-musl-x86_64.so.1"
)

// newRoot makes a machine for linux/amd64 with glibc 2.31.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put(t, root, "bin/sh", tiny{exec: true}.bytes())
	put(t, root, glibcLoader, tiny{soname: "ld-linux-x86-64.so.2"}.bytes())
	put(t, root, "lib/x86_64-linux-gnu/libc.so.6", tiny{soname: "libc.so.6", needed: []string{"ld-linux-x86-64.so.2"},
		defines: []string{"libc.so.6", "GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.31", "GLIBC_PRIVATE"}}.bytes())
	return root
}

// verdict inspects a tiny program that stands in the root as /opt/app/bin/x.
func verdict(t *testing.T, root string, f tiny) *Report {
	t.Helper()
	r, err := File(put(t, root, "opt/app/bin/x", f.bytes()), Options{Root: root, OS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func expect(t *testing.T, r *Report, root, want string) {
	t.Helper()
	_, text := r.Answer()
	if root != "" {
		text = strings.ReplaceAll(text, root, "ROOT")
	}
	if text != want {
		t.Errorf("answer\n %s\nwant\n %s", text, want)
	}
}

func TestAnswers(t *testing.T) {
	const loaderAndLibrary = "yes: a dynamic program for linux/amd64; ROOT has its loader and the "
	for name, c := range map[string]struct {
		file tiny
		want string
	}{
		"static":     {tiny{exec: true}, "yes: a static program for linux/amd64; it needs nothing but the kernel"},
		"loader":     {tiny{interp: glibcLoader}, "yes: a dynamic program for linux/amd64; ROOT has the loader it asks for, and it needs no libraries"},
		"libc":       {tiny{interp: glibcLoader, needed: []string{"libc.so.6"}}, loaderAndLibrary + "1 library it needs"},
		"other arch": {tiny{exec: true, machine: 183}, "no: it is for linux/arm64; ROOT is linux/amd64"},
		"library":    {tiny{soname: "libx.so.1"}, "no: it is a shared library, which programs load; it is not started itself"},
		"musl": {tiny{interp: muslLoader, needed: []string{"libc.so"}},
			"no: it needs /lib/ld-musl-x86_64.so.1, which ROOT lacks; install musl (Debian) or musl-libc (RPM)"},
		"missing": {tiny{interp: glibcLoader, needed: []string{"libpcap.so.0.8", "libc.so.6", "libsqlite3.so.0"}},
			"no: it needs libpcap.so.0.8, libsqlite3.so.0, which ROOT lacks; install libpcap0.8 libsqlite3-0 (Debian) or 'libpcap.so.0.8()(64bit)' sqlite-libs (RPM)"},
		"unknown": {tiny{interp: glibcLoader, needed: []string{"libFoo_2.so.1"}},
			"no: it needs libFoo_2.so.1, which ROOT lacks; install libfoo-2-1 (Debian) or 'libFoo_2.so.1()(64bit)' (RPM), if their names follow the rule"},
		"no soname": {tiny{interp: glibcLoader, needed: []string{"plugin\x1b[2J"}}, "no: it needs plugin?[2J, which ROOT lacks"},
		"too old": {tiny{interp: glibcLoader, needed: []string{"libc.so.6"}, asks: map[string][]string{"libc.so.6": {"GLIBC_2.32", "GLIBC_2.2.5", "GLIBC_2.34"}}},
			"no: it needs GLIBC_2.34 of libc.so.6, and ROOT has only GLIBC_2.31; build it statically, or on a system as old as that one"},
		"level": {tiny{exec: true, settings: "build\tGOARCH=amd64\nbuild\tGOAMD64=v4\n"}, "no: it was built for GOAMD64=v4 and that CPU lacks avx512f, avx512cd"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			path := put(t, root, "opt/x", c.file.bytes())
			r, err := File(path, Options{Root: root, Features: func(f string) bool { return f != "avx512f" && f != "avx512cd" }})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, root, c.want)
		})
	}
}

func TestSearch(t *testing.T) {
	lib := tiny{soname: "libfoo.so.1"}
	foo := tiny{interp: glibcLoader, needed: []string{"libfoo.so.1"}}
	with := func(f tiny, rpath, runpath string) tiny { f.rpath, f.runpath = rpath, runpath; return f }
	for name, c := range map[string]struct {
		file  tiny
		files map[string]tiny
		text  map[string]string
		links map[string]string
		at    string // "" means missing
	}{
		"multiarch before lib64": {foo, map[string]tiny{"lib64/libfoo.so.1": lib, "lib/x86_64-linux-gnu/libfoo.so.1": lib}, nil, nil, "/lib/x86_64-linux-gnu/libfoo.so.1"},
		"wrong machine passed":   {foo, map[string]tiny{"lib64/libfoo.so.1": {machine: 183}, "usr/lib/libfoo.so.1": lib}, nil, nil, "/usr/lib/libfoo.so.1"},
		"nowhere":                {foo, map[string]tiny{"opt/libfoo.so.1": lib}, nil, nil, ""},
		"ld.so.conf": {foo, map[string]tiny{"opt/foo/libfoo.so.1": lib, "usr/lib/libfoo.so.1": lib},
			map[string]string{"etc/ld.so.conf": "# ours\ninclude ld.so.conf.d/*.conf ld.so.conf\n", "etc/ld.so.conf.d/a.conf": "/none /opt/foo # x\n", "etc/ld.so.conf.d/b": "/usr/lib"}, nil, "/opt/foo/libfoo.so.1"},
		"origin":           {with(foo, "", "${ORIGIN}/../lib"), map[string]tiny{"opt/app/lib/libfoo.so.1": lib}, nil, nil, "/opt/app/lib/libfoo.so.1"},
		"rpath first":      {with(foo, "/a", ""), map[string]tiny{"a/libfoo.so.1": lib, "usr/lib/libfoo.so.1": lib}, nil, nil, "/a/libfoo.so.1"},
		"runpath wins":     {with(foo, "/a", "/b"), map[string]tiny{"a/libfoo.so.1": lib, "b/libfoo.so.1": lib}, nil, nil, "/b/libfoo.so.1"},
		"lib and platform": {with(foo, "", "/b/$LIB/$PLATFORM"), map[string]tiny{"b/lib64/x86_64/libfoo.so.1": lib}, nil, nil, "/b/lib64/x86_64/libfoo.so.1"},
		"absolute link":    {foo, map[string]tiny{"real/libfoo.so.1.2": lib}, nil, map[string]string{"usr/lib/libfoo.so.1": "/real/libfoo.so.1.2"}, "/usr/lib/libfoo.so.1"},
		"link that leads out": {foo, map[string]tiny{"real/libfoo.so.1.2": lib}, nil,
			map[string]string{"usr/lib/libfoo.so.1": "../../../../../../../../real/libfoo.so.1.2"}, "/usr/lib/libfoo.so.1"},
		"link to itself": {foo, nil, nil, map[string]string{"usr/lib/libfoo.so.1": "libfoo.so.1"}, ""},
		"by path":        {tiny{interp: glibcLoader, needed: []string{"/x/libfoo.so.1"}}, map[string]tiny{"x/libfoo.so.1": lib}, nil, nil, "/x/libfoo.so.1"},
		"a library's own runpath does not spread": {with(tiny{interp: glibcLoader, needed: []string{"libbar.so"}}, "", "/b"),
			map[string]tiny{"b/libbar.so": {needed: []string{"libfoo.so.1"}, soname: "libbar.so"}, "b/libfoo.so.1": lib}, nil, nil, ""},
		"a program's rpath does": {with(tiny{interp: glibcLoader, needed: []string{"libbar.so"}}, "/b", ""),
			map[string]tiny{"b/libbar.so": {needed: []string{"libfoo.so.1"}, soname: "libbar.so"}, "b/libfoo.so.1": lib}, nil, nil, "/b/libfoo.so.1"},
		"by another's soname": {tiny{interp: glibcLoader, needed: []string{"libfoo.so", "libfoo.so.1"}}, map[string]tiny{"usr/lib/libfoo.so": lib}, nil, nil, "-"},
		"musl": {tiny{interp: muslLoader, needed: []string{"libc.musl-x86_64.so.1", "libfoo.so.1"}},
			map[string]tiny{"lib/ld-musl-x86_64.so.1": {}, "opt/m/libfoo.so.1": lib}, map[string]string{"etc/ld-musl-x86_64.path": "/lib:/opt/m\n"}, nil, "/opt/m/libfoo.so.1"},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			for name, f := range c.files {
				put(t, root, name, f.bytes())
			}
			for name, s := range c.text {
				put(t, root, name, []byte(s))
			}
			for name, to := range c.links {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
					t.Skip(err) // Windows without the right to
				}
			}
			r := verdict(t, root, c.file)
			at := ""
			for _, f := range r.Found {
				if filepath.Base(f.Name) == "libfoo.so.1" {
					at = f.Path
				}
			}
			if c.at == "-" {
				c.at = "" // loaded already under another name
			} else if (c.at == "") != (len(r.Missing) == 1) {
				t.Errorf("missing: %+v", r.Missing)
			}
			if at != c.at {
				t.Errorf("found at %q, want %q (%s)", at, c.at, r.Verdict.Text)
			}
		})
	}
}

func TestGoInfo(t *testing.T) {
	for name, b := range map[string][]byte{
		"elf":   tiny{exec: true, settings: "build\tGOARCH=amd64\nbuild\tvcs.modified=true\nbuild\t-race=true\n"}.bytes(),
		"macho": tinyMacho(), "fat": tinyFat(), "pe": tinyPE(),
	} {
		r := readTiny(t, b, Options{})
		if r.Go == nil || r.Go.Version != "go1.26.8" || r.Go.Main.Version != "v1.2.3" || len(r.Go.Deps) != 1 || r.Go.Deps[0].Replace.Path != "../y" {
			t.Errorf("%s: %+v", name, r.Go)
		}
		if name == "elf" && (!r.Go.Race || !r.Go.VCS.Modified || r.Go.BuildID != "action/main") {
			t.Errorf("%+v", r.Go)
		}
	}
}

func TestForeignSystems(t *testing.T) {
	m := readTiny(t, tinyFat(), Options{OS: "darwin", Arch: "arm64"})
	if m.MinOS != "macos 12.0" || m.Interpreter != "/usr/lib/dyld" || !m.PIE || m.Static() || len(m.Arches) != 1 || m.Arches[0].Arch != "arm64" {
		t.Errorf("%+v", m)
	}
	expect(t, m, "", "yes: a native program for darwin/arm64; it needs @rpath/libfoo.dylib, besides macOS 12.0 or later")
	p := readTiny(t, tinyPE(), Options{OS: "windows", Arch: "arm64"})
	if p.MinOS != "windows 6.1" || fmt.Sprint(p.Libraries) != "[kernel32.dll]" || p.Go.BuildID != "a/b" {
		t.Errorf("%+v", p)
	}
	expect(t, p, "", "yes: a native program for windows/amd64 on windows/arm64, which emulates it; it needs nothing but Windows 6.1 or later")
	root := t.TempDir()
	path := put(t, root, "app/x", tinyMacho())
	for _, missing := range []int{1, 0} {
		r, err := File(path, Options{Root: root, OS: "darwin", Arch: "arm64"})
		if err != nil || len(r.Missing) != missing {
			t.Errorf("%v, missing %+v, want %d", err, r.Missing, missing)
		}
		put(t, root, "app/lib/libfoo.dylib", []byte("x"))
	}
}

func TestElsewhere(t *testing.T) {
	level := tiny{exec: true, machine: 243, settings: "build\tGOARCH=riscv64\n"}
	expect(t, readTiny(t, level.bytes(), Options{OS: "linux", Arch: "riscv64"}), "", "yes: a static program for linux/riscv64; it needs nothing but the kernel")
	dynamic := tiny{interp: "/lib/ld-linux-riscv64-lp64d.so.1", needed: []string{"libc.so.6"}, machine: 243}
	expect(t, readTiny(t, dynamic.bytes(), Options{OS: "linux", Arch: "riscv64"}), "",
		"no: it needs /lib/ld-linux-riscv64-lp64d.so.1, libc.so.6, and whether a machine of linux/riscv64 has that cannot be seen from here; unpack one into a folder and give that as its root")
	r := readTiny(t, dynamic.bytes(), Options{FileOnly: true})
	if _, text := r.Answer(); text != "" || r.Static() {
		t.Errorf("%+v", r)
	}
	if r := readTiny(t, tiny{exec: true}.bytes(), Options{Root: t.TempDir()}); !r.Verdict.OK {
		t.Errorf("an empty root runs a static program: %s", r.Verdict.Text)
	}
}

func TestLevels(t *testing.T) {
	none := func(string) bool { return false }
	for level, want := range map[string]int{"": 0, "GOAMD64=v1": 0, "GOAMD64=v2": 7, "GOAMD64=v3": 15, "GOAMD64=v4": 20, "GOARM64=v8.0": 0,
		"GOARM64=v8.0,lse": 1, "GOARM64=v9.0,crypto": 5, "GOARM=7": 2, "GOARM=7,softfloat": 0, "GOARM=5": 0, "GO386=sse2": 1, "GO386=softfloat": 0, "GOPPC64=power9": 0} {
		if got := lacking(level, none); len(got) != want {
			t.Errorf("%s: %v, want %d features", level, got, want)
		}
		if got := lacking(level, func(string) bool { return true }); len(got) > 0 {
			t.Errorf("%s: %v", level, got)
		}
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	full := tiny{exec: true}.bytes()
	object := bytes.Clone(full)
	object[16] = 1
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty": {nil, "empty"}, "script": {[]byte("#!/bin/sh -e\n"), `script, which "/bin/sh -e" runs`}, "text": {[]byte("hello\n"), "but text"},
		"data": {[]byte{1, 2, 3}, "but data"}, "archive": {[]byte("!<arch>\nx"), "archive"}, "java": {[]byte("\xca\xfe\xba\xbe\x00\x00\x00\x34aaaaaaaaaaaaaaaaaaaaaaaaaa"), "Java"},
		"cut": {full[:len(full)-1], "cut short"}, "header": {full[:30], "cut short"}, "object": {object, "object file"}, "gzip": {[]byte("\x1f\x8bxxx"), "gzip"},
	} {
		_, err := File(put(t, dir, name, c.b), Options{})
		if e := fail.As(err); e == nil || e.Kind != fail.Usage || e.Hint == "" || !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for path, want := range map[string]string{dir: "folder", filepath.Join(dir, "none"): "no such file", os.DevNull: "device"} {
		if _, err := File(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := BuildID(path); fail.KindOf(err) != fail.Usage {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestEveryByte damages each byte of each kind of file and cuts it everywhere: nothing may fail but with a usage error.
func TestEveryByte(t *testing.T) {
	files := [][]byte{tinyMacho(), tinyFat(), tinyPE(), tiny{interp: glibcLoader, needed: []string{"libc.so.6"}, asks: map[string][]string{"libc.so.6": {"A_1"}},
		defines: []string{"B_1"}, settings: "build\tGOARCH=amd64\n"}.bytes()}
	names, err := filepath.Glob("testdata/*.elf")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	root := t.TempDir()
	try := func(b []byte) {
		r, err := Read(bytes.NewReader(b), int64(len(b)), "x", Options{Root: root})
		if err != nil && (fail.KindOf(err) != fail.Usage || fail.As(err).Hint == "") {
			t.Fatalf("%v", err)
		}
		if err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, whole := range files {
		step := 1 + len(whole)/700
		for i := 0; i < len(whole); i += step {
			try(whole[:i])
			b := bytes.Clone(whole)
			for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
				b[i] = v
				try(b)
			}
		}
	}
}

func TestPackageOf(t *testing.T) {
	for soname, want := range map[string]Package{
		"libssl.so.3":     {Debian: "libssl3", RPM: "openssl-libs"},
		"libfoo.so.1":     {Debian: "libfoo1", RPM: "libfoo.so.1()(64bit)", Guess: true},
		"libfoo2.so.1":    {Debian: "libfoo2-1", RPM: "libfoo2.so.1()(64bit)", Guess: true},
		"libpcap.so.1":    {RPM: "libpcap"},
		"whatever":        {},
		"libfoo.so":       {},
		"libfoo.so.1.2.3": {Debian: "libfoo1.2.3", RPM: "libfoo.so.1.2.3()(64bit)", Guess: true},
	} {
		if got := PackageOf(soname, true); got != want {
			t.Errorf("%s: %+v, want %+v", soname, got, want)
		}
	}
}

// BenchmarkBuildID and BenchmarkFileOnly read this test's own program.
func BenchmarkBuildID(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := BuildID(self); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFileOnly(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := File(self, Options{FileOnly: true}); err != nil {
			b.Fatal(err)
		}
	}
}
