//go:build unix

package edge

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

// hedgedRoute is a table in which requests that wait for so long are sent to a second instance.
func hedgedRoute(h Hedge, addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Hedge = &h
	return t
}

// sluggish is an instance that answers at once, or waits until its client goes away.
type sluggish struct {
	t      *testing.T
	waits  atomic.Bool
	begun  atomic.Int64
	left   atomic.Int64 // that were waited for and whose client went away
	answer http.HandlerFunc
}

func newSluggish(t *testing.T, waits bool) (*sluggish, string) {
	s := &sluggish{t: t, answer: says("fast")}
	s.waits.Store(waits)
	return s, serveOn(t, s.ServeHTTP)
}

// ServeHTTP implements [http.Handler].
func (s *sluggish) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.begun.Add(1)
	if s.waits.Load() {
		select {
		case <-r.Context().Done():
			s.left.Add(1)
		case <-s.t.Context().Done():
		}
		return
	}
	s.answer(w, r)
}

func TestHedge(t *testing.T) { everyPath(t, testHedge) }

func testHedge(t *testing.T, client clients) {
	slow, slowAddr := newSluggish(t, true)
	fast, fastAddr := newSluggish(t, false)
	g := startEdge(t, newDirs(t))
	g.set(hedgedRoute(Hedge{After: 10 * time.Millisecond}, slowAddr, fastAddr))
	c := client(t)
	const n = 40
	for range n {
		if res, body := get(t, c, g.url()); res.StatusCode != http.StatusOK || body != "fast" {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
	if route := g.settled(n); route.Failed != 0 || route.Aborted != 0 {
		t.Errorf("%+v", route)
	}
	// Who is overtaken has no part in any counter that a gate asks; it was told to stop.
	a, b := g.counts(1, 1), g.counts(1, 2)
	if a.Requests != 0 || a.Failed != 0 || a.Aborted != 0 || a.Retried != 0 || a.Open != 0 || b.Requests != n || b.Open != 0 || fast.begun.Load() != n {
		t.Errorf("%+v\n%+v", a, b)
	}
	eventually(t, func() bool { return slow.left.Load() == slow.begun.Load() })
	if slow.begun.Load() == 0 {
		t.Error("the slow one was never asked: nothing was tested")
	}
	// All that may do something is sent once.
	before := slow.begun.Load() + fast.begun.Load()
	slow.waits.Store(false)
	for range 5 {
		do(t, c, request(t, http.MethodPost, g.url(), strings.NewReader("x")))
		do(t, c, request(t, http.MethodDelete, g.url(), nil))
	}
	if sent := slow.begun.Load() + fast.begun.Load() - before; sent != 10 {
		t.Errorf("%d requests for 10", sent)
	}
}

// What a POST waits for it waits for alone.
func TestHedgeOnlyWhatIsSafe(t *testing.T) {
	slow, slowAddr := newSluggish(t, true)
	g := startEdge(t, newDirs(t))
	table := hedgedRoute(Hedge{After: time.Millisecond}, slowAddr, slowAddr)
	table.Routes[0].Guard = &Guard{Request: 100 * time.Millisecond}
	g.set(table)
	for _, r := range []*http.Request{request(t, http.MethodPost, g.url(), strings.NewReader("x")), request(t, http.MethodPut, g.url(), nil), request(t, http.MethodDelete, g.url(), nil),
		request(t, http.MethodGet, g.url(), strings.NewReader("x"))} {
		before := slow.begun.Load()
		if res, _ := do(t, client(t), r); res.StatusCode != http.StatusGatewayTimeout || slow.begun.Load() != before+1 {
			t.Errorf("%s: %s, sent %d times", r.Method, res.Status, slow.begun.Load()-before)
		}
	}
	before := slow.begun.Load() // and what is, twice, and no more than that
	if res, _ := get(t, client(t), g.url()); res.StatusCode != http.StatusGatewayTimeout || slow.begun.Load() != before+2 {
		t.Errorf("GET: %s, sent %d times", res.Status, slow.begun.Load()-before)
	}
	if c := g.settled(5); c.Failed != 5 || g.counts(1, 1).Failed+g.counts(1, 2).Failed != 5 || g.counts(1, 1).Open+g.counts(1, 2).Open != 0 {
		t.Errorf("%+v %+v %+v", c, g.counts(1, 1), g.counts(1, 2))
	}
}

// Half of an answer that nobody reads to its end is no beginning of the next one.
func TestHedgeLeavesNoHalfReadConnection(t *testing.T) {
	var asked atomic.Int64
	second, written := make(chan struct{}, 1), make(chan struct{}, 1)
	long := strings.Repeat("wrong", 100_000)
	addr := serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch first := asked.Add(1) == 1; {
		case r.URL.Path == "/cut" && first: // its answer is on its way when it is cut off
			<-r.Context().Done()
			io.WriteString(w, long)
		case r.URL.Path == "/error" && first: // it is there, and not what is wanted
			<-second
			w.WriteHeader(http.StatusInternalServerError)
			w.(http.Flusher).Flush()
			written <- struct{}{}
			io.WriteString(w, long)
		case r.URL.Path == "/error":
			second <- struct{}{}
			<-written
			<-time.After(5 * time.Millisecond)
			io.WriteString(w, r.URL.Path)
		default:
			io.WriteString(w, r.URL.Path)
		}
	})
	g := startEdge(t, newDirs(t))
	g.set(hedgedRoute(Hedge{After: time.Millisecond}, addr, addr))
	c := client(t)
	for i := range 30 { // within the budget
		for _, path := range []string{"/cut", "/error", fmt.Sprintf("/%d", i)} {
			asked.Store(0)
			if _, body := get(t, c, g.url()+path); body != path {
				t.Fatalf("%.40q for %s", body, path)
			}
		}
	}
	g.settled(90)
	if a, b := g.counts(1, 1), g.counts(1, 2); a.Failed+b.Failed != 30 || a.Open+b.Open != 0 || a.Aborted+b.Aborted != 0 {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// Answers that come at the same moment, clients that go away and a table that changes: each request is counted once, and nothing stays open.
func TestHedgeRaces(t *testing.T) {
	var n atomic.Int64
	h := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Duration(n.Add(1)%5) * time.Millisecond):
		case <-r.Context().Done():
		}
		io.WriteString(w, strings.Repeat(r.URL.Path, 1000))
	}
	g := startEdge(t, newDirs(t))
	table := hedgedRoute(Hedge{After: 2 * time.Millisecond}, serveOn(t, h), serveOn(t, h), serveOn(t, h))
	table.Routes[0].Guard = &Guard{Eject: Eject{Slower: 3, Failures: 5, For: time.Second}, Try: time.Second, Request: 5 * time.Second}
	g.set(table)
	const workers, each = 6, 20
	done, url := make(chan int, workers), g.url()
	for w := range workers {
		c := client(t)
		go func() {
			bad := 0
			for i := range each {
				path := fmt.Sprintf("/%d-%d.", w, i)
				if w == 0 {
					c.Timeout = time.Duration(1+i%4) * time.Millisecond // this one does not wait
				}
				res, err := c.Get(url + path)
				if err != nil {
					if w > 0 {
						bad++
					}
					continue
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if w > 0 && (err != nil || string(b) != strings.Repeat(path, 1000)) {
					bad++
				}
			}
			done <- bad
		}()
	}
	for range workers {
		g.set(table)
		if bad := receive(t, done); bad > 0 {
			t.Errorf("%d answers were wrong", bad)
		}
	}
	var sum Counts
	eventually(t, func() bool {
		sum = Counts{}
		for i := range 3 {
			sum = sum.Add(g.counts(1, i+1))
		}
		return sum.Open == 0 && g.counts(0, 0).Open == 0
	})
	if c := g.counts(0, 0); c.Failed != 0 || c.Requests < (workers-1)*each || sum.Requests != c.Requests-c.Unplaced || sum.Failed != 0 {
		t.Errorf("%+v\n%+v", c, sum)
	}
}

