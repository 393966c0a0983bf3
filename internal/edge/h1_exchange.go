//go:build unix

package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errGarbage marks an answer that is no HTTP.
var errGarbage = errors.New("the instance's answer is not HTTP")

// flight is what an exchange needs, for as long as it lasts: most connections are idle.
type flight struct {
	ex    exchange
	reply reply
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// exchange answers the request that was read. It reports whether the connection is kept; an error ends it at once.
func (c *clientConn) exchange() (keep bool, err error) {
	p := c.s.proxy
	c.until = time.Time{}
	rt := p.current().find(c.listen, c.host, c.path, &c.head)
	if rt == nil || rt.TLS != nil || rt.Stream != nil || len(rt.Moved) > 0 || strings.HasPrefix(c.path, "/.well-known/acme-challenge/") {
		r, err := c.request()
		if err != nil {
			return false, errHandOver
		}
		if w := newSimple(); c.s.aside(c.listen, rt, w, r) {
			return c.say(w)
		}
	}
	if rt.Hedge != nil || rt.transforms() {
		return false, errHandOver // two instances at once are asked there, and what is done to answers is done there
	}
	if g := rt.Guard; g != nil && g.Body > 0 && c.frame.chunked && c.holds > g.Body {
		return false, errHandOver // there it is cut off where it goes over
	}
	start := time.Now()
	f := flights.Get().(*flight)
	f.ex = exchange{route: rt, start: start, point: anywhere}
	ex := &f.ex
	if rt.looks {
		if ex.in, err = c.request(); err != nil {
			return false, errHandOver
		}
		ex.point, ex.preview = point(rt, ex.in), rt.previews(ex.in)
	} else if rt.Sticky == "client" {
		ex.point = pointOf(c.peerIP)
	}
	p.stats.arrive(rt.stats, start)
	p.recall(rt).budget.tick(start, rt.stats)
	f.reply = reply{c: c, ex: ex, now: start}
	a := &f.reply
	if rt.traces != nil {
		rt.traces.trace(ex, a)
	}
	if rt.Guard == nil {
		err = a.run()
	} else {
		err = a.guarded(rt.Guard, start)
	}
	o := outcome{status: a.status, bytes: a.sent, took: time.Since(start)}
	p.ended(ex, o, a, a.broken, a.gone || c.left.Load())
	keep = a.keep && err == nil
	flights.Put(f)
	return keep, err
}

// decoded is the path of a target as routes compare it. It reports false for what is none.
func decoded(target string) (string, bool) {
	for i := range len(target) {
		if target[i] <= ' ' || target[i] >= 0x7f {
			return "", false
		}
	}
	path, _, _ := strings.Cut(target, "?")
	if strings.IndexByte(path, '%') < 0 {
		return path, true
	}
	out, err := url.PathUnescape(path)
	return out, err == nil
}

// request makes the request as net/http would, for what is not on the usual way.
func (c *clientConn) request() (*http.Request, error) {
	u, err := url.ParseRequestURI(strings.Clone(c.head.second))
	if err != nil {
		return nil, err
	}
	r := &http.Request{Method: strings.Clone(c.head.first), URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		RequestURI: u.RequestURI(), RemoteAddr: c.RemoteAddr().String(), TLS: c.tls, Body: http.NoBody}
	for _, x := range c.head.fields {
		if same(x.name, "host") {
			r.Host = strings.Clone(x.value)
			continue
		}
		r.Header.Add(strings.Clone(x.name), strings.Clone(x.value))
	}
	return r.WithContext(waiting{c}), nil
}

// reply is one exchange under way.
type reply struct {
	c      *clientConn
	ex     *exchange
	up     *upstream
	now    time.Time    // when the clock was looked at last
	late   time.Time    // when the instance should have begun its answer; zero for never
	frame  messageFrame // of its answer
	status int          // that the client was told
	sent   int64        // bytes of the body
	keep   bool
	broken bool // the answer broke off
	gone   bool // the client did not wait
}

// run tries instances until one answers, as roundTripper does, and passes the answer on.
func (a *reply) run() error {
	c, ex, p := a.c, a.ex, a.c.s.proxy
	ctx := waiting{c}
	a.now = time.Now()
	deadline := a.now.Add(p.hold)
	for first := true; ; first = false {
		if err := p.choose(ctx, ex, deadline); err != nil {
			return a.refuse(nil, err)
		}
		if !first {
			a.now = time.Now()
		}
		err := a.try(ctx)
		if err == nil {
			return a.pass()
		}
		a.drop()
		if errors.Is(err, errStruck) {
			return nil
		}
		if over := ctx.Err(); over != nil {
			return a.refuse(nil, over)
		}
		if err := p.again(ex, err, idempotent(c.head.first) && len(c.body) == 0, deadline); err != nil {
			return a.refuse(nil, err)
		}
	}
}

// errStruck says that a fault answered.
var errStruck = errors.New("a fault answered")

// try sends the request to the instance that was chosen and reads the head of its answer.
func (a *reply) try(ctx context.Context) error {
	ex := a.ex
	if ex.in != nil {
		if ex.shadow == nil && !ex.preview && ex.route.Mirror > 0 {
			a.cast()
		}
		res, err := strike(ctx, ex.end.faults, ex.in)
		if err != nil {
			return err
		}
		if res != nil {
			defer res.Body.Close()
			ex.why = whyFault
			return a.struck(res)
		}
	}
	begin := a.now
	err := a.send()
	a.now = time.Now()
	ex.heard(a.now.Sub(begin), a.status, err)
	return err
}

// send sends the request and reads the head of the answer.
func (a *reply) send() error {
	c, ex := a.c, a.ex
	ex.attempt()
	var try time.Duration
	if g := ex.route.Guard; g != nil {
		try = g.Try
	}
	a.clock(try, len(c.body) == 0)
	by, late := a.bound()
	var err error
	if a.up, err = c.s.upstreams.get(ex.end.addr, a.want(by)); err != nil {
		if !by.IsZero() && !time.Now().Before(by) {
			return late
		}
		return err
	}
	c.out = a.write(c.out[:0])
	a.up.ask = c.out
	if len(c.body) > 0 {
		ex.upload.Store(c.bodyLength())
		a.clock(try, true) // only now, as in [within]
	}
	if err = a.await(); err == nil {
		err = a.informed()
	}
	a.late = time.Time{}
	return err
}

// want says which connection the request needs.
func (a *reply) want(by time.Time) wanted {
	w := wanted{by: by, now: a.now}
	switch {
	case a.ex.resent > 0:
		w.fresh = true // one that was kept may have been closed just now; a new one tells
	case len(a.c.body) == 0 && idempotent(a.c.head.first):
		w.trust = trustFor
	}
	return w
}

// struck passes a fault's answer on.
func (a *reply) struck(res *http.Response) error {
	w := newSimple()
	maps.Copy(w.header, res.Header)
	w.status, a.status = res.StatusCode, res.StatusCode
	if _, err := io.Copy(&w.body, res.Body); err != nil {
		return err
	}
	a.sent = int64(w.body.Len())
	a.c.s.proxy.begun(a.ex, res.StatusCode, time.Now())
	a.c.unwatch()
	keep, err := a.c.say(w)
	a.keep, a.broken = keep, err != nil
	return errStruck
}

// await waits for the head of the answer.
func (a *reply) await() error {
	if err := a.more(1); err != nil {
		return err
	}
	return a.up.readHead(func() error { return a.more(a.up.r.Buffered() + 1) })
}

// informed passes on what an instance says before its answer (RFC 9110, section 15.2), until that is there.
func (a *reply) informed() error {
	for {
		code, err := strconv.Atoi(a.up.head.second)
		if err != nil || len(a.up.head.second) != 3 || a.up.head.first != "HTTP/1.1" && a.up.head.first != "HTTP/1.0" || code < 100 {
			return errGarbage
		}
		if a.status = code; code >= 200 {
			if a.frame = a.up.head.frame(); a.frame.odd {
				return errGarbage // as long as nothing of it was passed on, another instance may answer
			}
			return nil
		}
		if code == http.StatusSwitchingProtocols {
			return errGarbage // nobody asked for another protocol
		}
		if code != http.StatusContinue { // nor for this
			a.c.w.Write(a.up.head.raw)
			if err := a.c.w.Flush(); err != nil {
				return err
			}
		}
		a.now = time.Now()
		if err := a.await(); err != nil {
			a.status = 0
			return err
		}
	}
}

// write makes the request as the instance gets it.
func (a *reply) write(b []byte) []byte {
	c := a.c
	if a.ex.in != nil && a.ex.route.changes {
		return a.writeChanged(b)
	}
	b = append(append(append(b, c.head.first...), ' '), c.head.second...)
	b = append(b, " HTTP/1.1\r\n"...)
	traced, host := false, ""
	for _, x := range c.head.fields {
		if same(x.name, "host") {
			host = x.value // which no Connection header can take away
		} else if c.frame.hop(x.name) || forwarded(x.name) || a.ex.retraces(x.name) {
			continue
		}
		traced = traced || same(x.name, "traceparent") && x.value != ""
		b = append(append(append(append(b, x.name...), ": "...), x.value...), "\r\n"...)
	}
	b = append(append(append(b, "X-Forwarded-For: "...), c.peerIP...), "\r\nX-Forwarded-Host: "...)
	b = append(append(b, host...), "\r\nX-Forwarded-Proto: http"...)
	if c.tls != nil {
		b = append(b, 's')
	}
	b = append(b, "\r\n"...)
	if !traced {
		if a.ex.trace == "" { // or it is sent again
			a.ex.trace = traceparent()
		}
		b = append(append(append(b, "Traceparent: "...), a.ex.trace...), "\r\n"...)
	}
	return c.writeBody(b)
}

// bodyLength is how much a body holds, without what frames it.
func (c *clientConn) bodyLength() int64 {
	if c.frame.chunked {
		return c.holds
	}
	return int64(len(c.body))
}

// writeBody writes the end of the head and the body.
func (c *clientConn) writeBody(b []byte) []byte {
	switch {
	case c.frame.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case c.frame.length >= 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), c.frame.length, 10), "\r\n"...)
	}
	return append(append(b, "\r\n"...), c.body...)
}

