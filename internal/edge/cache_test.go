//go:build unix

package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keeping is a table whose route has a cache.
func keeping(addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Cache = &Cache{Size: 8 << 20, Object: 1 << 20, StaleIfError: time.Hour}
	return t
}

// cacheStatus is what a Cache-Status says first: hit, or why somebody was asked.
func cacheStatus(res *http.Response) string {
	_, said, _ := strings.Cut(res.Header.Get("Cache-Status"), "fairlead; ")
	said, _, _ = strings.Cut(said, ";")
	return said
}

// fetched waits until what caches asked for has ended: a client may have something else before.
func (g *rig) fetched() {
	g.t.Helper()
	eventually(g.t, func() bool { return g.s.proxy.fetches.Load() == 0 })
}

// What is kept is answered without an instance, counted for the route and for no instance, and written down as that.
func TestCache(t *testing.T) {
	onBothPaths(t, testCache)
	t.Run("h2c", func(t *testing.T) { testCache(t, h2c) })
}

func testCache(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	asked := atomic.Int64{}
	table := keeping(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", `"a"`)
		if r.URL.Path == "/mine" {
			w.Header().Set("Cache-Control", "private")
		}
		fmt.Fprint(w, "hello ", r.URL.Path)
	}))
	a := everyRequest
	table.Routes[0].Access = &a
	g.set(table)
	c := client(t)
	for i, want := range []struct{ path, said, body, log string }{
		{"/", "fwd=uri-miss", "hello /", "miss"}, {"/", "hit", "hello /", "hit"}, {"/a", "fwd=uri-miss", "hello /a", "miss"},
		{"/mine", "fwd=miss", "hello /mine", "pass"}, {"/mine", "fwd=miss", "hello /mine", "pass"}, {"/", "hit", "hello /", "hit"},
	} {
		r := request(t, http.MethodGet, g.url()+want.path, nil)
		res, body := do(t, c, r)
		if res.StatusCode != http.StatusOK || body != want.body || cacheStatus(res) != want.said {
			t.Errorf("%d: %d %q %q", i, res.StatusCode, body, res.Header)
		}
		if line := w.last(i + 1); line["cache"] != want.log || line["outcome"] != "served" || (line["instance"] == 1.0) != (want.log != "hit") {
			t.Errorf("%d: %v", i, line)
		}
	}
	r := request(t, http.MethodGet, g.url()+"/", nil)
	r.Header.Set("If-None-Match", `"a"`)
	if res, body := do(t, c, r); res.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	g.fetched()
	route, instance := g.settled(7), g.counts(1, 1)
	if route.Cached != 3 || route.Failed+route.Aborted+route.Unplaced != 0 || instance.Requests != 4 || asked.Load() != 4 || instance.Open != 0 {
		t.Errorf("route %+v, instance %+v, asked %d", route, instance, asked.Load())
	}
	if gap := g.s.stats.Gap("shop", "prod"); gap > time.Second {
		t.Errorf("a gap of %s", gap)
	}
	if asked := g.s.stats.unanswered(g.s.current().byKey["shop@prod"].stats); asked != 0 {
		t.Errorf("%d wait for an answer", asked)
	}
}

// What changes something is told of, and takes effect for the next client.
func TestCacheForgets(t *testing.T) {
	var value atomic.Int64
	g := newRig(t)
	g.set(keeping(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			value.Add(1)
			w.Header().Set("Location", "/list?all")
			return
		}
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, value.Load())
	})))
	c := client(t)
	for i := range 3 {
		for _, path := range []string{"/thing", "/list?all"} {
			for range 2 {
				if _, body := get(t, c, g.url()+path); body != fmt.Sprint(i) {
					t.Errorf("%s: %s after %d changes", path, body, i)
				}
			}
		}
		do(t, c, request(t, http.MethodPut, g.url()+"/thing", strings.NewReader("x")))
	}
	if n := g.settled(15).Cached; n != 6 {
		t.Errorf("%d out of the cache", n)
	}
}

