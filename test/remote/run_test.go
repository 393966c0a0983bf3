//go:build unix

package remote_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func sh(line string) remote.Command { return remote.Command{Args: []string{"sh", "-c", line}} }

func TestRun(t *testing.T) {
	_, h := reached(t, "")
	out, err := h.Run(t.Context(), remote.Command{Args: []string{"cat"}, Stdin: strings.NewReader("some input")})
	if err != nil || string(out) != "some input" {
		t.Fatalf("%q %v", out, err)
	}
	if sent, got := h.Sent(); sent < 1000 || got < 1000 {
		t.Errorf("%d bytes out and %d in are less than a handshake", sent, got)
	}

	_, err = h.Run(t.Context(), sh("echo one >&2; echo two >&2; exit 7"))
	exit, ok := errors.AsType[*remote.ExitError](err)
	if !ok || exit.Status != 7 || !strings.Contains(err.Error(), h.Name) {
		t.Fatalf("%v", err)
	}
	if lines := fail.As(err).Lines; strings.Join(lines, ",") != "one,two" {
		t.Errorf("%q", lines)
	}

	_, err = h.Run(t.Context(), sh("kill -TERM $$"))
	if exit, ok := errors.AsType[*remote.ExitError](err); !ok || exit.Signal != "TERM" {
		t.Errorf("%v", err)
	}
	if _, err = h.Run(t.Context(), remote.Command{Args: []string{"no-such-program"}}); err == nil || len(fail.As(err).Lines) == 0 {
		t.Errorf("%v %q", err, fail.As(err).Lines)
	}

	var all bytes.Buffer
	if _, err = h.Run(t.Context(), remote.Command{Args: []string{"head", "-c", "20000000", "/dev/zero"}, Stdout: &all}); err != nil || all.Len() != 20_000_000 {
		t.Errorf("%d bytes, %v", all.Len(), err)
	}
	if _, err = h.Run(t.Context(), remote.Command{Args: []string{"cat", "/dev/zero"}}); err == nil || !strings.Contains(err.Error(), "16 MiB") {
		t.Errorf("endless output: %v", err)
	}
}

