package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// holdFor is how long a request waits for an instance when there is none: the time of a restart, not of an outage.
	holdFor = 10 * time.Second
	// holdTick is how often a held request looks again when nobody tells it that the table changed.
	holdTick = 5 * time.Millisecond
	// avoidFor is how long an instance that did not take a connection is only used when there is no other.
	avoidFor = time.Second
	// retries bounds how often a request that may safely be sent again is.
	retries = 2
	// maxHeader bounds the head of a request, in bytes.
	maxHeader = 64 << 10
)

// proxy sends requests on. It is one generation's data path.
type proxy struct {
	log     *slog.Logger
	stats   *Stats
	current func() *routes         // the table in force
	changed func() <-chan struct{} // closed at the next change of the table
	leaving func() bool            // this process hands over: ask clients to come back
	hold    time.Duration          // holdFor
	shadows chan struct{}          // copies under way
	rp      *httputil.ReverseProxy
	h1, h2c http.RoundTripper

	memories  memories
	passwords *passwords
	asker     http.RoundTripper // of who lets clients in
	access    *accessLog
	exporters *exporters   // of spans
	fetches   atomic.Int64 // that caches make and that have not ended
}

// exchange is one request on its way.
type exchange struct {
	route    *route
	end      *endpoint     // the last one tried
	point    int           // where a sticky client stands among the releases; see [point]
	preview  bool          // it goes to the newest release
	shadow   *shadow       // its copy, if there is one
	in       *http.Request // as it came, where the edge itself reads it and its route wants to see it
	status   int
	gotHead  bool
	empty    bool             // the answer has no body
	resent   int              // how often it was sent again after something of it had been
	tried    []*endpointState // the instances to which it was sent, and which did not answer
	start    time.Time        // when it arrived
	first    time.Duration    // from then until the answer began, where it did
	repeated int              // how often it was tried again
	why      string           // what went wrong, in a word, where the edge knows better than the status
	trace    string           // the traceparent that the instance got
	span     *span            // what is told of it; nil for nothing
	renewed  bool             // its trace begins here, whatever the client sent
	upload   atomic.Int64     // bytes of the body that were read for an instance
	waited   time.Duration    // for an instance's answer to begin; 0 where that tells nothing
	cutOff   atomic.Bool      // the client's own body broke off or is not HTTP

	cache   string    // what the route's cache had to do with it, in its words
	by      *endpoint // who answered a request that the cache made for it
	apart   bool      // it is such a request: no client's, and not the route's
	spare   bool      // and something is kept for the case that nobody answers
	arrived time.Time // when the client's did, for which it was made

	refused  bool        // by a limit of the edge; see [refusal]
	tooBig   atomic.Bool // its body went over longest
	longest  int64       // that its body may be, in bytes
	upgraded []func()    // called when it becomes a connection of another protocol
}

type exchangeKey struct{}

func newProxy(st *Stats, log *slog.Logger, access AccessLog) *proxy {
	p := &proxy{log: log, stats: st, access: newAccessLog(access, log), hold: holdFor, shadows: make(chan struct{}, maxShadows), passwords: newPasswords(), asker: newAsker()}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return c, nil
	}
	p.h1 = &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 512, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
		ExpectContinueTimeout: time.Second} // so that an instance can refuse a large body before it is sent
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	p.h2c = &http.Transport{DialContext: dial, Protocols: h2, IdleConnTimeout: 90 * time.Second, DisableCompression: true}
	p.rp = &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: roundTripper{p}, FlushInterval: -1, BufferPool: copyBuffers{}, ErrorHandler: p.failed, ModifyResponse: answered,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

// dialError marks an error before which nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// rewrite sets what an instance learns of the client; see [route.tell].
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme = "http"
	r.Out.URL.Host = r.In.Host // replaced per try; kept non-empty for net/http
	r.Out.Host = r.In.Host
	// ReverseProxy sorts and drops parameters that Go's own parser does not take. Others do: what they mean is not for a
	// proxy to say, and a signature over the query must hold.
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Trailer = r.In.Trailer // the same map and no copy: it is filled when the body ends
	if strings.Contains(strings.ToLower(r.In.Header.Get("Upgrade")), "h2c") {
		// RFC 9113 knows no such upgrade any more, and an instance that did would get a tunnel in which requests pass us unseen.
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
	}
	if ex, ok := r.In.Context().Value(exchangeKey{}).(*exchange); ok {
		ex.route.tell(r)
		ex.mark(r.Out.Header)
	}
	if _, ok := r.In.Header["User-Agent"]; !ok {
		r.Out.Header.Set("User-Agent", "")
	}
}

