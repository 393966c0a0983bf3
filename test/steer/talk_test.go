//go:build linux

package steer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/steer"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// nobody as the name of a service gives up its rights and says what it can do without them.
const nobody = "-"

func init() {
	if os.Getenv(asBackend) == nobody {
		err := unix.Setuid(65534)
		k, lacks := steer.Open("fairlead-test-nobody")
		fmt.Println(k == nil, lacks, err)
		os.Exit(0)
	}
}

// within is a service in the test's own process: f has each of its connections, which are closed when it returns.
func within(t *testing.T, f func(*net.TCPConn)) steer.Socket {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	self, err := proc.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return steer.Socket{Process: self, Port: l.Addr().(*net.TCPAddr).Port}
}

func dial(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// exchange sends a line and returns the next n bytes.
func exchange(t *testing.T, c net.Conn, line string, n int) string {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func only(at netip.AddrPort, s steer.Socket, observe bool) steer.Service {
	return steer.Service{Listen: at, Observe: observe, Shares: []steer.Share{{Release: 1, Weight: 100, Sockets: []steer.Socket{s}}}}
}

// ending begins to drain; the connections that come from then on are told to end, too.
func ending(t *testing.T, k *steer.Kernel, at netip.AddrPort, s steer.Socket, limit time.Duration) chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- k.Drain(ctx, at, s) }()
	return done
}

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestOtherProtocols: no byte of a service that does not speak HTTP is changed, and its ends are no failures.
func TestOtherProtocols(t *testing.T) {
	k, at := open(t), public(t)
	for name, hello := range map[string]string{"an echo": "hello\n", "after a switch": "HTTP/1.1 101 Switching Protocols\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			s := within(t, func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadBytes('!')
					if err != nil || string(line) == "end!" {
						return
					}
					c.Write(line)
				}
			})
			set(t, k, only(at, s, true))
			busy := dial(t, at) // keeps the drain from ending
			exchange(t, busy, hello+"!", len(hello)+1)
			done := ending(t, k, at, s, 20*time.Second)
			rig.Eventually(t, 5*time.Second, "the drain", func() bool { // who speaks HTTP is told
				c := dial(t, at)
				defer c.Close()
				io.WriteString(c, answer+"!")
				c.CloseWrite()
				b, err := io.ReadAll(c)
				return err == nil && strings.Contains(string(b), "Connection: close")
			})
			k.Take()
			var mine []*net.TCPConn
			for range 200 {
				c := dial(t, at)
				mine = append(mine, c)
				for _, text := range []string{hello + "!", answer + "!", answer + "!"} {
					if got := exchange(t, c, text, len(text)); got != text {
						t.Fatalf("%q came back as %q", text, got)
					}
				}
			}
			for _, c := range mine {
				io.WriteString(c, "end!")
				if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
					t.Errorf("%q, %v", b, err)
				}
			}
			io.WriteString(busy, "end!")
			<-done
			if n := k.Take()[s]; n.Unanswered != 0 || n.Last != 0 || n.Classes[2] != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// TestDrainWaits: an answer that pauses is under way until its client, told that it is the last one, is gone.
func TestDrainWaits(t *testing.T) {
	k, at := open(t), public(t)
	next := make(chan bool)
	s := within(t, func(c *net.TCPConn) {
		for r := bufio.NewReader(c); ; {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, answer[:len(answer)-2])
			<-next
			io.WriteString(c, answer[len(answer)-2:])
		}
	})
	set(t, k, only(at, s, true))
	c := dial(t, at)
	// The first one is whole when the drain begins: the connection is idle.
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	next <- true
	exchange(t, c, "", len(answer))
	if err := <-ending(t, k, at, s, 10*time.Second); err != nil {
		t.Errorf("an idle connection: %v", err)
	}
	told := len(answer) + len("Connection: close\r\n") - 2
	if got := exchange(t, c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", told); !strings.Contains(got, "Connection: close") {
		t.Errorf("%q", got)
	}
	if err := <-ending(t, k, at, s, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("half an answer: %v", err)
	}
	done := ending(t, k, at, s, 10*time.Second)
	next <- true
	exchange(t, c, "", 2)
	c.Close()
	if err := <-done; err != nil {
		t.Errorf("the whole answer: %v", err)
	}
}

// TestDrainOfIdle: a connection that was answered a moment before anybody looked has nothing under way.
func TestDrainOfIdle(t *testing.T) {
	k, at := open(t), public(t)
	a := start(t, "a")
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(1, a)}})
	var kept []*http.Client
	for range 300 {
		c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 5 * time.Second}
		if got := get(c, "http://"+at.String()); got != "a" {
			t.Fatal(got)
		}
		kept = append(kept, c)
	}
	if err := <-ending(t, k, at, a.Socket, 10*time.Second); err != nil {
		t.Error(err)
	}
	for _, c := range kept {
		c.CloseIdleConnections()
	}
}