// A service that fails, is gone or has no room goes on with what is kept. What its instances did wrong counts against them, and the
// clients saw nothing of it.
func TestStaleIfErrorAtTheEdge(t *testing.T) {
	fails := atomic.Bool{}
	hold := make(chan struct{})
	addr := serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/held":
			<-hold
		case fails.Load():
			http.Error(w, "broken", http.StatusInternalServerError)
		default:
			w.Header().Set("Cache-Control", "max-age=0")
			io.WriteString(w, "good")
		}
	})
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := keeping(addr)
	a := everyRequest
	table.Routes[0].Access = &a
	g.set(table)
	c := client(t)
	good := func(what, why string, n int) {
		t.Helper()
		start := time.Now()
		res, body := get(t, c, g.url())
		if res.StatusCode != http.StatusOK || body != "good" {
			t.Errorf("%s: %d %q", what, res.StatusCode, body)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %s", what, took)
		}
		if line := w.last(n); line["error.type"] != why && (why != "" || line["error.type"] != nil) || line["outcome"] != "served" {
			t.Errorf("%s: %v", what, line)
		}
	}
	good("well", "", 1)
	fails.Store(true)
	good("failing", "500", 2)
	g.fetched()
	if i := g.counts(1, 1); i.Requests != 2 || i.Failed != 1 || i.Classes[5] != 1 {
		t.Errorf("the instance's failure is hidden: %+v", i)
	}
	if res, body := get(t, c, g.url()+"/other"); res.StatusCode != http.StatusInternalServerError || body != "broken\n" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	fails.Store(false)

	// The queue is full: one is held at the instance.
	full := keeping(addr)
	full.Routes[0].Access, full.Routes[0].Guard = &a, &Guard{Concurrency: Concurrency{Limit: 1}}
	g.set(full)
	var held sync.WaitGroup
	held.Go(func() { get(t, client(t), g.url()+"/held") })
	eventually(t, func() bool { busy, _ := g.queued(); return busy == 1 })
	good("full", "queue", 4)
	close(hold)
	held.Wait()

	// The instance takes no connection, then there is none at all, then it is stopped.
	dead := keeping(deadAddr(t))
	dead.Routes[0].Access = &a
	g.set(dead)
	good("dead", "no_instance", 6)
	none := keeping()
	none.Routes[0].Access = &a
	g.set(none)
	good("none", "no_instance", 7)
	none.Routes[0].Backends = nil
	g.set(none)
	good("not even a release", "no_instance", 8)
	none.Routes[0].Stopped = true
	g.set(none)
	good("stopped", "stopped", 9)
	if res, _ := get(t, c, g.url()+"/other"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", res.StatusCode)
	}
	if route := g.settled(10); route.Failed != 2 || route.Refused != 0 || route.Unplaced != 1 || route.Cached != 6 {
		t.Errorf("%+v", route)
	}
}

// deadAddr is an address where nobody listens any more.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// An instance that is killed in the midst of it all is not seen by those for whom something is kept.
func TestCacheOutlivesItsInstance(t *testing.T) {
	broken := atomic.Bool{}
	g := newRig(t)
	g.set(keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Cache-Control", "max-age=0")
		io.WriteString(w, "good")
	})))
	c := client(t)
	get(t, c, g.url())
	broken.Store(true)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if res, body := get(t, client(t), g.url()); res.StatusCode != http.StatusOK || body != "good" {
				t.Errorf("%d %q", res.StatusCode, body)
			}
		})
	}
	all.Wait()
	g.fetched()
	route := g.settled(21)
	if i := g.counts(1, 1); route.Failed != 0 || i.Failed == 0 || i.Failed > 20 || i.Open != 0 {
		t.Errorf("route %+v, instance %+v", route, i)
	}
}

// Who asks first asks for all; a release's clients get that release's answers, in its share.
func TestCacheKeepsReleasesApart(t *testing.T) {
	var asked [3]atomic.Int64
	release := func(n int) string {
		return serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			asked[n].Add(1)
			w.Header().Set("Cache-Control", "max-age=600")
			fmt.Fprint(w, n)
		})
	}
	one, two := release(1), release(2)
	table := func(weight int) Table {
		t := keeping()
		t.Routes[0].Backends = []Backend{{Release: 1, Weight: 100 - weight, Endpoints: ends(one)}, {Release: 2, Weight: weight, Endpoints: ends(two)}}
		t.Routes[0].Preview.Header = Header{Name: "X-Preview"}
		return t
	}
	g := newRig(t)
	c := client(t)
	share := func(weight int) (share float64) {
		g.set(table(weight))
		const n = 400
		for range n {
			if _, body := get(t, c, g.url()); body == "2" {
				share += 100.0 / n
			}
		}
		return share
	}
	if got := share(0); got != 0 {
		t.Errorf("%v %% of the clients got the new release", got)
	}
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header.Set("X-Preview", "1")
	if _, body := do(t, c, r); body != "2" {
		t.Error("the preview is hidden by what is kept")
	}
	if got := share(20); got < 10 || got > 32 {
		t.Errorf("%v %% of the clients got the new release, which has 20", got)
	}
	if got := share(100); got < 99.9 {
		t.Errorf("%v %% of the clients got the new release, which has all", got)
	}
	if asked[1].Load() != 1 || asked[2].Load() != 1 {
		t.Errorf("the releases were asked %d and %d times", asked[1].Load(), asked[2].Load())
	}
	next := table(100)
	next.Routes[0].Backends = next.Routes[0].Backends[1:]
	g.set(next)
	get(t, c, g.url())
	g.set(table(0))
	get(t, c, g.url())
	if asked[1].Load() != 2 {
		t.Error("what a release answered that was gone is still there")
	}
}