// answered changes what the route wants changed in an instance's answer.
func answered(res *http.Response) error {
	if ex, ok := res.Request.Context().Value(exchangeKey{}).(*exchange); ok {
		ex.route.Headers.Response.apply(res.Header)
	}
	return nil
}

// serve answers one request that came in on the listener named listen.
func (p *proxy) serve(listen string, w http.ResponseWriter, r *http.Request) {
	if p.leaving() && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close")
	}
	if r.Method == http.MethodConnect || r.Method == "PRI" {
		// We are nobody's tunnel, and what follows either of them is not HTTP/1.1: it must not be read as the next request.
		if r.ProtoMajor == 1 || r.Method == "PRI" {
			w.Header().Set("Connection", "close")
		}
		http.Error(w, "no such method here", http.StatusNotImplemented)
		return
	}
	if r.URL.User != nil || strings.ContainsAny(r.Host, "/\\@?#") {
		// A user before the host is there to mislead (RFC 9110, section 4.2.4); the rest only HTTP/2 can say, and it would reach the
		// instance as another host than the one by which the route is found.
		http.Error(w, "no host looks like this", http.StatusBadRequest)
		return
	}
	rt := p.current().find(listen, r.Host, r.URL.Path, read{r})
	if p.aside(listen, rt, w, r) {
		return
	}
	if rt.Direct && r.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close")
	}
	start := time.Now()
	ex := &exchange{route: rt, start: start, point: point(rt, r), preview: rt.previews(r)}
	cw := &countingWriter{ResponseWriter: w, ex: ex, r: r}
	p.stats.arrive(rt.stats, start)
	p.recall(rt).budget.tick(start, rt.stats)
	if rt.traces != nil {
		rt.traces.trace(ex, cw)
	}
	defer func() {
		broken := recover() // ReverseProxy panics with http.ErrAbortHandler when a body broke off
		p.finish(ex, cw, broken != nil)
		if broken != nil {
			panic(broken)
		}
	}()
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// Without it net/http reads the rest of the request before it sends an answer's head: an instance that answers
		// while it reads would wait for ever, or lose what the server ate. Only a broken writer does not support it.
		http.NewResponseController(w).EnableFullDuplex()
	}
	in := r.WithContext(context.WithValue(r.Context(), exchangeKey{}, ex))
	if in.Body != nil && in.Body != http.NoBody {
		body := &clientBody{ReadCloser: in.Body, ex: ex, trailer: in.Trailer}
		in.Body = body
		if r.ProtoMajor == 1 {
			cw.body = body
		}
	}
	p.answer(ex, cw, in)
}

// finish counts the request for its route and for the instance that served it.
func (p *proxy) finish(ex *exchange, cw *countingWriter, broken bool) {
	o := outcome{status: cw.status, bytes: cw.bytes, took: time.Since(ex.start)}
	if o.status == 0 {
		o.status = ex.status // an upgraded connection is answered past cw
	}
	// While it sends its body nobody but the body's reader notices that a client went away.
	p.ended(ex, o, cw, broken, cw.r.Context().Err() != nil || ex.cutOff.Load())
}

// ended counts an exchange and writes it down: broken says that its answer broke off, gone that its client did not wait for it.
func (p *proxy) ended(ex *exchange, o outcome, t teller, broken, gone bool) {
	now := ex.start.Add(o.took)
	ex.shadow.answered(ex.status)
	switch {
	case ex.refused || ex.tooBig.Load() && (broken || !ex.gotHead):
		o.refused = true
	case (broken || !ex.gotHead) && gone:
		o.aborted = true
	case broken || !ex.gotHead:
		o.failed = true
	}
	if !ex.gotHead {
		p.stats.gaveUp(ex.route.stats, now, o.failed)
	}
	ex.route.stats.count(o)
	if o.failed && ex.end == nil && ex.by == nil {
		ex.route.stats.unplaced.Add(1)
	}
	if ex.end != nil {
		ex.end.judge(ex.route.Guard, o, now)
		// A request that the edge cut off was, to the instance, one whose client went away.
		seen := o
		seen.refused, seen.aborted = false, o.aborted || o.refused
		ex.end.slot.count(seen)
		p.stats.end(ex.end.slot)
	}
	p.record(ex, o, t)
	if ex.span != nil {
		p.hand(ex, o, t)
	}
	p.stats.end(ex.route.stats) // last: what is not under way is counted, for the instance, too, and written down
}