// TestCloseWhileDraining: an agent that ends does not let go of who is being served.
func TestCloseWhileDraining(t *testing.T) {
	k, at := openAs(t, named(t)), public(t)
	a := start(t, "a")
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(1, a)}})
	c := dial(t, at)
	io.WriteString(c, "GET /slow?for=3s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if _, err := a.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	done := ending(t, k, at, a.Socket, time.Second)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(b, []byte("a")) {
		t.Errorf("%q, %v", b, err)
	}
}

// TestShapes: whatever an answer is and however it is written, what comes is what was sent and at most one header more.
func TestShapes(t *testing.T) {
	k, at := open(t), public(t)
	big := strings.Repeat("HTTP/1.1 200 OK\r\n", 200_000)
	shapes := []string{
		answer, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n" + answer,
		"HTTP/1.1 100 Continue\r\n\r\n" + answer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\nX: y\n\n",
		"HTTP/1.1 200 " + strings.Repeat("x", 200) + "\r\n\r\n", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
		fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(big)) + big,
	}
	s := within(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			var shape, how, at int
			if _, err2 := fmt.Sscan(line, &shape, &how, &at); err != nil || err2 != nil {
				return
			}
			text := []byte(shapes[shape])
			switch at = min(at, len(text)); how {
			case 0:
				c.Write(text)
			case 1: // two writes
				c.Write(text[:at])
				c.Write(text[at:])
			case 2: // writev
				(&net.Buffers{text[:at], text[at:]}).WriteTo(c)
			case 3: // sendfile
				f, err := os.CreateTemp(t.TempDir(), "")
				if err != nil {
					return
				}
				f.Write(text)
				f.Seek(0, io.SeekStart)
				io.Copy(c, f)
				f.Close()
			}
		}
	})
	set(t, k, only(at, s, true))
	busy := dial(t, at)
	io.WriteString(busy, "0 1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- k.Drain(ctx, at, s) }()
	told := 0
	for n := range 3000 {
		shape := rand.IntN(len(shapes))
		if shape == len(shapes)-1 && n%10 > 0 {
			shape = 0
		}
		c := dial(t, at)
		fmt.Fprintln(c, shape, rand.IntN(4), 1+rand.IntN(60))
		c.CloseWrite()
		b, err := io.ReadAll(c)
		c.Close()
		got := string(b)
		if head, rest, ok := strings.Cut(got, "Connection: close\r\n"); ok {
			told++
			line := strings.TrimPrefix(head, "HTTP/1.1 100 Continue\r\n\r\n") // which may come alone
			if !strings.HasPrefix(line, "HTTP/1.1 ") || strings.Index(line, "\n") != len(line)-1 {
				t.Errorf("in the midst: %.200q", got)
			}
			got = head + rest
		}
		if err != nil || got != shapes[shape] {
			t.Errorf("shape %d came as %.200q (%d bytes for %d): %v", shape, got, len(got), len(shapes[shape]), err)
		}
	}
	if told < 1000 {
		t.Errorf("only %d answers were told to be the last ones", told)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error("the drain: ", err)
	}
}

// TestEncryptedByTheKernel: connections that cannot be looked at (kTLS) keep nothing else from being drained.
func TestEncryptedByTheKernel(t *testing.T) {
	k, at := open(t), public(t)
	ready := make(chan error)
	s := within(t, func(c *net.TCPConn) {
		raw, err := c.SyscallConn()
		if err == nil {
			err2 := raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_ULP, "tls") })
			err = errors.Join(err, err2)
		}
		ready <- err
		io.Copy(io.Discard, c)
	})
	set(t, k, only(at, s, false))
	c := dial(t, at)
	if err := <-ready; err != nil {
		t.Skip("this kernel has no TLS of its own: ", err)
	}
	io.WriteString(c, "x")
	if err := <-ending(t, k, at, s, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.Close()
	if err := <-ending(t, k, at, s, 10*time.Second); err != nil {
		t.Error(err)
	}
}

// TestOneEnded: an instance that just ended does not keep the others from being steered to.
func TestOneEnded(t *testing.T) {
	k, at := open(t), public(t)
	a, b := start(t, "a"), start(t, "b")
	both := steer.Service{Listen: at, Observe: true, Shares: []steer.Share{one(1, a, b)}}
	set(t, k, both)
	a.kill()
	set(t, k, both)
	if got := ask(t, at, 50); got["b"] != 50 {
		t.Errorf("%v", got)
	}
}

// TestUnprivileged: who may not is told so, and gets nothing to call.
func TestUnprivileged(t *testing.T) {
	open(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asBackend+"="+nobody)
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "CAP_BPF") || !strings.HasSuffix(string(out), " <nil>\n") {
		t.Errorf("%q, %v", out, err)
	}
}
