package edge

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

var (
	errRequestTime = errors.New("the request took longer than route.timeouts.request")
	errTryTime     = errors.New("the instance did not begin to answer within route.timeouts.try")
)

// limitTime ends ctx after d with [errRequestTime] as its cause, unless stop was called before.
func limitTime(ctx context.Context, d time.Duration) (limited context.Context, stop func()) {
	limited, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(d, func() { cancel(errRequestTime) })
	return limited, func() { t.Stop() }
}

// outOfTime reports whether the edge itself ended the request, because it took too long.
func outOfTime(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errRequestTime) }

// send hands a request to the instance that it was made for and waits for the answer's head.
func (p *proxy) send(ex *exchange, r *http.Request) (*http.Response, error) {
	if ex.route.Hedge != nil && hedgeable(r) {
		return p.hedged(ex, r)
	}
	begin := time.Now()
	res, err := p.reach(ex.route.Guard, r)
	return ex.reached(r, begin, res, err)
}

// reach is one try, within the time that it has.
func (p *proxy) reach(g *Guard, r *http.Request) (*http.Response, error) {
	if g != nil && g.Try > 0 {
		return within(g.Try, p.transport(r), r)
	}
	return p.transport(r).RoundTrip(r)
}

// reached takes into account what came of the try that decides.
func (ex *exchange) reached(r *http.Request, begin time.Time, res *http.Response, err error) (*http.Response, error) {
	switch {
	case ex.route.Guard == nil:
		return res, err
	case err == nil:
		ex.heard(time.Since(begin), res.StatusCode, nil)
	case outOfTime(r.Context()):
		ex.heard(time.Since(begin), 0, errRequestTime)
	default:
		ex.heard(time.Since(begin), 0, err)
	}
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		// What began as a request is a connection now; nothing that is meant for requests bounds it.
		for _, f := range ex.upgraded {
			f()
		}
	}
	return res, err
}

// heard notes how long it took to hear of an instance. An error may come sooner than any answer, and a client that goes away does
// when it likes: both say nothing of how the service keeps up. That it was too slow to answer at all does.
func (ex *exchange) heard(took time.Duration, status int, err error) {
	if err == nil && status < http.StatusInternalServerError || errors.Is(err, errTryTime) || errors.Is(err, errRequestTime) {
		ex.waited = took
		if g := ex.route.Guard; g != nil && g.Eject.Slower > 0 {
			ex.end.timed(g.Eject, took, time.Now())
		}
	}
}

// timeLeft is d, or what is left of ctx's time where that is less.
func timeLeft(ctx context.Context, d time.Duration) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return min(d, time.Until(at))
	}
	return d
}

// within gives an instance the time d to begin its answer. The clock of a request with a body starts when all of it was
// sent: how fast a client sends is not the instance's doing.
func within(d time.Duration, rt http.RoundTripper, r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	w := &watch{d: d, late: func() { cancel(errTryTime) }}
	if r.Body != nil && r.Body != http.NoBody {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { w.start() }})
	} else {
		w.start()
	}
	res, err := rt.RoundTrip(r.WithContext(ctx))
	if inTime := w.stop(); !inTime {
		if err == nil {
			res.Body.Close()
		}
		return nil, errTryTime
	}
	return res, err
}

// spoiled notes a try that is repeated, which may be at another release. One that was late counts as a request that the instance
// failed: the client will not see that a release hangs, but its gates must.
func (ex *exchange) spoiled(err error) {
	o := outcome{failed: true}
	ex.end.judge(ex.route.Guard, o, time.Now())
	if errors.Is(err, errTryTime) {
		o.took = ex.route.Guard.Try
		ex.end.slot.count(o)
	}
}

// watch is a clock that may be started late or never, and is stopped once.
type watch struct {
	d    time.Duration
	late func()

	mu       sync.Mutex
	t        *time.Timer
	stopped  bool
	overtime bool
}

func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t == nil && !w.stopped {
		w.t = time.AfterFunc(w.d, w.expire)
	}
}

func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.overtime = true
		w.late()
	}
}

// stop reports whether the time was not over.
func (w *watch) stop() (inTime bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.t != nil {
		w.t.Stop()
	}
	return !w.overtime
}
