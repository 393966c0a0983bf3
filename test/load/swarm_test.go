package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// swarm is a steady load: a quarter each of GET and POST on connections that are kept and on a new connection a request.
// It speaks HTTP by hand, so that no library repeats a request that got lost.
type swarm struct {
	addr    string
	total   atomic.Int64
	failed  atomic.Int64
	mu      sync.Mutex
	reasons map[string]int
	stop    context.CancelFunc
	done    sync.WaitGroup
}

const (
	clients = 200
	// pace of one client: 4,000 requests a second in all, half of what two cores can take with everything on them.
	pace = 50 * time.Millisecond
	// limit of the whole load, should a test forget to stop it.
	limit = 8 * time.Minute
)

func newSwarm(t *testing.T, addr string) *swarm {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	s := &swarm{addr: addr, stop: cancel, reasons: map[string]int{}}
	for i := range clients {
		s.done.Go(func() { s.client(ctx, i) })
	}
	t.Cleanup(s.end)
	return s
}

// end stops the load after the requests under way.
func (s *swarm) end() {
	s.stop()
	s.done.Wait()
}

// client sends one request a tick. Each has a source address of its own, so that the ports of closed connections do not
// run out.
func (s *swarm) client(ctx context.Context, n int) {
	method := []string{"GET", "POST"}[n%2]
	keep := n/2%2 == 0
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n%250))}}
	var c *conn
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if c != nil {
				c.Close()
			}
			return
		case <-tick.C:
		}
		var err error
		if c == nil {
			c, err = dial(&dialer, s.addr)
		}
		if err == nil {
			var again bool
			if again, err = c.request(method, keep, n); !again || err != nil {
				c.Close()
				c = nil
			}
		}
		s.total.Add(1)
		if err != nil {
			s.failed.Add(1)
			s.mu.Lock()
			s.reasons[fmt.Sprintf("%s keep=%v: %v", method, keep, err)]++
			s.mu.Unlock()
		}
	}
}

type conn struct {
	net.Conn
	r *bufio.Reader
}

func dial(d *net.Dialer, addr string) (*conn, error) {
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// request sends one request and reads the whole answer; it reports whether the connection may be used again.
func (c *conn) request(method string, keep bool, n int) (again bool, err error) {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return false, err
	}
	body := ""
	if method == http.MethodPost {
		body = fmt.Sprintf("body of client %d ", n)
	}
	head := fmt.Sprintf("%s / HTTP/1.1\r\nHost: app\r\nContent-Length: %d\r\n", method, len(body))
	if !keep {
		head += "Connection: close\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"+body); err != nil {
		return false, fmt.Errorf("send: %w", err)
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return false, fmt.Errorf("read head: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return false, fmt.Errorf("read body: %w", err)
	}
	if res.StatusCode != http.StatusOK || string(b) != body+"ok" {
		return false, fmt.Errorf("%s %.80q", res.Status, b)
	}
	return keep && !res.Close, nil
}

// why lists the failures by their reason.
func (s *swarm) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for r, n := range s.reasons {
		fmt.Fprintf(&b, "\n  %d × %s", n, r)
	}
	return b.String()
}
