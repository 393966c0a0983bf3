//go:build unix

package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// TestMain makes the test binary a role's process where keeper started it as one: `daemon ROLE`.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "daemon" {
		if err := life(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// life is a role that tells the test of its birth over a socket, does as it is told there, and ends when that closes.
func life(role string, args []string) error {
	d, err := home.Find(os.Getenv)
	if err != nil {
		return err
	}
	var lock *os.File
	var l net.Listener
	if len(args) > 0 && args[0] == "takeover" {
		lock, l, err = takeOver(d, role)
	} else {
		lock, err = Hold(d, role)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if l != nil {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "served by %d", os.Getpid())
				c.Close()
			}
		}()
	}
	c, err := net.Dial("unix", filepath.Join(d.Run, "test.sock"))
	if err != nil {
		return err
	}
	fmt.Fprintf(c, "%s %d %s\n", role, os.Getpid(), os.Getenv("FAIRLEAD_TEST_LEAK")+os.Getenv(lockEnv))
	words := bufio.NewScanner(c)
	for words.Scan() {
		switch words.Text() {
		case "sign off":
			return SignOff(lock)
		case "child": // a program that the role starts must not keep its lock
			cmd := exec.Command("sleep", "60")
			if err := cmd.Start(); err != nil {
				return err
			}
			fmt.Fprintln(c, cmd.Process.Pid)
		}
	}
	return nil
}

// takeOver asks the living process of the role for its lock and its socket.
func takeOver(d home.Dirs, role string) (*os.File, net.Listener, error) {
	c, err := DialFiles(d, role)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	if err := SendFiles(c, "get", nil, nil); err != nil {
		return nil, nil, err
	}
	_, files, err := ReceiveFiles(c)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.FileListener(files["listener"])
	if err != nil {
		return nil, nil, err
	}
	return files["lock"], l, Sign(files["lock"])
}

// machine is a machine of its own whose program is this test binary.
type machine struct {
	home.Dirs
	births net.Listener
}

// child is a living role's process.
type child struct {
	role string
	pid  int
	rest string
	c    net.Conn
	in   *bufio.Reader
}

