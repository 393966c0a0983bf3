package home

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestFind(t *testing.T) {
	env := func(vars map[string]string) func(string) string { return func(k string) string { return vars[k] } }
	d, err := Find(env(map[string]string{"FAIRLEAD_DIR": "some/dir", "XDG_STATE_HOME": "/other"}))
	wd, _ := os.Getwd()
	if want := (Dirs{State: filepath.Join(wd, "some/dir/state"), Run: filepath.Join(wd, "some/dir/run")}); err != nil || d != want {
		t.Errorf("%+v %v", d, err)
	}
	d, err = Find(env(map[string]string{"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}))
	want := Dirs{State: "/s/fairlead", Run: "/r/fairlead"}
	if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		want = Dirs{State: "/var/lib/fairlead", Run: "/run/fairlead"}
	}
	if err != nil || d != want {
		t.Errorf("%+v %v", d, err)
	}
}

func dirs(t *testing.T) Dirs {
	t.Helper()
	root := t.TempDir()
	return Dirs{State: filepath.Join(root, "state"), Run: filepath.Join(root, "run")}
}

func TestMake(t *testing.T) {
	d := dirs(t)
	for range 2 { // the second time puts right what somebody opened
		if err := d.Make(); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(filepath.Dir(d.State), func(path string, e fs.DirEntry, err error) error {
			if err != nil || path == filepath.Dir(d.State) {
				return err
			}
			fi, err := e.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o700)
			if path == d.State || path == filepath.Join(d.State, "services") {
				want = 0o711
			}
			if fi.Mode().Perm() != want {
				t.Errorf("%s has mode %o, want %o", path, fi.Mode().Perm(), want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{d.Run, d.Logs()} {
			if err := os.Chmod(p, 0o777); err != nil { //nolint:gosec // that is the point
				t.Fatal(err)
			}
		}
	}
	for _, p := range []string{d.Sock(Agent), d.DB(), d.Program(), d.DaemonLog(Edge), d.Table(), d.Stats(), d.Lock(Edge)} {
		if _, err := os.Stat(filepath.Dir(p)); err != nil {
			t.Errorf("%s has no folder: %v", p, err)
		}
	}
}

// TestMakeRefuses holds that a link or another user's folder, as somebody may have put under /tmp, is not taken for ours.
func TestMakeRefuses(t *testing.T) {
	d := dirs(t)
	if err := os.Symlink(t.TempDir(), d.Run); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err == nil || !strings.Contains(err.Error(), d.Run) || !strings.Contains(err.Error(), "FAIRLEAD_DIR") {
		t.Errorf("%v", err)
	}
	d = dirs(t)
	if err := os.WriteFile(d.Run, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err == nil {
		t.Error("a file is taken for a folder")
	}
	if os.Geteuid() != 0 {
		t.Skip("giving a folder to another user needs root")
	}
	d = dirs(t)
	if err := errors.Join(os.Mkdir(d.Run, 0o700), os.Chown(d.Run, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err == nil || !strings.Contains(err.Error(), "not a folder of this user") {
		t.Errorf("%v", err)
	}
}

// TestWriteFile has readers look on while a file is replaced many times: each sees one whole content.
func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.json")
	content := func(i int) []string { return strings.Split(strings.Repeat(fmt.Sprint(i)+" ", 2000), " ") }
	if err := WriteJSON(path, content(0), 0o640); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				var got []string
				if err := ReadJSON(path, &got); err != nil || len(got) != 2001 || got[0] != got[1999] {
					t.Errorf("%d words: %v", len(got), err)
					return
				}
			}
		})
	}
	for i := range 50 {
		if err := WriteJSON(path, content(i), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", fi, err)
	}
	if err := WriteJSON(path, func() {}, 0o600); err == nil {
		t.Error("a function is no JSON")
	}
	if err := WriteFile(filepath.Join(path, "x"), nil, 0o600); err == nil {
		t.Error("written below a file")
	}
	if err := os.Mkdir(filepath.Join(filepath.Dir(path), "busy"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(filepath.Dir(path), "busy"), nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("left over: %v %v", entries, err)
	}
	var v any
	if err := ReadJSON(path+".no", &v); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var syntax *json.SyntaxError
	if err := ReadJSON(path, &v); !errors.As(err, &syntax) {
		t.Errorf("%v", err)
	}
}

// TestListen holds that a socket is taken over in one step: at every instant somebody listens at the path.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")
	old, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Mode().Type() != fs.ModeSocket {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	first, stop, ended := make(chan bool), make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if n == 1 {
				close(first)
			}
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		}
	}()
	<-first
	all := []net.Listener{old}
	for range 20 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
		if len(all) > 2 {
			all[len(all)-3].Close() // an old one's end does not take the path away
		}
	}
	close(stop)
	<-ended
	for _, l := range all {
		l.Close()
	}
	if entries, err := os.ReadDir(dir); err != nil || !reflect.DeepEqual([]string{entries[0].Name()}, []string{"a.sock"}) || len(entries) != 1 {
		t.Errorf("left over: %v %v", entries, err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "shorter folder") {
		t.Errorf("%v", err)
	}
	if _, err := Listen(filepath.Join(dir, "no", "a.sock")); err == nil {
		t.Error("listens in a folder that is not there")
	}
}