// Two edges at once: the one that leaves ends what it began, and nothing is lost or counted twice.
func TestCollapseAtTheEdge(t *testing.T) {
	asked := atomic.Int64{}
	begin := make(chan struct{})
	g := newRig(t)
	g.set(keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		<-begin
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, strings.Repeat("x", 100_000))
	})))
	const n = 50
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if res, body := get(t, client(t), g.url()); res.StatusCode != http.StatusOK || len(body) != 100_000 {
				t.Errorf("%d, %d bytes", res.StatusCode, len(body))
			}
		})
	}
	eventually(t, func() bool { return g.counts(0, 0).Open == n })
	close(begin)
	all.Wait()
	g.fetched()
	route, instance := g.settled(n), g.counts(1, 1)
	if asked.Load() != 1 || instance.Requests != 1 || instance.Open != 0 || route.Failed+route.Aborted != 0 || route.Bytes != n*100_000 {
		t.Errorf("asked %d times; route %+v; instance %+v", asked.Load(), route, instance)
	}
	if f := g.s.proxy.fetches.Load(); f != 0 {
		t.Errorf("%d fetches are under way", f)
	}
}

// A stale answer is renewed behind the client's back, by a process that stays.
func TestRenewalAtTheEdge(t *testing.T) {
	asked := atomic.Int64{}
	g := newRig(t)
	g.set(keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=0, stale-while-revalidate=600")
		fmt.Fprint(w, asked.Add(1))
	})))
	c := client(t)
	get(t, c, g.url())
	if res, body := get(t, c, g.url()); body != "1" || cacheStatus(res) != "hit" {
		t.Errorf("%s %q", body, res.Header)
	}
	eventually(t, func() bool { _, body := get(t, c, g.url()); return body != "1" })
	g.fetched()
	g.s.leaving.Store(true)
	n := asked.Load()
	if res, body := get(t, c, g.url()); body != fmt.Sprint(n+1) || cacheStatus(res) != "fwd=stale" {
		t.Errorf("%s %q", body, res.Header)
	}
	g.fetched()
	if i := g.counts(1, 1); i.Open != 0 || i.Failed+i.Aborted != 0 || int64(i.Requests) != asked.Load() {
		t.Errorf("%+v", i)
	}
	g.s.leaving.Store(false)
}

// The protections hold as without a cache: who may not ask gets nothing that is kept, and a request has its time.
func TestCacheAndGuard(t *testing.T) {
	slow := atomic.Bool{}
	g := newRig(t)
	table := keeping(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Cache-Control", "max-age=0")
		io.WriteString(w, "good")
	}))
	table.Routes[0].Guard = &Guard{Request: 300 * time.Millisecond, Rates: []Rate{{Requests: 4, Per: time.Hour, Burst: 4, By: "route"}}}
	g.set(table)
	c := client(t)
	get(t, c, g.url())
	slow.Store(true)
	if res, body := get(t, c, g.url()); res.StatusCode != http.StatusOK || body != "good" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if res, _ := get(t, c, g.url()+"/other"); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("%d", res.StatusCode)
	}
	r := request(t, http.MethodGet, g.url()+"/other", nil)
	r.Header.Set("Cache-Control", "only-if-cached")
	if res, _ := do(t, c, r); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("%d", res.StatusCode)
	}
	if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%d", res.StatusCode)
	}
	route := g.settled(5)
	g.fetched()
	if i := g.counts(1, 1); route.Refused != 2 || route.Failed != 1 || route.Cached != 1 || i.Failed != 2 {
		t.Errorf("route %+v, instance %+v", route, i)
	}
}

func TestCacheTables(t *testing.T) {
	for _, c := range []Cache{{}, {Size: 1}, {Object: 1}, {Size: 1, Object: 2}, {Size: 2, Object: 1, Default: -1}, {Size: 2, Object: 1, StaleIfError: -1}} {
		table := oneRoute()
		table.Routes[0].Cache = &c
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), "is no cache") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []Compress{{}, {Min: -1}, {Min: 1, Types: []string{"text"}}, {Min: 1, Types: []string{"a/b/c"}}} {
		table := oneRoute()
		table.Routes[0].Compress = &c
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), "nothing is compressed") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