// A broken instance is often the faster one: its error is not an answer as long as there may be another one.
func TestHedgeDoesNotPreferErrors(t *testing.T) { onBothPaths(t, testHedgeDoesNotPreferErrors) }

func testHedgeDoesNotPreferErrors(t *testing.T, client clients) {
	for _, how := range []string{"500", "breaks"} {
		var begun atomic.Int64 // instances that were asked for the request under way
		var slowFirst atomic.Bool
		slow := serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			slowFirst.Store(begun.Add(1) == 1)
			<-time.After(50 * time.Millisecond)
			io.WriteString(w, "right")
		})
		bad := serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			begun.Add(1)
			if how == "breaks" {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(http.StatusInternalServerError)
		})
		g := startEdge(t, newDirs(t))
		g.set(hedgedRoute(Hedge{After: 5 * time.Millisecond}, slow, bad))
		c := client(t)
		hedges := uint64(0)
		for range 100 {
			begun.Store(0)
			slowFirst.Store(false)
			res, body := get(t, c, g.url())
			if !slowFirst.Load() {
				continue // there was nothing to wait for
			}
			if hedges++; res.StatusCode != http.StatusOK || body != "right" || begun.Load() != 2 {
				t.Errorf("%s: %s %q of %d", how, res.Status, body, begun.Load())
			}
			if hedges == 3 {
				break
			}
		}
		if hedges == 0 {
			t.Error("nothing was tested")
		}
		eventually(t, func() bool { return g.counts(1, 2).Open == 0 })
		if c := g.counts(1, 2); how == "500" && c.Failed < hedges || how == "breaks" && c.Retried < hedges {
			t.Errorf("%s: gates and metrics do not hear of it: %+v", how, c)
		}
	}
}

