package edge

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Hedge says when a request that no instance has begun to answer is sent to a second one as well (Dean and Barroso, "The Tail at
// Scale", 2013). The first answer wins. Both tries are at the same release: it keeps its share, and what its gates see is what its
// clients see.
type Hedge struct {
	After      time.Duration `json:"after,omitempty"`      // 0 where Percentile says
	Percentile int           `json:"percentile,omitempty"` // when so many of a hundred have begun to answer lately, 1 to 99
}

func (h *Hedge) check(route string) error {
	if h != nil && (h.After < 0 || h.Percentile < 0 || h.Percentile > 99 || (h.After == 0) == (h.Percentile == 0)) {
		return fail.New(fail.Internal, "routing table", "%s: nothing is sent a second time by %+v", route, *h)
	}
	return nil
}

// hedgeable reports whether a second instance may be asked while the first one works on it: only what asks for nothing but an answer
// (RFC 9110, section 9.2.1).
func hedgeable(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) && repeatable(r)
}

const (
	// firstsKept is how many answers a percentile is of.
	firstsKept = 512
	// firstsLeast is how many there must be.
	firstsLeast = 100
	// firstsEvery is after how many it is found out anew.
	firstsEvery = 32
)

// firsts are the times in which a route's requests were begun to be answered lately.
type firsts struct {
	after atomic.Int64 // the percentile, in ns; 0 while it is not known

	mu   sync.Mutex
	last [firstsKept]time.Duration
	n    int
}

// note takes one more into account. Of a request that the second instance won it is not known how long the first one would have taken; as
// it is more than the percentile already, that does not matter.
func (f *firsts) note(d time.Duration, percentile int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last[f.n%firstsKept] = d
	if f.n++; f.n < firstsLeast || f.n%firstsEvery != 0 {
		return
	}
	all := slices.Clone(f.last[:min(f.n, firstsKept)])
	slices.Sort(all)
	f.after.Store(int64(max(all[len(all)*percentile/100], 1)))
}

// after is how long to wait for the first instance; 0 for as long as it takes.
func (h *Hedge) after(m *memory) time.Duration {
	if h.Percentile > 0 {
		return time.Duration(m.firsts.after.Load())
	}
	return h.After
}

// side is one of two tries at once.
type side struct {
	end    *endpoint
	begin  time.Time
	trace  string // the traceparent that the instance got
	try    int    // which of the span's
	cancel context.CancelFunc
	over   bool // it has come to this:
	res    *http.Response
	err    error
}

// won reports whether a side's answer is for the client. One that says that the instance failed is only where no other comes: a broken
// instance is often the faster one.
func (s *side) won() bool { return s.err == nil && s.res.StatusCode < http.StatusInternalServerError }

// hedging is a request that may be sent to two instances.
type hedging struct {
	p     *proxy
	ex    *exchange
	sides []*side
	over  chan *side
}

// hedged hands a request to the instance that it was made for, and after a while to another one, too.
func (p *proxy) hedged(ex *exchange, r *http.Request) (*http.Response, error) {
	h := &hedging{p: p, ex: ex, over: make(chan *side, 2)}
	m, rule := p.recall(ex.route), ex.route.Hedge
	h.start(r)
	if after := rule.after(m); after > 0 {
		t := time.NewTimer(after)
		select {
		case s := <-h.over:
			s.over = true
		case <-t.C:
			h.second(r, m)
		}
		t.Stop()
	}
	s := h.wait()
	if rule.Percentile > 0 && s.err == nil {
		m.firsts.note(time.Since(h.sides[0].begin), rule.Percentile)
	}
	h.settle(s, r.Context().Err() != nil)
	return ex.reached(r, s.begin, s.res, s.err)
}

// start begins a try at ex.end.
func (h *hedging) start(r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context()) // that of the one that wins ends with the request
	s := &side{end: h.ex.end, begin: time.Now(), trace: h.ex.trace, try: h.ex.span.last(), cancel: cancel}
	h.sides = append(h.sides, s)
	guard := h.ex.route.Guard
	go func() {
		s.res, s.err = h.p.reach(guard, r.WithContext(ctx)) //nolint:bodyclose // by settle, or by who passes the answer on
		h.over <- s
	}()
}

// second begins the other try, where there is another instance and the route's [budget] is not spent.
func (h *hedging) second(r *http.Request, m *memory) {
	ex := h.ex
	end := h.p.beside(ex)
	if end == nil {
		return
	}
	if !m.budget.spend(time.Now(), ex.route.stats) {
		h.p.stats.end(end.slot)
		return
	}
	ex.end = end
	ex.repeated++
	out := *r
	u := *r.URL
	u.Host = end.addr
	out.URL = &u
	ex.attemptBy(&out)
	h.start(&out)
}

// beside enters another instance of the release that a request is at, nil where there is none to use.
func (p *proxy) beside(ex *exchange) *endpoint {
	table := p.current()
	rt := table.byKey[ex.route.key]
	if rt == nil {
		return nil
	}
	for _, b := range rt.backs {
		if b.release != ex.end.release.release {
			continue
		}
		end := ex.elsewhere(b, p.stats)
		if end == nil || p.enter(table, end) {
			return end
		}
	}
	return nil
}

// wait waits for the side whose answer, or whose error, is for the client.
func (h *hedging) wait() *side {
	for {
		if i := slices.IndexFunc(h.sides, func(s *side) bool { return s.over && s.won() }); i >= 0 {
			return h.sides[i]
		}
		if !slices.ContainsFunc(h.sides, func(s *side) bool { return !s.over }) {
			break
		}
		(<-h.over).over = true
	}
	if i := slices.IndexFunc(h.sides, func(s *side) bool { return s.err == nil }); i >= 0 {
		return h.sides[i]
	}
	return h.sides[0]
}

// settle ends the other side, and makes the exchange that of the one that is left. Where the request itself has ended meanwhile, neither did wrong.
func (h *hedging) settle(left *side, ended bool) {
	for _, s := range h.sides {
		if s == left {
			continue
		}
		s.cancel() // its connection is closed, or on HTTP/2 its stream
		cut := !s.over
		if cut {
			for x := range h.over {
				if x == s {
					break
				}
			}
		}
		if s.res != nil {
			s.res.Body.Close()
		}
		if !ended {
			h.lost(s, cut)
		}
		h.p.stats.end(s.end.slot)
	}
	h.ex.end, h.ex.trace = left.end, left.trace
}

// lost takes into account how a try fared that is not for the client. One that was cut off did nothing wrong but to be slow: it counts for
// nothing else. One that failed by itself did so: the client will not see it, but the release's gates must.
func (h *hedging) lost(s *side, cut bool) {
	now, guard := time.Now(), h.ex.route.Guard
	took := now.Sub(s.begin)
	var de *dialError
	switch {
	case cut:
		if guard != nil && guard.Eject.Slower > 0 {
			s.end.timed(guard.Eject, took, now)
		}
		h.ex.span.drop(s.try, now)
		return
	case s.err == nil:
		o := outcome{status: s.res.StatusCode, took: took}
		s.end.judge(guard, o, now)
		s.end.slot.count(o)
	default: // as for one that is repeated; see [proxy.again]
		o := outcome{failed: true, took: took}
		s.end.judge(guard, o, now)
		s.end.slot.retried.Add(1)
		if errors.Is(s.err, errTryTime) {
			s.end.slot.count(o)
		}
		if errors.As(s.err, &de) {
			s.end.state.avoid(now.Add(avoidFor))
		}
	}
	h.ex.tried = append(h.ex.tried, s.end.state)
	h.ex.span.failed(s.try, s.err, now)
}