func newMachine(t *testing.T) machine {
	t.Helper()
	root, err := os.MkdirTemp("", "keeper") // t.TempDir's name is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	t.Setenv("FAIRLEAD_DIR", root)
	t.Setenv("FAIRLEAD_TEST_LEAK", "leaked") // a daemon does not get what a user's shell happens to hold
	d, err := home.Find(os.Getenv)
	if err == nil {
		err = d.Make()
	}
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := Install(d, exe); err != nil || !changed {
		t.Fatal(changed, err)
	}
	l, err := net.Listen("unix", filepath.Join(d.Run, "test.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return machine{d, l}
}

// born waits for the next process to tell of its birth.
func (m machine) born(t *testing.T) child {
	t.Helper()
	c, err := m.births.Accept()
	if err != nil {
		t.Fatal(err)
	}
	k := child{c: c, in: bufio.NewReader(c)}
	line, err := k.in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(line, &k.role, &k.pid, &k.rest)
	t.Cleanup(func() { c.Close(); syscall.Kill(k.pid, syscall.SIGKILL) })
	return k
}

func (k child) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(k.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// released waits until nobody holds the role's lock and leaves it free.
func (m machine) released(t *testing.T, role string) {
	t.Helper()
	f, err := open(m.Dirs, role)
	if err == nil {
		err = waitLock(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestStart(t *testing.T) {
	m := newMachine(t)
	for range 2 { // the second time they all live
		if err := Start(m.Dirs); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]child{}
	for range home.Roles {
		k := m.born(t)
		got[k.role] = k
		if k.rest != "" {
			t.Errorf("%s has inherited %q", k.role, k.rest)
		}
	}
	for _, role := range home.Roles {
		if k := got[role]; k.pid == 0 || !Running(m.Dirs, role) || PID(m.Dirs, role) != k.pid {
			t.Errorf("%s: process %d, running %v, in the file %d", role, k.pid, Running(m.Dirs, role), PID(m.Dirs, role))
		}
		if _, err := Hold(m.Dirs, role); !errors.Is(err, ErrHeld) {
			t.Errorf("a second %s: %v", role, err)
		}
	}
	got[home.Edge].kill(t)
	m.released(t, home.Edge)
	if Running(m.Dirs, home.Edge) || !Running(m.Dirs, home.Agent) {
		t.Error("the dead lives or the living is dead")
	}
	if err := Start(m.Dirs); err != nil {
		t.Fatal(err)
	}
	if k := m.born(t); k.role != home.Edge {
		t.Errorf("%s was started", k.role)
	}
}

// TestWatch kills a role again and again under two watchers: each time exactly one process follows, and when the machine
// is being stopped none does.
func TestWatch(t *testing.T) {
	m := newMachine(t)
	if err := Start(m.Dirs); err != nil {
		t.Fatal(err)
	}
	var edge child
	for range home.Roles {
		if k := m.born(t); k.role == home.Edge {
			edge = k
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan bool)
	for range 2 {
		go func() {
			Watch(ctx, m.Dirs, home.Edge, slog.New(slog.DiscardHandler))
			ended <- true
		}()
	}
	for range 4 {
		edge.kill(t)
		next := m.born(t)
		if next.role != home.Edge || next.pid == edge.pid || !Running(m.Dirs, home.Edge) || PID(m.Dirs, home.Edge) != next.pid {
			t.Fatalf("%+v came after %d; %d is in the file", next, edge.pid, PID(m.Dirs, home.Edge))
		}
		edge = next
	}
	f, err := open(m.Dirs, home.Edge)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s := read(f); s.Fails != 4 || s.Started.IsZero() {
		t.Errorf("four quick deaths are counted as %+v", s)
	}
	fmt.Fprintln(edge.c, "sign off") // an end that was asked for does not count
	edge = m.born(t)
	if s := read(f); s.Fails != 0 {
		t.Errorf("%+v after signing off", s)
	}
	if err := SetStopping(m.Dirs); err != nil {
		t.Fatal(err)
	}
	edge.kill(t)
	<-ended
	<-ended
	m.released(t, home.Edge)
	if Running(m.Dirs, home.Edge) {
		t.Error("it was started while the machine is being stopped")
	}
}

// TestLockIsNotInherited holds that what a role starts does not keep its lock: or its death would not be seen.
func TestLockIsNotInherited(t *testing.T) {
	m := newMachine(t)
	if err := Start(m.Dirs); err != nil {
		t.Fatal(err)
	}
	for range home.Roles {
		k := m.born(t)
		if k.role != home.Supervisor {
			continue
		}
		fmt.Fprintln(k.c, "child")
		var pid int
		if _, err := fmt.Fscan(k.in, &pid); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
		k.kill(t)
		m.released(t, home.Supervisor)
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("its child does not live any more: %v", err)
		}
	}
}

// TestTakeOver hands lock and listening socket from this process to a child: at no instant is the lock free, or does the
// socket refuse a connection.
func TestTakeOver(t *testing.T) {
	m := newMachine(t)
	lock, err := Hold(m.Dirs, home.Edge)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ServeStore(m.Dirs, home.Edge); err != nil {
		t.Fatal(err)
	}
	if err := PutFiles(m.Dirs, home.Edge, []string{"lock", "listener"}, []syscall.Conn{lock, l.(*net.TCPListener)}); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("tcp", l.Addr().String()) // nobody accepts it yet
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if err := Spawn(m.Dirs, home.Edge, "takeover"); err != nil {
		t.Fatal(err)
	}
	k := m.born(t)
	if PID(m.Dirs, home.Edge) != k.pid {
		t.Errorf("%d is in the file, the child is %d", PID(m.Dirs, home.Edge), k.pid)
	}
	lock.Close()
	l.Close()
	if err := PutFiles(m.Dirs, home.Edge, nil, nil); err != nil { // and the store's copies
		t.Fatal(err)
	}
	for i := range 3 {
		c := waiting
		if i > 0 {
			if c, err = net.Dial("tcp", l.Addr().String()); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != fmt.Sprintf("served by %d", k.pid) {
			t.Errorf("%q %v", b, err)
		}
		c.Close()
	}
	if !Running(m.Dirs, home.Edge) {
		t.Error("the lock was lost on the way")
	}
	k.kill(t)
	m.released(t, home.Edge)
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("somebody still holds the socket")
	}
}

func TestInstall(t *testing.T) {
	m := newMachine(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := Install(m.Dirs, exe); err != nil || changed {
		t.Errorf("the same program once more: %v %v", changed, err)
	}
	bin := filepath.Dir(m.Program())
	var links []string
	for i := range 4 {
		src := filepath.Join(t.TempDir(), "fairlead")
		if err := os.WriteFile(src, fmt.Appendf(nil, "#!/bin/sh\necho version %d\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := Install(m.Dirs, src); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if out, err := exec.CommandContext(t.Context(), m.Program()).Output(); err != nil || string(out) != fmt.Sprintf("version %d\n", i) {
			t.Errorf("%q %v", out, err)
		}
		link, err := os.Readlink(m.Program())
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, link)
	}
	entries, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if all := strings.Join(names, " "); len(names) != 3 || !strings.Contains(all, links[2]) || !strings.Contains(all, links[3]) {
		t.Errorf("the new and the one before are kept, here are %s", names)
	}
	if _, err := Install(m.Dirs, filepath.Join(bin, "nope")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestDaemonLogIsMovedAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	for i, size := range []int64{maxDaemonLog + 1, 10, maxDaemonLog + 1, 10} {
		f, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi, err := f.Stat(); err != nil || i%2 == 1 && fi.Size() != 0 {
			t.Errorf("round %d: %d bytes %v", i, fi.Size(), err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("%v %v", entries, err)
	}
}

// Whoever asks for a role's number while it is being written must not find none: an upgrade would take the role for replaced.
func TestPIDWhileItIsWritten(t *testing.T) {
	d := home.Dirs{State: filepath.Join(t.TempDir(), "s"), Run: filepath.Join(t.TempDir(), "r")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	f, err := Hold(d, home.Edge)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		for range 2000 {
			if err := Sign(f); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
		if pid := PID(d, home.Edge); pid != os.Getpid() {
			t.Fatalf("process %d", pid)
		}
	}
}