// Where the budget is spent, nobody is asked twice.
func TestHedgeWithinTheBudget(t *testing.T) {
	slow, addr := newSluggish(t, true)
	g := startEdge(t, newDirs(t))
	table := hedgedRoute(Hedge{After: time.Millisecond}, addr, addr)
	table.Routes[0].Guard = &Guard{Request: 50 * time.Millisecond}
	g.set(table)
	rt := g.s.current().byKey["shop@prod"]
	for g.s.proxy.recall(rt).budget.spend(time.Now(), rt.stats) {
	}
	get(t, client(t), g.url())
	if n := slow.begun.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	eventually(t, func() bool { return g.counts(1, 1).Open+g.counts(1, 2).Open == 0 })
}

// The percentile is of what came lately, and before there is enough nothing is sent twice.
func TestHedgePercentile(t *testing.T) {
	f, h := &memory{}, &Hedge{Percentile: 95}
	for i := range firstsLeast - 1 {
		f.firsts.note(time.Duration(i+1)*time.Millisecond, 95)
	}
	if got := h.after(f); got != 0 {
		t.Errorf("after %s with too few", got)
	}
	for i := range 10 * firstsKept {
		f.firsts.note(time.Duration(i%100+1)*time.Millisecond, 95)
	}
	if got := h.after(f); got < 94*time.Millisecond || got > 97*time.Millisecond {
		t.Error(got)
	}
	if got := (&Hedge{After: time.Second}).after(f); got != time.Second {
		t.Error(got)
	}
	slow, slowAddr := newSluggish(t, false)
	_, fastAddr := newSluggish(t, false)
	g := startEdge(t, newDirs(t))
	g.set(hedgedRoute(Hedge{Percentile: 90}, slowAddr, fastAddr))
	c := client(t)
	for range 2 * firstsLeast {
		get(t, c, g.url())
	}
	slow.waits.Store(true)
	for range 20 {
		if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusOK {
			t.Error(res.Status)
		}
	}
}

// Both tries are in the trace, the one that was overtaken as what it is, and each instance has its own as its parent.
func TestSpansOfHedges(t *testing.T) { everyPath(t, testSpansOfHedges) }

func testSpansOfHedges(t *testing.T, client clients) {
	got := make(chan string, 10)
	slow := serveOn(t, func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Traceparent")
		<-r.Context().Done()
	})
	fast := serveOn(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Traceparent") })
	g := startEdge(t, newDirs(t))
	w := g.logs()
	c, table := g.spans(100, slow, fast)
	table.Routes[0].Hedge, table.Routes[0].Access = &Hedge{After: 10 * time.Millisecond}, &everyRequest
	g.set(table)
	cl := client(t)
	for n := 1; ; n++ {
		get(t, cl, g.url())
		line := w.last(n)
		spans := 2
		if line["http.request.resend_count"] != nil {
			spans = 3
		}
		all := c.wait(spans)
		if spans == 2 || words(all[1].Attributes)["fairlead.instance"] != "1" { // it went to the other one first
			for range spans - 1 {
				receive(t, got)
			}
			c.clear()
			continue
		}
		server, first, second := all[0], all[1], all[2]
		for _, s := range all[1:] {
			if seen := receive(t, got); seen != fmt.Sprintf("00-%x-%x-01", server.TraceId, s.SpanId) || string(s.ParentSpanId) != string(server.SpanId) {
				t.Errorf("the instance got %s, the span is %v", seen, s)
			}
		}
		a, b := words(first.Attributes), words(second.Attributes)
		if a["fairlead.outcome"] != "overtaken" || a["http.response.status_code"] != "" || a["error.type"] != "" || first.Status.GetCode() == trace.Status_STATUS_CODE_ERROR || a["fairlead.instance"] != "1" {
			t.Errorf("%v", first)
		}
		if b["http.response.status_code"] != "200" || b["http.request.resend_count"] != "1" || b["fairlead.instance"] != "2" || words(server.Attributes)["fairlead.instance"] != "2" {
			t.Errorf("%v", all)
		}
		if line["span_id"] != fmt.Sprintf("%x", second.SpanId) || line["instance"] != 2.0 {
			t.Errorf("%v", line)
		}
		return
	}
}

func TestTablesWithImpossibleRules(t *testing.T) {
	for _, h := range []Hedge{{}, {After: -1}, {Percentile: 100}, {Percentile: -1}, {After: 1, Percentile: 5}} {
		table := hedgedRoute(h)
		if err := table.Check(); err == nil {
			t.Errorf("%+v came into force", h)
		}
	}
	for _, e := range []Eject{{Slower: 1, For: 1}, {Slower: -1, For: 1}, {Slower: 2}} {
		table := guardedRoute(Guard{Eject: e})
		if err := table.Check(); err == nil {
			t.Errorf("%+v came into force", e)
		}
	}
}
