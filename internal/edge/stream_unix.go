//go:build unix

package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/jsonl"
)

// stream is a client's connection that is passed on to an instance. To the counters and the log it is one request.
type stream struct {
	s       *Server
	client  net.Conn     // what is passed on: wire, or what is in the TLS above it
	wire    *net.TCPConn // the client's connection itself
	before  []byte       // what came of it already
	who     introduction
	tls     uint16 // the version that the edge ended; 0 for none
	greeted bool   // before is one half of a handshake, and the client waits for the other

	sent, received atomic.Int64 // to the client, and of it

	gone    chan struct{} // closed when the client left before there was an instance; nil as long as nobody looks
	watched chan struct{} // closed when the look has ended
	left    atomic.Bool
}

// passOn serves a connection that is an instance's as a whole: one of plain TCP, or one whose handshake is for an instance. It reports
// false, and has done nothing, where it is neither.
func (s *Server) passOn(addr string, nc net.Conn) bool {
	table := s.current()
	t, encrypted := nc.(*tls.Conn)
	if !encrypted {
		rt := table.ofHost(addr, "")
		if rt == nil || rt.Stream == nil || rt.encrypts() {
			return false
		}
		s.pass(rt, &stream{client: nc})
		return true
	}
	c, ok := t.NetConn().(*helloConn)
	if !ok || !table.passes[addr] {
		return false
	}
	h, err := c.hear()
	if err == nil {
		switch rt := table.ofHost(addr, h.name); {
		case rt != nil && rt.passes():
			st := &stream{client: c, greeted: true, who: introduction{name: hostname(h.name)}}
			if len(h.protocols) == 1 { // otherwise the instance chooses
				st.who.protocol = h.protocols[0]
			}
			s.pass(rt, st)
			return true
		case rt != nil:
			return false
		}
	}
	s.log.Debug("a handshake for nobody", "address", addr, "client", c.RemoteAddr().String(), "name", h.name, "error", err)
	c.unheard(err)
	s.conns.Add(-1)
	return true
}

// passOnSecret is that for a connection whose handshake the edge has had.
func (s *Server) passOnSecret(addr string, t *tls.Conn, state tls.ConnectionState) bool {
	rt := s.current().ofHost(addr, state.ServerName)
	if rt == nil || rt.Stream == nil || state.NegotiatedProtocol == alpnChallenge {
		return false
	}
	if rt.TLS == nil || rt.TLS.Clients != "" && len(state.VerifiedChains) == 0 { // the table is another one than a moment ago
		t.Close()
		s.conns.Add(-1)
		return true
	}
	s.pass(rt, &stream{client: t, tls: state.Version, who: introduction{name: hostname(state.ServerName), protocol: state.NegotiatedProtocol}})
	return true
}

// pass serves a route's connection until its end, and counts it.
func (s *Server) pass(rt *route, c *stream) {
	s.serving.Add(1)
	defer s.serving.Add(-1)
	defer s.conns.Add(-1)
	defer c.client.Close()
	c.s, c.who.client, c.who.local = s, addrPort(c.client.RemoteAddr()), addrPort(c.client.LocalAddr())
	if c.wire, c.before = bare(c.client); c.wire == nil {
		return
	}
	if c.tls == 0 {
		c.client = c.wire // all that was above it was read
	}
	p := s.proxy
	ex := &exchange{route: rt, start: time.Now(), point: anywhere, preview: c.who.name != "" && c.who.name == rt.Preview.Host || allowed(rt.Preview.Clients, c.who.client.Addr())}
	if rt.Sticky == "client" {
		ex.point = pointOf(c.who.client.Addr().String())
	}
	p.stats.arrive(rt.stats, ex.start)
	p.recall(rt).budget.tick(ex.start, rt.stats)
	broken, gone := c.run(ex)
	p.ended(ex, outcome{bytes: c.sent.Load(), took: time.Since(ex.start)}, c, broken, gone)
}

// run passes the connection on. It reports whether that came to a bad end, and whether the client left before.
func (c *stream) run(ex *exchange) (broken, gone bool) {
	p := c.s.proxy
	if g := ex.route.Guard; g != nil {
		f := p.admit(ex, asked{client: c.who.client.Addr(), header: http.Header(nil)})
		var q *queue
		var err error
		if f == nil {
			q, f, err = p.wait(held{c}, ex)
		}
		switch {
		case f != nil:
			ex.refused, ex.why = true, f.why
			c.reset()
			return true, false
		case err != nil:
			return true, true
		}
		if q != nil {
			defer q.leave()
		}
	}
	instance, err := c.place(ex)
	here := c.unwatch()
	if err != nil {
		ex.why = cmp.Or(ex.why, whyUnplaced(err))
		if here && ex.end != nil {
			p.log.Warn("no instance took the connection", "service", ex.route.key, "instance", ex.end.addr, "error", err)
		}
		c.reset()
		return true, !here
	}
	defer instance.Close()
	p.begun(ex, 0, time.Now())
	return c.join(ex, instance)
}

// whyUnplaced is what the access log says of a connection that no instance has.
func whyUnplaced(err error) string {
	switch {
	case errors.Is(err, errStopped):
		return "stopped"
	case errors.Is(err, errNobody):
		return "no_instance"
	case errors.Is(err, errStruck):
		return whyFault
	}
	return ""
}

