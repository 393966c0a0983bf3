//go:build unix

package edgeload

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const (
	// pace of one client: some 1,500 requests a second in all, which leaves two cores room for what is done meanwhile.
	pace = 150 * time.Millisecond
	// patient is how long a client waits for an answer. Nothing but a lost request takes that long.
	patient = 30 * time.Second
	// limit of the whole load, should a test forget to stop it.
	limit = 5 * time.Minute
)

// site is where a service is reached.
type site struct {
	host string
	addr string
	tls  *tls.Config // nil for plain HTTP
}

// load is what many clients ask of services, and what they saw. None of them sends a request again, but where the protocol
// says that the server did not look at it.
type load struct {
	t        *testing.T
	ctx      context.Context // ends with the load
	stop     context.CancelFunc
	done     sync.WaitGroup
	clients  int
	requests atomic.Int64 // that were answered, opened sockets among them
	messages atomic.Int64 // that came back over a socket
	again    atomic.Int64 // requests by HTTP/2 that a server which was leaving sent back unseen
	failed   atomic.Int64
	serials  sync.Map // of the certificates that were shown
	mu       sync.Mutex
	reasons  map[string]int
}

func newLoad(t *testing.T) *load {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	l := &load{t: t, ctx: ctx, stop: cancel, reasons: map[string]int{}}
	t.Cleanup(l.end)
	return l
}

// end stops the load after what is under way.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}

func (l *load) fail(what string, err error) {
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reasons[fmt.Sprintf("%s: %v", what, err)]++
}

// why lists the failures by their reason.
func (l *load) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for r, n := range l.reasons {
		fmt.Fprintf(&b, "\n  %d × %s", n, r)
	}
	return b.String()
}

// run starts n clients; each is a connection at any time, and has a source address of its own, so that the ports of closed ones do
// not run out. step does what a client does once in a while, and rest is called at the end.
func (l *load) run(n int, what string, s site, kind func(s site, d *net.Dialer, n int) (step func() error, rest func() error)) {
	for range n {
		l.clients++
		d := &net.Dialer{Timeout: patient, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+l.clients%250))}}
		if s.tls != nil {
			s.tls = s.tls.Clone() // a library puts its protocols in
		}
		step, rest := kind(s, d, l.clients)
		l.done.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-l.ctx.Done():
					if err := rest(); err != nil {
						l.fail(what+", its end", err)
					}
					return
				case <-tick.C:
				}
				if err := step(); err != nil {
					l.fail(what, err)
				}
			}
		})
	}
}

// dial opens a connection of the site's kind.
func (l *load) dial(s site, d *net.Dialer) (net.Conn, error) {
	c, err := d.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return nil, err
	}
	if s.tls == nil {
		return c, nil
	}
	t := tls.Client(c, s.tls)
	if err := t.Handshake(); err != nil {
		return nil, errors.Join(fmt.Errorf("handshake: %w", err), c.Close())
	}
	st := t.ConnectionState()
	if !st.DidResume { // or it is the one of the first time
		l.serials.Store(st.PeerCertificates[0].SerialNumber.String(), true)
	}
	return t, nil
}

// body is what client n posts.
func body(n int) string { return fmt.Sprintf("body of client %d ", n) }

