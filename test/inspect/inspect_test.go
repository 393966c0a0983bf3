//go:build linux

package inspect_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/inspect"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

func TestAgreesWithTools(t *testing.T) {
	rig.Tool(t, "readelf", "binutils")
	rig.Tool(t, "file", "file")
	set := newSet(t)
	if len(set) < 30 {
		t.Errorf("the set has only %d files", len(set))
	}
	for _, p := range set {
		t.Run(p.name, func(t *testing.T) {
			r, err := inspect.File(p.path, inspect.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r.Verdict.Text)
			withFile(t, r, output(t, "file", "-b", "-L", p.path))
			if r.Format == inspect.ELF {
				withReadelf(t, r, p.path)
			}
			if r.Format == inspect.ELF && r.OS == runtime.GOOS && r.Arch == runtime.GOARCH {
				withLdd(t, r, output(t, "ldd", p.path))
			}
			withGo(t, r, p)
			same(t, "packed", r.Packed, map[bool]string{true: "upx"}[strings.HasPrefix(p.name, "upx-")])
			withKernel(t, r, p)
		})
	}
	t.Run("broken", func(t *testing.T) { broken(t, set) })
}

// withKernel starts the program: the verdict must be what happens.
func withKernel(t *testing.T, r *inspect.Report, p program) {
	t.Helper()
	ok, text := r.Answer()
	if p.argv == nil {
		if ok && !strings.Contains(text, "32-bit") {
			t.Errorf("it is not for this machine, yet: %s", text)
		}
		return
	}
	if started, how := starts(t, p.command(t)); started != ok {
		t.Errorf("started: %v (%s), but the verdict is: %s", started, how, text)
	}
}

