//go:build unix

package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clientBuffer = 4 << 10 // a larger head is for net/http; an idle connection keeps one of these
	writeBuffer  = 16 << 10
	// bodyWait is how long the rest of a small body may take that did not come with its head, before the connection is given
	// to net/http, which sends bodies on while they come.
	bodyWait = 5 * time.Millisecond
	// lookAfter is how long an instance may take until somebody looks whether the client is still there.
	lookAfter = 50 * time.Millisecond
)

// clientConn is a client's connection while the edge reads its requests itself.
type clientConn struct {
	net.Conn
	s      *Server
	listen string
	tls    *tls.ConnectionState // nil for plain HTTP
	peer   netip.Addr
	peerIP string
	r      *bufio.Reader
	w      *bufio.Writer
	buf    []byte // of the head
	head   head
	frame  messageFrame
	host   string // the Host header
	path   string // of the target, as routes compare it
	body   []byte // of the request: whole, as it came
	holds  int64  // what a body in chunks holds, in bytes
	out    []byte // what is sent to the instance
	set    time.Time
	until  time.Time // when the request's time is over; zero for never

	watching bool
	gone     chan struct{} // closed when the client went away
	watched  chan struct{} // closed when the watcher has ended
	left     atomic.Bool
}

var clientBuffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, clientBuffer) }}
var writeBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeBuffer) }}

// errHandOver says that a connection is for net/http from here on.
var errHandOver = errors.New("for net/http")

// take serves a connection: requests of the usual kind itself, and from the first other one on by net/http.
func (s *Server) take(addr string, nc net.Conn, others *handed) {
	c := &clientConn{Conn: nc, s: s, listen: addr}
	if c.begin(others) {
		c.end(c.serve(), others)
	}
}

// begin has the handshake, where there is one, and reports whether the edge reads the requests itself. It and end are not parts of take so
// that an idle connection's stack, which has all the room that they need in its frames, stays small.
func (c *clientConn) begin(others *handed) bool {
	if err := introduce(c.Conn); err != nil {
		c.s.log.Debug("a proxy did not say whom it speaks for", "proxy", c.RemoteAddr().String(), "error", err)
		c.hangUp()
		return false
	}
	if c.s.passOn(c.listen, c.Conn) {
		return false
	}
	if t, ok := c.Conn.(*tls.Conn); ok && !c.shake(t, others) {
		return false
	}
	c.peer = addrPort(c.RemoteAddr()).Addr()
	c.peerIP = c.peer.String()
	c.r = clientBuffers.Get().(*bufio.Reader)
	c.r.Reset(c.Conn)
	return true
}

// shake is begin for a connection with TLS.
func (c *clientConn) shake(t *tls.Conn, others *handed) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readHeaderTimeout)
	err := t.HandshakeContext(ctx)
	cancel()
	if err != nil {
		c.hangUp()
		return false
	}
	st := t.ConnectionState()
	if c.s.passOnSecret(c.listen, t, st) {
		return false
	}
	switch c.tls = &st; st.NegotiatedProtocol {
	case "", "http/1.1":
		return true
	case "h2":
		rest, err := greeting(t)
		if err != nil {
			c.hangUp()
			return false
		}
		others.give(c.handedOn(rest))
	default:
		others.give(c.handedOn(nil))
	}
	return false
}

// end gives the connection on where it is for net/http, and ends it otherwise.
func (c *clientConn) end(err error, others *handed) {
	if errors.Is(err, errHandOver) {
		c.SetReadDeadline(time.Time{})
		rest := append(append([]byte(nil), c.buf...), c.body...)
		if n := c.r.Buffered(); n > 0 {
			b, _ := c.r.Peek(n)
			rest = append(rest, b...)
		}
		others.give(c.handedOn(rest))
	} else {
		c.hangUp()
	}
	c.r.Reset(nil)
	clientBuffers.Put(c.r)
}

func (c *clientConn) hangUp() {
	c.Close()
	c.s.conns.Add(-1)
}

// preface is what a client of HTTP/2 begins with (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// greeting reads the preface of a client that chose HTTP/2 in its handshake. net/http, which does not see that, would take
// whatever else it says for HTTP/1.1.
func greeting(c net.Conn) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(readHeaderTimeout)); err != nil {
		return nil, err
	}
	b := make([]byte, len(preface))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	if string(b) != preface {
		return nil, errors.New("a client that chose HTTP/2 speaks something else")
	}
	return b, c.SetReadDeadline(time.Time{})
}

// introduce reads what a proxy in front says of the client, where one does.
func introduce(nc net.Conn) error {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if h, ok := nc.(*helloConn); ok {
		nc = h.Conn
	}
	if c, ok := nc.(*introducedConn); ok {
		return c.introduce()
	}
	return nil
}

// serve reads requests until the connection ends, or one comes that is not for it. Then c.buf has its head.
func (c *clientConn) serve() error {
	for first := true; ; first = false {
		if err := c.readHead(first); err != nil {
			return err
		}
		if !c.usual() {
			return errHandOver
		}
		c.s.serving.Add(1)
		c.w = writeBuffers.Get().(*bufio.Writer) // only while it answers: most connections are idle
		c.w.Reset(c.Conn)
		keep, err := c.exchange()
		c.w.Reset(nil)
		writeBuffers.Put(c.w)
		c.s.serving.Add(-1)
		if err != nil {
			return err
		}
		if !keep {
			return nil
		}
	}
}