// forwarded reports whether a header says what only the edge, or a trusted proxy, says.
func forwarded(name string) bool {
	return same(name, "forwarded") || same(name, "x-forwarded-for") || same(name, "x-forwarded-host") || same(name, "x-forwarded-proto")
}

// changed is the request as its route wants it.
func (a *reply) changed() *http.Request {
	in := a.ex.in
	out := in.Clone(in.Context())
	for name := range out.Header {
		if a.c.frame.hop(name) || forwarded(name) {
			delete(out.Header, name)
		}
	}
	a.ex.route.tell(&httputil.ProxyRequest{In: in, Out: out})
	a.ex.mark(out.Header)
	return out
}

func (a *reply) writeChanged(b []byte) []byte {
	out := a.changed()
	a.ex.trace = out.Header.Get("Traceparent")
	b = append(append(append(b, out.Method...), ' '), out.URL.RequestURI()...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), a.ex.in.Host...), "\r\n"...)
	for name, values := range out.Header {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return a.c.writeBody(b)
}

// cast makes a copy of the request, where the route wants some.
func (a *reply) cast() {
	if len(a.c.body) > 0 {
		return
	}
	out := a.changed()
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", a.ex.end.addr, ""
	a.ex.shadow = a.c.s.proxy.cast(a.ex.route.key, out)
}

