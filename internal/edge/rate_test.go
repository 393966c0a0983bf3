//go:build unix

package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

func TestRateLimits(t *testing.T) { onBothPaths(t, testRateLimits) }

func testRateLimits(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	rule := Rate{Requests: 1, Per: time.Hour, Burst: 3, By: "header:X-Key"}
	table := guardedRoute(Guard{Rates: []Rate{rule}}, serveOn(t, func(http.ResponseWriter, *http.Request) { n.Add(1) }))
	g.set(table)
	for i := range 5 {
		want := 200
		if i >= 3 {
			want = http.StatusTooManyRequests
		}
		for _, key := range []string{"a", "b", ""} {
			r := request(t, http.MethodGet, g.url(), nil)
			if key != "" {
				r.Header.Set("X-Key", key)
			}
			res, body := do(t, client(t), r)
			if res.StatusCode != want {
				t.Errorf("request %d of %q: %s", i+1, key, res.Status)
			}
			if s, err := strconv.Atoi(res.Header.Get("Retry-After")); want == 429 && (err != nil || s < 3590 || s > 3600 || !strings.Contains(body, "route.rate")) {
				t.Errorf("%v %q", res.Header, body)
			}
		}
		g.set(table) // no new burst with a new table
	}
	if c := g.settled(15); c.Refused != 6 || c.Failed != 0 || c.Undone != 0 || c.Aborted != 0 || c.Classes[4] != 6 || n.Load() != 9 || g.counts(1, 1).Requests != 9 {
		t.Errorf("%+v, %d came to the instance", c, n.Load())
	}
	families, err := Gatherer(g.s.stats).Gather()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "fairlead_edge_refused_total" })
	if i < 0 || families[i].GetMetric()[0].GetCounter().GetValue() != 6 {
		t.Error("the metrics do not tell what was refused")
	}
	if gap := g.s.stats.Gap("shop", "prod"); gap > time.Second {
		t.Errorf("a gap of %s, though nobody waited", gap)
	}
}

// from is a request as the server hands it on.
func from(addr string) *http.Request {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
	r.RemoteAddr = addr
	return r
}

func TestRate(t *testing.T) {
	rs := &rates{}
	rs.follow([]Rate{{Requests: 10, Per: time.Second, Burst: 5, By: "client"}, {Requests: 100, Per: time.Second, Burst: 20, By: "route"}})
	now := rs.start
	passed := func(addr string) (n int) {
		for admits(rs, from(addr), now) == nil {
			n++
		}
		return n
	}
	for addr, want := range map[string]int{"192.0.2.1:99": 5, "[2001:db8::1]:99": 5} {
		if n := passed(addr); n != want {
			t.Errorf("%s: %d at once", addr, n)
		}
	}
	for _, same := range []string{"192.0.2.1:100", "[::ffff:192.0.2.1]:1", "[2001:db8::2]:99", "[2001:db8:0:0:5::]:99"} {
		if n := passed(same); n != 0 {
			t.Errorf("%s got %d more", same, n)
		}
	}
	if n := passed("192.0.2.2:99") + passed("[2001:db8:0:1::1]:99") + passed("192.0.2.3:99"); n != 10 { // the route's 20
		t.Errorf("%d more for others", n)
	}
	if f := admits(rs, from("192.0.2.1:99"), now); f == nil || f.wait != 100*time.Millisecond {
		t.Errorf("%+v", f)
	}
	if now = now.Add(99 * time.Millisecond); passed("192.0.2.1:99") != 0 {
		t.Error("too soon")
	}
	if now = now.Add(time.Millisecond); passed("192.0.2.1:99") != 1 {
		t.Error("not in time")
	}
	// Over a long time the rate holds, whatever is tried in between.
	all := 0
	for range 1000 {
		now = now.Add(7 * time.Millisecond)
		all += passed("192.0.2.1:99")
	}
	if all != 70 {
		t.Errorf("%d in 7 s", all)
	}
}

func TestRateForgetsTheLeastRecent(t *testing.T) {
	rs := &rates{}
	rs.follow([]Rate{{Requests: 1, Per: time.Hour, Burst: 1, By: "header:K"}})
	r := from("192.0.2.1:99")
	admit := func(key int) bool {
		r.Header.Set("K", strconv.Itoa(key))
		return admits(rs, r, rs.start) == nil
	}
	for key := range maxKeys + 10 {
		if !admit(key) {
			t.Fatal(key)
		}
	}
	if m := rs.each[0]; len(m.keys) != maxKeys || m.seen.Len() != maxKeys {
		t.Errorf("%d keys are kept, %d in order", len(m.keys), m.seen.Len())
	}
	if admit(maxKeys) || !admit(0) {
		t.Error("the wrong ones are forgotten")
	}
}

func BenchmarkRate(b *testing.B) {
	rs := &rates{}
	rs.follow([]Rate{{Requests: 1000, Per: time.Second, Burst: 100, By: "client"}})
	r := from("192.0.2.1:99")
	for b.Loop() {
		admits(rs, r, time.Now())
	}
}

// admits asks for a request whose client is who is at the other end.
func admits(rs *rates, r *http.Request, now time.Time) *refusal {
	return rs.admit(asked{client: peer(r), header: r.Header}, now)
}