// A command whose input nobody ends is over when it is over.
func TestInputThatDoesNotEnd(t *testing.T) {
	_, h := reached(t, "")
	r, w := io.Pipe()
	defer w.Close()
	if out, err := h.Run(t.Context(), remote.Command{Args: []string{"echo", "x"}, Stdin: r}); err != nil || string(out) != "x\n" {
		t.Fatalf("%q %v", out, err)
	}
	broken := errors.New("the disk is broken")
	_, err := h.Run(t.Context(), remote.Command{Args: []string{"cat"}, Stdin: io.MultiReader(strings.NewReader("half"), failing{broken})})
	if !errors.Is(err, broken) {
		t.Fatalf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestCancelledRunEndsAtOnce(t *testing.T) {
	// sshd signals what a user runs, but not what root does.
	m := sshd(t, "")
	m.trust(t)
	user := account(t, "/bin/sh")
	m.authorize(t, user, m.home+"/.ssh/id_ed25519.pub")
	h := m.dial(t, m.options(), user+"@127.0.0.1:"+m.port)
	mark := "/tmp/" + user + ".pid"
	t.Cleanup(func() { os.Remove(mark) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, sh("echo $$ >"+mark+"; exec sleep 600"))
		done <- err
	}()
	var pid string
	rig.Eventually(t, 20*time.Second, "the command runs", func() bool {
		b, err := os.ReadFile(mark)
		pid = strings.TrimSpace(string(b))
		return err == nil && pid != ""
	})
	begun := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || fail.KindOf(err) != fail.Interrupted || time.Since(begun) > 5*time.Second {
		t.Fatalf("%v after %v", err, time.Since(begun))
	}
	rig.Eventually(t, 20*time.Second, "the command was killed", func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	})
}

// Every byte but NUL reaches the program as it is, whichever the login shell.
func TestQuotingByEveryShell(t *testing.T) {
	var every []byte
	for b := 1; b < 256; b++ {
		every = append(every, byte(b))
	}
	args := []string{string(every), "", " ", "\n", "a\n\n", "\n\nb", "'", `\`, `\\`, `\'`, "!", "!!", "$n", `"$n"`, "~", "*", "-n", "a b", "=", "%d",
		"#", "`id`", "$(id)", "<x", "ä€😀", "!\n'\\", `\n`, "if", "{a,b}", "^", "(x)", "%self"}
	shells := []struct{ path, name, pkg string }{
		{"/bin/sh", "sh", "dash"}, {"/bin/bash", "bash", "bash"}, {"/usr/bin/fish", "fish", "fish"}, {"/usr/bin/tcsh", "tcsh", "tcsh"}, {"/bin/bsd-csh", "bsd-csh", "csh"},
		{"/usr/bin/zsh", "zsh", "zsh"}, {"/usr/bin/mksh", "mksh", "mksh"},
	}
	m := sshd(t, "")
	m.trust(t)
	for _, s := range shells {
		t.Run(s.name, func(t *testing.T) {
			path := rig.Tool(t, s.name, s.pkg)
			user := account(t, path)
			m.authorize(t, user, m.home+"/.ssh/id_ed25519.pub")
			h := m.dial(t, m.options(), user+"@127.0.0.1:"+m.port)
			defer h.Close()
			for _, a := range append(args, strings.Join(args, "")) {
				out, err := h.Run(t.Context(), remote.Command{Args: []string{"printf", "%s|", a, "next"}})
				if err != nil || string(out) != a+"|next|" {
					t.Errorf("%q came as %q (%v) %q", a, out, err, fail.As(err))
				}
			}
			if _, err := h.Run(t.Context(), remote.Command{Args: []string{"echo", "a\x00b"}}); fail.KindOf(err) != fail.Usage {
				t.Errorf("a NUL: %v", err)
			}
		})
	}
}

func TestManySessionsAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, conf string
		streams    int
	}{
		{"ten by default", "", 35},
		{"one", "MaxSessions 1", 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, h := reached(t, c.conf)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			conns := make([]net.Conn, c.streams)
			for i := range conns {
				wg.Go(func() {
					k, err := h.Conn(ctx, remote.Command{Args: []string{"cat"}})
					if err != nil {
						t.Errorf("%d: %v", i, err)
						return
					}
					conns[i] = k
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			for i, k := range conns { // all are open at once
				said := fmt.Sprintf("number %d", i)
				if _, err := io.WriteString(k, said); err != nil {
					t.Error(err)
				}
				got := make([]byte, len(said))
				if _, err := io.ReadFull(k, got); err != nil || string(got) != said {
					t.Errorf("%q %v", got, err)
				}
				k.Close()
			}
		})
	}
}

// Where the machine lets in no more connections either, commands wait for each other.
func TestSessionsWaitForEachOther(t *testing.T) {
	m, h := reached(t, "MaxSessions 2")
	m.authorize(t, "root") // from now on nobody is let in
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if out, err := h.Run(t.Context(), remote.Command{Args: []string{"echo", fmt.Sprint(i)}}); err != nil || string(out) != fmt.Sprintln(i) {
				t.Errorf("%d: %q %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func TestNoSessionsAtAll(t *testing.T) {
	_, h := reached(t, "MaxSessions 0")
	_, err := h.Run(t.Context(), remote.Command{Args: []string{"id"}})
	if fail.KindOf(err) != fail.Preflight || !strings.Contains(fail.As(err).Hint, "MaxSessions") {
		t.Fatalf("%v", err)
	}
}

func TestConn(t *testing.T) {
	_, h := reached(t, "")
	dial := func(line string) net.Conn {
		t.Helper()
		c, err := h.Conn(t.Context(), sh(line))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}

	c := dial("cat; exit 0")
	data := make([]byte, 8<<20)
	rand.Read(data)
	go func() {
		c.Write(data)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}

	c = dial("cat")
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a Read at its deadline: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	io.WriteString(c, "x")
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("after a deadline: %d %v", n, err)
	}
	c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	c = dial("exec sleep 600") // takes nothing: windows fill up
	c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err = nil; err == nil; {
		_, err = c.Write(data)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a Write at its deadline: %v", err)
	}

	c = dial("echo before; echo why >&2; exit 3")
	got, err = io.ReadAll(c)
	if exit, ok := errors.AsType[*remote.ExitError](err); !ok || exit.Status != 3 || string(got) != "before\n" || strings.Join(fail.As(err).Lines, "") != "why" {
		t.Errorf("%q %v %q", got, err, fail.As(err).Lines)
	}

	file := t.TempDir() + "/written"
	c = dial("cat > " + file)
	c.Write(data[:1<<20])
	c.Close() // what was written is still sent
	rig.Eventually(t, 20*time.Second, "all is written", func() bool {
		fi, err := os.Stat(file)
		return err == nil && fi.Size() == 1<<20
	})
}