// failed answers when no instance did.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	ex, _ := r.Context().Value(exchangeKey{}).(*exchange)
	if r.Context().Err() != nil && !outOfTime(r.Context()) {
		// Nobody reads the answer; returning would send an empty 200 to a client that only closed its sending side.
		panic(http.ErrAbortHandler)
	}
	if ex != nil && ex.tooBig.Load() {
		ex.refuse(tooBig(ex.longest), w, r)
		return
	}
	if ex != nil && ex.cutOff.Load() {
		ex.why = "body_broken_off"
		http.Error(w, "the request's body broke off", http.StatusBadRequest)
		return
	}
	if outOfTime(r.Context()) {
		err = errRequestTime
	}
	p.fail(w, ex, err, failing{r.Method, r.URL.Path, r.Header.Get("Accept")})
}

// failing is a request that no instance answered.
type failing struct{ method, path, accept string }

// fail says why no instance answered.
func (p *proxy) fail(w http.ResponseWriter, ex *exchange, err error, q failing) {
	code, text, why := http.StatusBadGateway, "the service broke the connection off", "no_answer"
	switch {
	case errors.Is(err, errRequestTime):
		code, why = http.StatusGatewayTimeout, "request_timeout"
		text = "the service took too long (route.timeouts.request)"
	case errors.Is(err, errTryTime):
		code, why = http.StatusGatewayTimeout, "try_timeout"
		text = "no instance of the service began to answer in time (route.timeouts.try)"
	case errors.Is(err, errStopped):
		code, text, why = http.StatusServiceUnavailable, "the service is stopped", "stopped"
	case errors.Is(err, errNobody):
		code, text, why = http.StatusServiceUnavailable, "no instance of the service is ready", "no_instance"
		w.Header().Set("Retry-After", "5")
	}
	if ex != nil {
		ex.why = why
	}
	if ex != nil && ex.end != nil {
		p.log.Warn("no answer", "service", ex.route.key, "instance", ex.end.addr, "method", q.method, "path", q.path, "error", err)
	}
	if ex == nil || !ex.route.page(w, q.accept, code) {
		http.Error(w, text, code)
	}
}

var (
	errStopped = errors.New("stopped")
	errNobody  = errors.New("no ready instance")
)

// roundTripper chooses an instance for each try.
type roundTripper struct{ p *proxy }

// RoundTrip tries instances until one answers. A try that failed before anything was sent is always repeated; one that
// failed later only when the method is idempotent, there is no body (RFC 9110, section 9.2.2), and the route's [budget] is
// not spent.
func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	p := t.p
	ex, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("a request without its exchange")
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = keptBody{r.Body}
	}
	deadline := time.Now().Add(p.hold)
	if ex.spare {
		deadline = time.Now().Add(min(p.hold, spareHold))
	}
	for {
		if err := p.choose(r.Context(), ex, deadline); err != nil {
			return nil, err
		}
		out := *r
		u := *r.URL
		u.Host = ex.end.addr
		out.URL = &u
		if ex.shadow == nil && !ex.preview {
			ex.shadow = p.cast(ex.route.key, &out)
		}
		res, err := strike(r.Context(), ex.end.faults, r)
		if res == nil && err == nil {
			ex.attemptBy(&out)
			res, err = p.send(ex, &out)
		} else if res != nil {
			ex.why = whyFault
		}
		if err == nil {
			ex.empty = res.ContentLength == 0
			p.begun(ex, res.StatusCode, time.Now())
			return res, nil
		}
		if r.Context().Err() != nil {
			return nil, err
		}
		if err := p.again(ex, err, repeatable(r), deadline); err != nil {
			return nil, err
		}
	}
}

// begun notes that an instance began to answer at now.
func (p *proxy) begun(ex *exchange, status int, now time.Time) {
	ex.gotHead, ex.status, ex.first = true, status, now.Sub(ex.start)
	if !ex.apart {
		p.stats.answered(ex.route.stats, now)
	}
}

func (p *proxy) transport(r *http.Request) http.RoundTripper {
	if r.ProtoMajor >= 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		return p.h2c // gRPC needs its trailers and streams end to end
	}
	return p.h1
}