// drop ends the connection to the instance.
func (a *reply) drop() {
	if a.up != nil {
		a.up.Close()
		a.up = nil
	}
}

// refuse answers where no instance did: as a limit says, or for what went wrong.
func (a *reply) refuse(f *refusal, err error) error {
	c, p := a.c, a.c.s.proxy
	a.drop()
	a.status = 0
	if !c.unwatch() || a.gone || c.left.Load() {
		a.gone = true
		return net.ErrClosed // nobody reads the answer
	}
	w := newSimple()
	if f != nil {
		a.ex.refused, a.ex.why = true, f.why
		f.answer(w)
	} else {
		p.fail(w, a.ex, err, failing{c.head.first, c.path, c.head.Get("Accept")})
	}
	a.status, a.sent = w.status, int64(w.body.Len())
	keep, err := c.say(w)
	a.keep = keep
	return err
}

// simple is an answer of the edge's own.
type simple struct {
	header http.Header
	status int
	body   strings.Builder
}

func newSimple() *simple { return &simple{header: http.Header{}} }

// Header implements [http.ResponseWriter].
func (s *simple) Header() http.Header { return s.header }

// WriteHeader implements [http.ResponseWriter].
func (s *simple) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
}

// Write implements [http.ResponseWriter].
func (s *simple) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.body.Write(p)
}

// say writes an answer of the edge's own.
func (c *clientConn) say(s *simple) (keep bool, err error) {
	keep = !c.frame.close && !c.s.leaving.Load() && s.header.Get("Connection") == ""
	s.header.Del("Connection")
	fmt.Fprintf(c.w, "HTTP/1.1 %d %s\r\n", max(s.status, 200), http.StatusText(max(s.status, 200)))
	s.header.Write(c.w)
	fmt.Fprintf(c.w, "Date: %s\r\nContent-Length: %d\r\n", time.Now().UTC().Format(http.TimeFormat), s.body.Len())
	if !keep {
		c.w.WriteString("Connection: close\r\n")
	}
	c.w.WriteString("\r\n")
	if c.head.first != http.MethodHead {
		c.w.WriteString(s.body.String())
	}
	return keep, c.w.Flush()
}