// readHead reads a head into c.buf. An idle connection is kept for idleTimeout, one on which a head has begun for
// readHeaderTimeout.
func (c *clientConn) readHead(first bool) error {
	c.buf, c.body = c.buf[:0], c.body[:0]
	if c.r.Buffered() == 0 {
		// To set a deadline costs as much as to read: one that is a little later does as well.
		if now := time.Now(); first || now.Sub(c.set) > idleTimeout/16 {
			wait := idleTimeout + idleTimeout/16
			if c.set = now; first {
				wait, c.set = readHeaderTimeout, time.Time{}
			}
			if err := c.SetReadDeadline(now.Add(wait)); err != nil {
				return err
			}
		}
	}
	began := false
	var err error
	c.buf, err = takeHead(c.r, c.buf, func() error {
		if began {
			return nil
		}
		began, c.set = true, time.Time{}
		return c.SetReadDeadline(time.Now().Add(readHeaderTimeout))
	})
	if errors.Is(err, errHeadSize) || began && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return errHandOver // it says what is wrong
	}
	return err
}

// usual parses the head in c.buf and reads a small body. It reports false for what net/http shall see to.
func (c *clientConn) usual() bool {
	h := &c.head
	if !h.parse(c.buf) || h.third != "HTTP/1.1" || !allToken(h.first) || h.second[0] != '/' || len(h.second) > 1 && h.second[1] == '/' {
		return false
	}
	var ok bool
	if c.path, ok = decoded(h.second); !ok {
		return false
	}
	hosts := 0
	for _, x := range h.fields {
		switch {
		case same(x.name, "host"):
			hosts, c.host = hosts+1, x.value
			if !plainHost(x.value) {
				return false
			}
		case same(x.name, "expect"), same(x.name, "upgrade"), same(x.name, "trailer"):
			return false
		}
	}
	c.frame = h.frame()
	if hosts != 1 || c.frame.odd || h.first == http.MethodConnect || h.first == "PRI" {
		return false
	}
	return c.takeBody()
}

// takeBody takes a small body that comes with its head or just behind it. It reports false for any other: what came of that is
// where it was.
func (c *clientConn) takeBody() bool {
	if c.frame.length > clientBuffer {
		return false
	}
	n := int(max(c.frame.length, 0))
	for waited := false; ; waited = true {
		have := c.r.Buffered()
		if c.frame.chunked {
			b, _ := c.r.Peek(have)
			var ok bool
			if n, c.holds, ok = plainChunks(b); !ok {
				return false
			}
			if n == 0 {
				n = have + 1 // at least
			}
		}
		if n <= have {
			break
		}
		if !waited {
			if c.SetReadDeadline(time.Now().Add(bodyWait)) != nil {
				return false
			}
			c.set = time.Time{}
		}
		if _, err := c.r.Peek(n); err != nil {
			return false
		}
	}
	b, _ := c.r.Peek(n)
	c.body = append(c.body, b...)
	c.r.Discard(n)
	return true
}

// plainHost reports whether a Host is a name or an address and perhaps a port, and nothing else.
func plainHost(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == ':' || c == '[' || c == ']' || c == '_') {
			return false
		}
	}
	return s != ""
}

// watch begins to look whether the client goes away while it is waited for an instance: one that closes its connection, or its
// side of it, does not wait any more. What it sends meanwhile is its next request, which stays where it is.
func (c *clientConn) watch() <-chan struct{} {
	if c.watching {
		return c.gone
	}
	c.watching = true
	c.gone, c.watched = make(chan struct{}), make(chan struct{})
	c.set = time.Time{}
	c.SetReadDeadline(time.Time{})
	if c.r.Buffered() > 0 {
		close(c.watched) // it has asked for more already
		return c.gone
	}
	go func() {
		defer close(c.watched)
		if _, err := c.r.Peek(1); err != nil && !c.left.Load() {
			c.left.Store(true)
			close(c.gone)
		}
	}()
	return c.gone
}

// unwatch ends the watching: nobody else reads from the connection then. It reports whether the client is still there.
func (c *clientConn) unwatch() bool {
	if !c.watching {
		return true
	}
	c.watching = false
	here := !c.left.Swap(true) // what comes now is our own doing
	c.SetReadDeadline(time.Unix(1, 0))
	<-c.watched
	c.left.Store(!here)
	c.SetReadDeadline(time.Time{})
	return here
}

// waiting is the context of who waits for the sake of a client. Only somebody who really waits makes it look. It ends with the
// request's time, too; but its channel is not closed by that, so that no request needs a timer: who waits asks for the deadline.
type waiting struct{ c *clientConn }

func (w waiting) Deadline() (time.Time, bool) { return w.c.until, !w.c.until.IsZero() }
func (w waiting) Done() <-chan struct{}       { return w.c.watch() }
func (w waiting) Value(any) any               { return nil }
func (w waiting) Err() error {
	if w.c.left.Load() {
		return context.Canceled
	}
	if at, ok := w.Deadline(); ok && !time.Now().Before(at) {
		return errRequestTime
	}
	return nil
}

// AfterFunc is for contexts that are made of w. Without it package context would have a goroutine of its own call Done, at any time:
// after the request, too, when another one is being read.
func (w waiting) AfterFunc(f func()) (stop func() bool) {
	gone, off := w.Done(), make(chan struct{})
	var decided atomic.Bool
	go func() {
		select {
		case <-gone:
			if !decided.Swap(true) {
				f()
			}
		case <-off:
		}
	}()
	return func() bool {
		if decided.Swap(true) {
			return false
		}
		close(off)
		return true
	}
}