// place finds an instance that takes the connection. As long as none did nothing was sent, so that any other may.
func (c *stream) place(ex *exchange) (*net.TCPConn, error) {
	p, ctx := c.s.proxy, held{c}
	deadline := time.Now().Add(p.hold)
	for {
		if err := p.choose(ctx, ex, deadline); err != nil {
			return nil, err
		}
		if err := strikeStream(ctx, ex.end.faults); err != nil {
			return nil, err
		}
		nc, err := (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).Dial("tcp", ex.end.addr)
		if err == nil {
			if tc, ok := nc.(*net.TCPConn); ok {
				return tc, nil
			}
			nc.Close()
			err = errors.New("it is no TCP address")
		}
		if over := ctx.Err(); over != nil {
			return nil, over
		}
		if err := p.again(ex, &dialError{err}, false, deadline); err != nil {
			return nil, err
		}
	}
}

// strikeStream lets a release's faults happen to a connection, as [strike] does to a request. What is answered there ends it here.
func strikeStream(ctx context.Context, faults []Fault) error {
	for _, f := range faults {
		if f.Header.Name != "" || mrand.Float64()*100 >= f.Share {
			continue
		}
		if f.Delay > 0 && !sleep(ctx, nil, f.Delay) {
			return ctx.Err()
		}
		if f.Abort != 0 {
			return errStruck
		}
	}
	return nil
}

// reset has the client's connection end as one that was broken off. An orderly end would say that there was nothing to say.
func (c *stream) reset() {
	c.wire.SetLinger(0)
	c.wire.Close()
}

// held is the context of who waits for the sake of a client: it ends when the client leaves. Only somebody who really waits makes it
// look.
type held struct{ c *stream }

func (h held) Deadline() (at time.Time, ok bool) { return at, false }
func (h held) Done() <-chan struct{}             { return h.c.watch() }
func (h held) Value(any) any                     { return nil }
func (h held) Err() error {
	if h.c.left.Load() {
		return context.Canceled
	}
	return nil
}

// watch begins to look whether the client leaves while there is no instance for it. One that has said something, and is silent now, is
// taken to wait for an answer, even if it will say no more.
func (c *stream) watch() <-chan struct{} {
	if c.gone != nil {
		return c.gone
	}
	c.gone, c.watched = make(chan struct{}), make(chan struct{})
	look, err := newLook(c.wire)
	if err != nil || len(c.before) > 0 && !c.greeted {
		close(c.watched)
		return c.gone
	}
	go func() {
		defer close(c.watched)
		if n, err := look.wait(); n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
			c.left.Store(true)
			close(c.gone)
		}
	}()
	return c.gone
}

// unwatch ends the look, and reports whether the client is still there.
func (c *stream) unwatch() bool {
	if c.gone != nil {
		c.wire.SetReadDeadline(time.Unix(1, 0))
		<-c.watched
		c.wire.SetReadDeadline(time.Time{})
	}
	return !c.left.Load()
}

// look asks a socket whether there is something to read, and takes nothing off it.
type look struct {
	raw syscall.RawConn
	n   int
	err error
	b   [1]byte
}

func newLook(c *net.TCPConn) (*look, error) {
	raw, err := c.SyscallConn()
	return &look{raw: raw}, err
}

// wait waits for something to read, up to the connection's deadline. It returns 0 and no error at the end of what there is.
func (l *look) wait() (int, error) {
	if err := l.raw.Read(l.try); err != nil {
		return 0, err
	}
	return l.n, l.err
}

func (l *look) try(fd uintptr) bool {
	for {
		l.n, _, l.err = syscall.Recvfrom(int(fd), l.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if l.err != syscall.EINTR { //nolint:errorlint // it is a plain errno
			break
		}
	}
	l.n = max(l.n, 0)
	return l.err != syscall.EAGAIN //nolint:errorlint // it is a plain errno
}

// told implements [teller].
func (c *stream) told(*exchange) told { return told{client: c.who.client.Addr()} }

// header implements [teller].
func (c *stream) header(string, int) (string, bool) { return "", false }

// line implements [liner].
func (c *stream) line(b []byte, ex *exchange, o outcome) []byte {
	b = append(b, `,"network.transport":"tcp"`...)
	if c.who.name != "" {
		b = jsonl.AppendMember(b, `,"server.address":`, cutText(c.who.name))
	}
	if v := tlsVersion(c.tls); v != "" {
		b = append(append(append(b, `,"tls.protocol.version":"`...), v...), '"')
	}
	b = strconv.AppendInt(append(b, `,"bytes_sent":`...), o.bytes, 10)
	b = strconv.AppendInt(append(b, `,"bytes_received":`...), c.received.Load(), 10)
	b = appendSeconds(append(b, `,"duration":`...), o.took)
	if ex.gotHead {
		b = appendSeconds(append(b, `,"connected":`...), ex.first)
	}
	if ex.repeated > 0 {
		b = strconv.AppendInt(append(b, `,"retries":`...), int64(ex.repeated), 10)
	}
	if ex.preview {
		b = append(b, `,"preview":true`...)
	}
	return b
}
