//go:build unix

package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// pair returns the two ends of a real unix connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func temp(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func text(t *testing.T, f *os.File) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestFilesGoOver(t *testing.T) {
	a, b := pair(t)
	for _, n := range []int{0, 1, 2, maxFiles} {
		var names []string
		var files []syscall.Conn
		for i := range n {
			names, files = append(names, fmt.Sprint("name ", i)), append(files, temp(t, fmt.Sprint("text ", i)))
		}
		if err := SendFiles(a, "op", names, files); err != nil {
			t.Fatal(err)
		}
		op, got, err := ReceiveFiles(b)
		if err != nil || op != "op" || len(got) != n {
			t.Fatal(op, len(got), err)
		}
		for i, name := range names {
			f := got[name]
			if text(t, f) != fmt.Sprint("text ", i) {
				t.Errorf("%s holds %q", name, text(t, f))
			}
			if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("a child would inherit %s: %v", name, err)
			}
			f.Close()
		}
	}
	if err := SendFiles(a, "op", nil, make([]syscall.Conn, maxFiles+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
	closed := temp(t, "")
	closed.Close()
	if err := SendFiles(a, "op", []string{"x"}, []syscall.Conn{closed}); err == nil {
		t.Error("a closed file was sent")
	}
}

// TestBrokenMessages holds that a bad message is an error and leaves no file open.
func TestBrokenMessages(t *testing.T) {
	f := temp(t, "x")
	for name, c := range map[string]struct {
		body string
		fds  []int
	}{
		"no JSON":         {"}{", []int{int(f.Fd())}},
		"files missing":   {`{"names":["a","b"]}`, []int{int(f.Fd())}},
		"files too many":  {`{"names":[]}`, []int{int(f.Fd()), int(f.Fd())}},
		"the same names":  {`{"names":["a","a"]}`, []int{int(f.Fd()), int(f.Fd())}},
		"nothing but end": {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			if c.body == "" {
				a.Close()
			} else if _, _, err := a.WriteMsgUnix([]byte(c.body), unix.UnixRights(c.fds...), nil); err != nil {
				t.Fatal(err)
			}
			before := openFiles(t)
			_, files, err := ReceiveFiles(b)
			for _, f := range files {
				f.Close()
			}
			if name != "files too many" && err == nil {
				t.Errorf("%v", files)
			}
			if after := openFiles(t); after > before {
				t.Errorf("%d files were left open", after-before)
			}
		})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		if entries, err := os.ReadDir(dir); err == nil {
			return len(entries)
		}
	}
	t.Skip("this system does not say which files are open")
	return 0
}

func storeDirs(t *testing.T) home.Dirs {
	t.Helper()
	root, err := os.MkdirTemp("", "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	d := home.Dirs{State: filepath.Join(root, "s"), Run: filepath.Join(root, "r")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestStore keeps a listening socket over its owner's death: a connection made meanwhile waits in it.
func TestStore(t *testing.T) {
	d := storeDirs(t)
	if err := ServeStore(d, home.Supervisor); err != nil {
		t.Fatal(err)
	}
	if got, err := GetFiles(d, home.Supervisor); err != nil || len(got) != 0 {
		t.Errorf("a new store holds %v %v", got, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := temp(t, "kept")
	if err := PutFiles(d, home.Supervisor, []string{"listener", "file"}, []syscall.Conn{l.(*net.TCPListener), f}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	f.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // getting is copying
		got, err := GetFiles(d, home.Supervisor)
		if err != nil || len(got) != 2 || text(t, got["file"]) != "kept" {
			t.Fatal(got, err)
		}
		again, err := net.FileListener(got["listener"])
		if err != nil {
			t.Fatal(err)
		}
		if c != nil {
			s, err := again.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			c = nil
		}
		again.Close()
		for _, f := range got {
			f.Close()
		}
	}
	if err := PutFiles(d, home.Supervisor, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := GetFiles(d, home.Supervisor); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("what was replaced is still open")
	}
	if _, err := GetFiles(d, home.Edge); err == nil {
		t.Error("a role without a store answered")
	}
}

func TestStoreTakesManyAtOnce(t *testing.T) {
	d := storeDirs(t)
	if err := ServeStore(d, home.Supervisor); err != nil {
		t.Fatal(err)
	}
	bad, err := DialFiles(d, home.Supervisor)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Write([]byte("no message")); err != nil {
		t.Fatal(err)
	}
	bad.Close() // costs only its sender
	before := openFiles(t)
	var wg sync.WaitGroup
	for g := range 4 {
		f := temp(t, fmt.Sprint(g))
		wg.Go(func() {
			for range 30 {
				if err := PutFiles(d, home.Supervisor, []string{"x", "y"}, []syscall.Conn{f, f}); err != nil {
					t.Error(err)
					return
				}
				got, err := GetFiles(d, home.Supervisor)
				if err != nil || len(got) != 2 || text(t, got["x"]) != text(t, got["y"]) {
					t.Errorf("%v %v", got, err)
				}
				for _, f := range got {
					f.Close()
				}
			}
		})
	}
	wg.Wait()
	if err := PutFiles(d, home.Supervisor, nil, nil); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after > before+4+4 { // the four files and what of the last connections is being closed
		t.Errorf("%d files are open, %d were before", after, before)
	}
}