// one is a client of HTTP/1.1 by hand, so that no library repeats a request that got lost.
func (l *load) one(keep bool) func(s site, d *net.Dialer, n int) (step, rest func() error) {
	return func(s site, d *net.Dialer, n int) (step, rest func() error) {
		var c net.Conn
		var r *bufio.Reader
		if s.tls != nil && n%4 < 2 { // half of those that come anew resume
			s.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		rest = func() error {
			if c != nil {
				c.Close()
				c = nil
			}
			return nil
		}
		return func() error {
			if c == nil {
				var err error
				if c, err = l.dial(s, d); err != nil {
					return err
				}
				r = bufio.NewReader(c)
			}
			again, err := exchange(c, r, s.host, n, keep)
			if !again || err != nil {
				rest()
			}
			if err == nil {
				l.requests.Add(1)
			}
			return err
		}, rest
	}
}

// exchange sends one request and reads the whole answer; it reports whether the connection may be used again.
func exchange(c net.Conn, r *bufio.Reader, host string, n int, keep bool) (again bool, err error) {
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return false, err
	}
	method, sent := http.MethodGet, ""
	if n%2 == 1 {
		method, sent = http.MethodPost, body(n)
	}
	head := fmt.Sprintf("%s / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, host, len(sent))
	if !keep {
		head += "Connection: close\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"+sent); err != nil {
		return false, fmt.Errorf("%s, send: %w", method, err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return false, fmt.Errorf("%s, head: %w", method, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return false, fmt.Errorf("%s, body: %w", method, err)
	}
	if res.StatusCode != http.StatusOK || string(b) != sent+"ok" {
		return false, fmt.Errorf("%s: %s %.80q", method, res.Status, b)
	}
	return keep && !res.Close, nil
}

// two is a client of HTTP/2 on one connection at a time, with a GET and a POST at once.
func (l *load) two(s site, d *net.Dialer, n int) (step, rest func() error) {
	scheme, p := "http", new(http.Protocols)
	if s.tls != nil {
		scheme = "https"
		p.SetHTTP2(true)
	} else {
		p.SetUnencryptedHTTP2(true)
	}
	tr := &http.Transport{Protocols: p, DialContext: d.DialContext, TLSClientConfig: s.tls}
	var c *http.ClientConn
	rest = func() error {
		if c == nil {
			return nil
		}
		err := c.Close()
		c = nil
		return err
	}
	return func() error {
		if c != nil && (c.Err() != nil || c.Available() == 0) {
			rest()
		}
		if c == nil {
			var err error
			if c, err = tr.NewClientConn(context.WithoutCancel(l.ctx), scheme, s.addr); err != nil {
				return err
			}
		}
		errs := make(chan error, 2)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			go func() { errs <- l.stream(c, method, s, n) }()
		}
		return errors.Join(<-errs, <-errs)
	}, rest
}

// stream is one request by HTTP/2.
func (l *load) stream(c *http.ClientConn, method string, s site, n int) error {
	sent := ""
	if method == http.MethodPost {
		sent = body(n)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), patient)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "/", strings.NewReader(sent))
	if err != nil {
		return err
	}
	r.URL.Scheme, r.URL.Host = "http", s.host
	if s.tls != nil {
		r.URL.Scheme = "https"
	}
	res, err := c.RoundTrip(r)
	if err != nil && unseen(err) {
		l.again.Add(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return l.answered(res, 2, method, sent)
}

// answered counts a request if its answer, by this version of HTTP, is the whole of the right one.
func (l *load) answered(res *http.Response, version int, method, sent string) error {
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.ProtoMajor != version || res.StatusCode != http.StatusOK || string(b) != sent+"ok" {
		return fmt.Errorf("%s: %s %s %.80q %w", method, res.Proto, res.Status, b, err)
	}
	l.requests.Add(1)
	return nil
}

// unseen reports whether a server that is leaving said that it did not look at a request (GOAWAY, RFC 9113, section 6.8), which
// therefore any client sends again on another connection. The library has no better way to say it.
func unseen(err error) bool {
	for _, text := range []string{"received Server's graceful shutdown GOAWAY", "client conn not usable"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// socket is a client of a WebSocket, which is opened anew after so many messages, or never.
func (l *load) socket(messages int) func(s site, d *net.Dialer, n int) (step, rest func() error) {
	return func(s site, d *net.Dialer, n int) (step, rest func() error) {
		one := new(http.Protocols)
		one.SetHTTP1(true)
		scheme := "ws"
		if s.tls != nil {
			scheme = "wss"
		}
		client := &http.Client{Transport: &http.Transport{Protocols: one, DialContext: d.DialContext, TLSClientConfig: s.tls, DisableKeepAlives: true}}
		var c *websocket.Conn
		sent := 0
		rest = func() error {
			if c == nil {
				return nil
			}
			err := c.Close(websocket.StatusNormalClosure, "")
			c = nil
			return err
		}
		broken := false
		return func() error {
			if broken {
				return nil // it is counted, and one that should have stayed open does not count as another
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), patient)
			defer cancel()
			if c == nil {
				var err error
				if c, _, err = websocket.Dial(ctx, scheme+"://"+s.addr+"/ws", &websocket.DialOptions{HTTPClient: client, Host: s.host}); err != nil {
					c = nil
					return fmt.Errorf("open: %w", err)
				}
				l.requests.Add(1)
			}
			message := fmt.Appendf(nil, "message %d of client %d", sent, n)
			err := c.Write(ctx, websocket.MessageText, message)
			var back []byte
			if err == nil {
				_, back, err = c.Read(ctx)
			}
			if err != nil || !bytes.Equal(back, message) {
				c.CloseNow()
				c, broken = nil, messages == 0
				return fmt.Errorf("message %d: %.80q %w", sent, back, err)
			}
			l.messages.Add(1)
			if sent++; messages > 0 && sent%messages == 0 {
				return rest()
			}
			return nil
		}, rest
	}
}