// broken damages programs of the set. Where the report is a yes the kernel must agree, and else the error is for the user.
func broken(t *testing.T, set []program) {
	dir := t.TempDir()
	for _, p := range set {
		if p.name != "linux-amd64" && p.name != "ls" && p.name != "darwin-arm64" && p.name != "windows-amd64" {
			continue
		}
		whole, err := os.ReadFile(p.path)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, b []byte) {
			t.Helper()
			path := filepath.Join(dir, p.name+" "+what)
			if err := os.WriteFile(path, b, 0o755); err != nil {
				t.Fatal(err)
			}
			r, err := inspect.File(path, inspect.Options{})
			if err != nil {
				usage(t, err)
				return
			}
			if ok, text := r.Answer(); ok {
				if started, how := starts(t, exec.CommandContext(t.Context(), path, p.argv[1:]...)); !started {
					t.Errorf("%s %s: %s, but: %s", p.name, what, text, how)
				}
			}
			if strings.HasPrefix(what, "sections") && len(r.Damage) == 0 {
				t.Errorf("%s %s: the damage was not seen", p.name, what)
			}
		}
		for _, cut := range []int{0, 1, 20, 63, 64, 100, 500, 4096, len(whole) / 4, len(whole) / 2, len(whole) * 9 / 10, len(whole) - 1} {
			check(fmt.Sprintf("cut at %d", cut), whole[:cut])
		}
		if r, err := inspect.File(p.path, inspect.Options{FileOnly: true}); err == nil && r.Format == inspect.ELF {
			check("sections wiped", wiped(whole))
		}
	}
	write(t, filepath.Join(dir, "script"), "#!/bin/sh\necho hello\n")
	write(t, filepath.Join(dir, "text"), "hello\n")
	run(t, dir, "", "ar", "rc", "lib.a", "text")
	write(t, filepath.Join(dir, "x.c"), "int x;\n")
	run(t, dir, "", "gcc", "-c", "x.c")
	for name, want := range map[string]string{"script": "script", "text": "text", "lib.a": "archive", "x.o": "object file", "": "folder", "nothing": "no such file"} {
		_, err := inspect.File(filepath.Join(dir, name), inspect.Options{})
		usage(t, err)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func usage(t *testing.T, err error) {
	t.Helper()
	if e := fail.As(err); e == nil || e.Kind != fail.Usage || e.Hint == "" {
		t.Errorf("%v is no usage error with a hint", err)
	}
}

// wiped fills the section headers of a 64-bit file with zeros.
func wiped(whole []byte) []byte {
	b := append([]byte(nil), whole...)
	at := int(uint64(b[40]) | uint64(b[41])<<8 | uint64(b[42])<<16 | uint64(b[43])<<24)
	clear(b[at : at+64*(int(b[60])|int(b[61])<<8)])
	return b
}

// TestRootIsWhatChrootSees moves a program and its libraries into a folder, and takes one away again.
func TestRootIsWhatChrootSees(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	root := t.TempDir()
	here, err := inspect.File("/bin/ls", inspect.Options{Packages: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range here.Found {
		if f.Package == "" {
			t.Errorf("%s: its package is not known", f.Path)
		}
	}
	inRoot := func(path, to string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(root, to)
		write(t, to, string(b))
		if err := os.Chmod(to, 0o755); err != nil {
			t.Fatal(err)
		}
		return to
	}
	agree := func(step string) *inspect.Report {
		r, err := inspect.File(filepath.Join(root, "opt/ls"), inspect.Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		started, how := starts(t, exec.CommandContext(t.Context(), "chroot", root, "/opt/ls", "--version"))
		if ok, text := r.Answer(); ok != started {
			t.Errorf("%s: %s, but: %s", step, text, how)
		} else {
			t.Log(step, ":", text)
		}
		return r
	}
	inRoot("/bin/ls", "opt/ls")
	agree("nothing but the program")
	inRoot(here.Interpreter, here.Interpreter)
	agree("with the loader")
	for _, f := range here.Found {
		inRoot(f.Path, filepath.Join("/srv/libraries", f.Name))
	}
	agree("libraries where nobody looks")
	// An absolute link, which must stay below the root.
	if err := os.MkdirAll(filepath.Join(root, "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/srv/libraries", filepath.Join(root, "usr/lib")); err != nil {
		t.Fatal(err)
	}
	agree("libraries behind a link")
	gone := here.Found[len(here.Found)-1].Name
	if err := os.Remove(filepath.Join(root, "srv/libraries", gone)); err != nil {
		t.Fatal(err)
	}
	if r := agree("one library less"); len(r.Missing) != 1 || r.Missing[0].Name != gone {
		t.Errorf("missing: %+v, want %s", r.Missing, gone)
	}
}

// TestVersionsAreWhatTheLoaderWants links a program against a library's second version and then gives it the first one,
// as happens to a program that was built on a newer system than it runs on.
func TestVersionsAreWhatTheLoaderWants(t *testing.T) {
	rig.Tool(t, "gcc", "gcc")
	dir := t.TempDir()
	library := func(versions string) {
		write(t, filepath.Join(dir, "versions"), versions)
		run(t, dir, "", "gcc", "-shared", "-o", "libv.so.1", "v.c", "-Wl,-soname,libv.so.1", "-Wl,--version-script=versions")
	}
	write(t, filepath.Join(dir, "v.c"), "int v(void) { return 0; }\n")
	write(t, filepath.Join(dir, "main.c"), "int v(void);\nint main(void) { return v(); }\n")
	library("V_1.9 { local: *; };\nV_1.10 { global: v; } V_1.9;\n")
	run(t, dir, "", "gcc", "-o", "main", "main.c", "libv.so.1", "-Wl,-rpath,$ORIGIN")
	agree := func(want bool) *inspect.Report {
		t.Helper()
		r, err := inspect.File(filepath.Join(dir, "main"), inspect.Options{})
		if err != nil {
			t.Fatal(err)
		}
		started, how := starts(t, exec.CommandContext(t.Context(), filepath.Join(dir, "main")))
		if ok, text := r.Answer(); ok != want || started != want {
			t.Errorf("%s, but: %s", text, how)
		}
		t.Log(r.Verdict.Text)
		return r
	}
	agree(true)
	library("V_1.2 { local: *; };\nV_1.9 { global: v; } V_1.2;\n")
	want := inspect.TooOld{Library: "libv.so.1", NeededBy: "main", Needs: "V_1.10", Has: "V_1.9"}
	if r := agree(false); len(r.TooOld) != 1 || r.TooOld[0] != want {
		t.Errorf("%+v, want %+v", r.TooOld, want)
	}
}
