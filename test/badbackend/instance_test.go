//go:build unix

package badbackend

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	idHeader = "X-Id"
	badPath  = "/report" // the one that some instances cannot answer
	work     = 10 * time.Millisecond
	slowness = 500 * time.Millisecond
	oneIn    = 20 // requests of a slow instance is slow
)

// instance is a server on bare sockets: no HTTP library would let it be as bad as it should.
type instance struct {
	addr string
	hung atomic.Int64 // requests that wait for their other side to have enough of it
	end  chan struct{}

	mu      sync.Mutex
	arrived map[string]int // how often each request came whole
}

// manner is how an instance answers its n-th request. It reports whether the connection can be used again.
type manner func(i *instance, n int64, c *net.TCPConn, r *http.Request) (keep bool)

// start starts an instance. With greet, that is all it does with a connection unless it reports true.
func start(t testing.TB, m manner, greet func(*net.TCPConn) bool) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{addr: l.Addr().String(), arrived: map[string]int{}, end: make(chan struct{})}
	var done sync.WaitGroup
	var conns sync.Map
	var asked atomic.Int64
	done.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := nc.(*net.TCPConn)
			conns.Store(c, true)
			done.Go(func() {
				defer conns.Delete(c)
				defer c.Close()
				if greet != nil && !greet(c) {
					return
				}
				for r := bufio.NewReader(c); i.read(r, func(req *http.Request) bool { return m(i, asked.Add(1), c, req) }); {
				}
			})
		}
	})
	t.Cleanup(func() {
		close(i.end)
		l.Close()
		conns.Range(func(c, _ any) bool {
			c.(net.Conn).Close()
			return true
		})
		done.Wait()
	})
	return i
}

// read reads a request whole and has it answered.
func (i *instance) read(r *bufio.Reader, answer func(*http.Request) bool) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return false
	}
	i.mu.Lock()
	i.arrived[req.Header.Get(idHeader)]++
	i.mu.Unlock()
	return answer(req)
}

// came is how many requests came, those that came again included.
func (i *instance) came() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	sum := 0
	for _, n := range i.arrived {
		sum += n
	}
	return sum
}

// got is how often a request came whole.
func (i *instance) got(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.arrived[id]
}

// busy is the time that a request takes. It reports false when the instance ended meanwhile.
func (i *instance) busy(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-i.end:
		return false
	}
}

// hang waits until the other side has enough of it.
func (i *instance) hang(c *net.TCPConn) bool {
	i.hung.Add(1)
	defer i.hung.Add(-1)
	io.Copy(io.Discard, c)
	return false
}

// reset ends a connection by RST.
func reset(c *net.TCPConn) bool {
	c.SetLinger(0)
	c.Close()
	return false
}

// page is the right answer to a request, and nobody else's.
func page(id string) string { return id + "\n" + strings.Repeat("x", 3000) }

// say writes an answer, up to the fraction of its body that is asked for, in one of the two ways in which its end is told.
func say(c *net.TCPConn, status int, body string, chunked bool, upTo float64) bool {
	part := body[:int(float64(len(body))*upTo)]
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n", status, http.StatusText(status))
	if chunked {
		text += fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(part), part)
		if upTo == 1 {
			text += "0\r\n\r\n"
		}
	} else {
		text += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), part)
	}
	_, err := io.WriteString(c, text)
	return err == nil && upTo == 1
}

func well(i *instance, n int64, c *net.TCPConn, r *http.Request) bool {
	return i.busy(work) && say(c, http.StatusOK, page(r.Header.Get(idHeader)), n%2 == 0, 1)
}

func fails(_ *instance, n int64, c *net.TCPConn, _ *http.Request) bool {
	return say(c, http.StatusInternalServerError, "it is broken\n", n%2 == 0, 1)
}

func hangs(i *instance, _ int64, c *net.TCPConn, _ *http.Request) bool { return i.hang(c) }

func hangsWithin(i *instance, n int64, c *net.TCPConn, r *http.Request) bool {
	say(c, http.StatusOK, page(r.Header.Get(idHeader)), n%2 == 0, 0.5)
	return i.hang(c)
}

func resets(_ *instance, _ int64, c *net.TCPConn, _ *http.Request) bool { return reset(c) }

func resetsWithin(_ *instance, n int64, c *net.TCPConn, r *http.Request) bool {
	say(c, http.StatusOK, page(r.Header.Get(idHeader)), n%2 == 0, 0.5)
	if n%4 < 2 {
		return reset(c)
	}
	return false // closed as if that had been all
}

// nonsense is what other protocols and broken programs say.
var nonsense = []string{
	"SSH-2.0-OpenSSH_9.9\r\n", // and waits for an answer, as SSH does
	"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
	"HTTP/1.1 abc fine\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
	strings.Repeat("nonsense", 32<<10),
}

func babbles(i *instance, n int64, c *net.TCPConn, _ *http.Request) bool {
	text := nonsense[n%int64(len(nonsense))]
	if _, err := io.WriteString(c, text); err == nil && strings.HasPrefix(text, "SSH") {
		return i.hang(c)
	}
	return false
}

func slow(i *instance, n int64, c *net.TCPConn, r *http.Request) bool {
	if n%oneIn == oneIn/2 && !i.busy(slowness) {
		return false
	}
	return well(i, n, c, r)
}

func failsOnePath(i *instance, n int64, c *net.TCPConn, r *http.Request) bool {
	if r.URL.Path == badPath {
		return fails(i, n, c, r)
	}
	return well(i, n, c, r)
}

// refuses is an address where nobody listens, and where nobody else can while the test lasts.
func refuses(t testing.TB) *instance {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &instance{addr: fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port), arrived: map[string]int{}}
}
