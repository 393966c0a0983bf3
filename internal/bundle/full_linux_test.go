package bundle

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// mount gives a small file system in memory; who may not mount cannot run the test.
func mount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small file system needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// full holds that Make said what to do about a full disk, and left nothing half done.
func full(t *testing.T, l Layout, err error, when string) {
	t.Helper()
	if fail.KindOf(err) != fail.Preflight || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fail.As(err).Hint, "free some space") {
		t.Errorf("%s: %v (%s)", when, err, fail.As(err).Hint)
	}
	noParts(t, l)
}

// TestFullDisk lets the disk become full at each file that Make writes, by allowing it one more file each time, and in the
// middle of several of them.
func TestFullDisk(t *testing.T) {
	in, failed := input(t), 0
	in.Signer = signer(newKey(t, testKeys(t)[0].Expires))
	try := func(options string) bool {
		l := Layout{filepath.Join(mount(t, options), "layout")}
		_, err := Create(l.Dir)
		if err == nil {
			_, err = Make(t.Context(), l, in)
		}
		if err == nil {
			return true
		}
		failed++
		full(t, l, err, options)
		if _, err := os.Stat(filepath.Join(l.Dir, "index.json")); err == nil {
			t.Errorf("%s: the layout names something", options)
		}
		return false
	}
	for inodes := 2; !try(fmt.Sprintf("size=64m,nr_inodes=%d", inodes)); inodes++ {
		if inodes > 100 {
			t.Fatal("it never gets enough files")
		}
	}
	if failed < 15 {
		t.Errorf("the disk was full only %d times", failed)
	}
	for _, size := range []string{"16k", "300k", "400k", "800k"} {
		if try("size=" + size) {
			t.Errorf("%s is enough", size)
		}
	}
}

// TestFullDiskLater holds that a layout which has a bundle keeps it when there is no room for the next one.
func TestFullDiskLater(t *testing.T) {
	l, err := Create(filepath.Join(mount(t, "size=4m"), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	old := mustMake(t, l, input(t))
	was := files(t, l.Dir)
	raw, err := os.ReadFile(program(t, "svc").Path)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 8<<20)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "svc")
	if err := os.WriteFile(path, append(raw, noise...), 0o600); err != nil {
		t.Fatal(err)
	}
	in := input(t)
	in.Source.Version = "v2"
	in.Images[0].Programs = []Program{programAt(t, "svc", path)}
	_, err = Make(t.Context(), l, in)
	full(t, l, err, "the next bundle")
	now := files(t, l.Dir)
	for name, content := range was {
		if now[name] != content {
			t.Errorf("%s is not what it was", name)
		}
	}
	if d, err := l.Find(""); err != nil || d.Digest != old.Index.Digest {
		t.Errorf("%v %v", d, err)
	}
	if _, err := Verify(t.Context(), l, old.Index, Policy{}, true); err != nil {
		t.Error(err)
	}
}

// TestBigProgram bundles and unpacks 300 MB in a process of its own, whose largest memory is a fraction of that.
func TestBigProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 600 MB")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := bigProgram(t)
	for _, zip := range []string{Gzip, Zstd} {
		t.Run(zip, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), self, bigBundle, p.Path, filepath.Join(dir, "layout"), filepath.Join(dir, "unpacked"), zip)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			if !ok {
				t.Fatal("the process does not say what it used")
			}
			took := usage.Maxrss << 10
			t.Logf("%s: at most %d MB of memory, in %s", zip, took>>20, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			if !raced && took > bigSize/2 {
				t.Errorf("%d MB of memory for a program of %d MB", took>>20, bigSize>>20)
			}
		})
	}
}
