package edge

import (
	"context"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/httpcache"
)

// Guard is what protects a route's instances from its clients, and the clients from a bad instance. A route without any
// protection has none: its requests pay for one comparison with nil.
type Guard struct {
	Request time.Duration `json:"request,omitempty"` // the longest from a request's arrival to its answer's end; 0 for ever
	Try     time.Duration `json:"try,omitempty"`     // the longest until an instance begins to answer; 0 for ever
	Eject   Eject         `json:"eject,omitzero"`    // which instances are left out for a while

	Concurrency Concurrency    `json:"concurrency,omitzero"`
	Rates       []Rate         `json:"rates,omitempty"`
	Body        int64          `json:"body,omitempty"`  // the longest that a request may have, in bytes; 0 for any
	Allow       []netip.Prefix `json:"allow,omitempty"` // whose requests are answered; everybody when empty
	Auth        *Auth          `json:"auth,omitempty"`  // who must say who they are; nil for nobody
}

func (g *Guard) check(route string) error {
	switch {
	case g == nil:
		return nil
	case g.Request < 0 || g.Try < 0:
		return fail.New(fail.Internal, "routing table", "%s: a timeout is negative", route)
	case g.Body < 0:
		return fail.New(fail.Internal, "routing table", "%s: no body has %d bytes", route, g.Body)
	case min(g.Eject.Failures, g.Eject.Slower) < 0 || g.Eject.Slower == 1 || max(g.Eject.Failures, g.Eject.Slower) > 0 && g.Eject.For <= 0:
		return fail.New(fail.Internal, "routing table", "%s: nothing is ejected by %+v", route, g.Eject)
	case min(g.Concurrency.Limit, g.Concurrency.Queue) < 0 || g.Concurrency.Wait < 0:
		return fail.New(fail.Internal, "routing table", "%s: %+v is no limit", route, g.Concurrency)
	}
	for _, r := range g.Rates {
		if err := r.check(route); err != nil {
			return err
		}
	}
	return g.Auth.check(route)
}

// memory is what this process remembers of a route; it outlives table changes. Where one edge replaces another, each
// remembers its own requests.
type memory struct {
	budget budget
	queue  queue
	rates  rates
	firsts firsts

	cache   atomic.Pointer[httpcache.Cache] // nil where the route has none
	release atomic.Int64                    // the last one that its clients went to
}

// follow puts the rules of a table in force.
func (m *memory) follow(g *Guard) {
	if g == nil {
		g = &Guard{}
	}
	m.queue.follow(g.Concurrency)
	m.rates.follow(g.Rates)
}

// memories are those of all routes.
type memories struct {
	mu    sync.Mutex
	byKey map[string]*memory
}

// recall returns what is remembered of rt.
func (p *proxy) recall(rt *route) *memory {
	if m := rt.memory.Load(); m != nil {
		return m
	}
	return p.recallSlowly(rt)
}

// recallSlowly serves a table's first request: the memory of the table before is carried on, under rt's rules.
func (p *proxy) recallSlowly(rt *route) *memory {
	table := p.current()
	ms := &p.memories
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.byKey[rt.key]
	if m == nil {
		m = &memory{}
		kept := map[string]*memory{rt.key: m}
		for key, old := range ms.byKey {
			if table.byKey[key] != nil {
				kept[key] = old
			}
		}
		ms.byKey = kept
	}
	if table.byKey[rt.key] == rt { // and not one that a request still holds
		m.follow(rt.Guard)
		m.keep(rt)
	}
	rt.memory.Store(m)
	return m
}

// refusal is an answer of the edge's own to a request that a limit keeps from the instances. It is the client's or the
// limit's doing: it does not count as a failure of the service.
type refusal struct {
	status int
	why    string // in a word, for the access log
	text   string
	wait   time.Duration // after which it may be tried again; 0 when that would not help
	header http.Header   // of the answer, besides
	body   []byte        // and in place of text, where it is not nil
}

// answer sends the refusal; Retry-After is in whole seconds (RFC 9110, section 10.2.3).
func (f *refusal) answer(w http.ResponseWriter) {
	maps.Copy(w.Header(), f.header)
	if f.body != nil {
		w.WriteHeader(f.status)
		w.Write(f.body)
		return
	}
	if f.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.wait.Seconds()))))
	}
	http.Error(w, f.text, f.status)
}

// guarded has an instance serve a request that was admitted, of a route that has protections.
func (p *proxy) guarded(g *Guard, ex *exchange, w http.ResponseWriter, r *http.Request) {
	if g.Request > 0 {
		most := g.Request
		if ex.apart {
			most -= time.Since(ex.arrived) // it is the client's request that is bounded
		}
		ctx, stop := limitTime(r.Context(), most)
		defer stop()
		ex.upgraded = append(ex.upgraded, stop)
		r = r.WithContext(ctx)
	}
	q, f, err := p.wait(r.Context(), ex)
	if err != nil {
		panic(http.ErrAbortHandler) // nobody reads the answer, as in failed
	}
	if f != nil {
		ex.refuse(f, w, r)
		return
	}
	if q != nil {
		left := sync.OnceFunc(q.leave)
		defer left()
		if g.Concurrency.Auto {
			defer ex.teach(q)
		}
		ex.upgraded = append(ex.upgraded, left)
	}
	if g.Body > 0 && r.Body != nil && r.Body != http.NoBody {
		ex.longest = g.Body
		r.Body = &limitedBody{r.Body, g.Body, ex}
	}
	p.rp.ServeHTTP(w, r)
}

// refuse answers a request that net/http read. On HTTP/1 a body that nobody read ends the connection: the answer need not wait
// for the rest of it, and net/http, once told to write while it reads, does not find the next request behind it.
func (ex *exchange) refuse(f *refusal, w http.ResponseWriter, r *http.Request) {
	ex.refused, ex.why = true, f.why
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
	f.answer(w)
}

// wait waits for the request's turn where its route bounds concurrency. A queue that is returned must be left once; an error is
// that the client did not wait.
func (p *proxy) wait(ctx context.Context, ex *exchange) (*queue, *refusal, error) {
	if c := ex.route.Guard.Concurrency; c.Limit == 0 && !c.Auto {
		return nil, nil, nil
	}
	q := &p.recall(ex.route).queue
	f, err := q.enter(ctx)
	switch {
	case err != nil && outOfTime(ctx): // it was the queue that it spent its time in
		return nil, &refusal{status: http.StatusGatewayTimeout, why: "queue_timeout", text: "the request's time was over while it waited its turn (route.timeouts.request)"}, nil
	case f != nil || err != nil:
		return nil, f, err
	}
	return q, nil, nil
}
