//go:build unix

package edge

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// What an instance says before and behind its answer reaches the client who asked, through the cache and the encoder.
func TestHintsAndTrailers(t *testing.T) {
	g := newRig(t)
	table := compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, longText)
		w.Header().Set("X-Sum", "42")
	}))
	table.Routes[0].Cache = &Cache{Size: 1 << 20, Object: 1 << 20}
	g.set(table)
	for range 2 {
		hints := 0
		r := request(t, http.MethodGet, g.url(), nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") != "" {
				hints++
			}
			return nil
		}}))
		r.Header.Set("Accept-Encoding", "gzip")
		res, body := do(t, client(t), r)
		if hints != 1 || res.Header.Get("Link") != "" || res.Trailer.Get("X-Sum") != "42" || decode(t, "gzip", body) != longText {
			t.Errorf("%d hints, %v, trailer %v, %d bytes", hints, res.Header, res.Trailer, len(body))
		}
	}
}

// A stream comes as the instance sends it, whether it will be kept or not; and one who does not wait for the end of an answer is one who
// went away, wherever it comes from.
func TestStreamsThroughTheCache(t *testing.T) {
	for _, cc := range []string{"private", "max-age=60"} {
		next := make(chan string)
		g := newRig(t)
		g.set(keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", cc)
			for line := range next {
				io.WriteString(w, line)
				w.(http.Flusher).Flush()
			}
		})))
		go func() { next <- "data: 0\n\n" }()
		res, err := client(t).Do(request(t, http.MethodGet, g.url(), nil))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for i := range 10 {
			want := fmt.Sprintf("data: %d\n\n", i)
			if i > 0 {
				next <- want
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
				t.Fatalf("%s: %q %v", cc, got, err)
			}
		}
		close(next)
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
			t.Errorf("%q %v", rest, err)
		}
	}
	g := newRig(t)
	table := keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Content-Length", "30000000")
		for range 30 {
			w.Write(make([]byte, 1_000_000))
		}
	}))
	table.Routes[0].Cache = &Cache{Size: 100 << 20, Object: 50 << 20}
	g.set(table)
	if _, body := get(t, client(t), g.url()); len(body) != 30_000_000 {
		t.Fatalf("%d bytes", len(body))
	}
	eventually(t, func() bool {
		_, n := g.s.proxy.recall(g.s.current().byKey["shop@prod"]).cache.Load().Used()
		return n == 1
	})
	c := dialRaw(t, g.addr())
	c.send("GET / HTTP/1.1\r\nHost: " + g.addr() + "\r\n\r\n")
	if res := c.response(http.MethodGet); cacheStatus(res) != "hit" {
		t.Errorf("%v", res.Header)
	}
	c.Close()
	if route := g.settled(2); route.Aborted != 1 || route.Failed != 0 || route.Cached != 1 {
		t.Errorf("%+v", route)
	}
}

// What the cache answers is to be seen in the metrics, and nobody takes it for an instance's.
func TestCacheMetrics(t *testing.T) {
	g := newRig(t)
	g.set(keeping(serveOn(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "max-age=60") })))
	c := client(t)
	for range 5 {
		get(t, c, g.url())
	}
	g.settled(5)
	families, err := Gatherer(g.s.stats).Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetCounter().GetValue()
		}
	}
	if sums["fairlead_edge_cached_total"] != 4 || sums["fairlead_edge_requests_total"] != 1 {
		t.Errorf("%v", sums)
	}
}

// Under load, while tables change, the cache comes and goes and releases take turns, each answer is whole and counted once.
func TestSwapsWithCache(t *testing.T) {
	var served atomic.Int64
	release := func(n int) string {
		return serveOn(t, func(w http.ResponseWriter, r *http.Request) {
			served.Add(1)
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Cache-Control", r.URL.Query().Get("cc"))
			fmt.Fprint(w, n, longText)
		})
	}
	one, two := release(1), release(2)
	table := func(i int) Table {
		t := compressing()
		w := []int{0, 30, 100, 60}[i%4]
		t.Routes[0].Backends = []Backend{{Release: 1, Weight: 100 - w, Endpoints: ends(one)}, {Release: 2, Weight: w, Endpoints: ends(two)}}
		if i%5 != 0 {
			t.Routes[0].Cache = &Cache{Size: 1 << 20, Object: int64(1<<12 + i%2<<15), Across: i%7 == 0}
		}
		if i%3 == 0 {
			t.Routes[0].Compress = nil
		}
		return t
	}
	g := newRig(t)
	g.set(table(1))
	var all sync.WaitGroup
	var sent atomic.Int64
	stop := make(chan struct{})
	for n := range 8 {
		all.Go(func() {
			c := client(t)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r := request(t, http.MethodGet, fmt.Sprintf("%s/%d?cc=%s", g.url(), i%3, []string{"max-age=60", "private", "max-age=0", "max-age=0,stale-while-revalidate=60"}[i%4]), nil)
				r.Header.Set("Accept-Encoding", []string{"gzip", "zstd", "identity"}[n%3])
				sent.Add(1)
				res, body := do(t, c, r)
				if text := decode(t, res.Header.Get("Content-Encoding"), body); res.StatusCode != http.StatusOK || len(text) != len(longText)+1 || !strings.HasSuffix(text, longText) {
					t.Errorf("%d, %d bytes, %v", res.StatusCode, len(text), res.Header)
					return
				}
			}
		})
	}
	for i := range 60 {
		g.set(table(i))
		was := sent.Load()
		eventually(t, func() bool { return sent.Load() > was+20 })
	}
	close(stop)
	all.Wait()
	g.fetched()
	route := g.settled(uint64(sent.Load()))
	a, b := g.counts(1, 1), g.counts(2, 1)
	if route.Failed+route.Aborted+a.Failed+a.Aborted+b.Failed+b.Aborted != 0 || int64(a.Requests+b.Requests) != served.Load() || a.Open+b.Open != 0 || len(theEncoders.busy) != 0 {
		t.Errorf("route %+v\n1: %+v\n2: %+v\nserved %d", route, a, b, served.Load())
	}
	if st := g.s.current().byKey["shop@prod"].stats; g.s.stats.unanswered(st) != 0 {
		t.Errorf("%d are not answered", g.s.stats.unanswered(st))
	}
}

// While one edge replaces another each has a cache of its own, the new one's is empty, and nobody loses an answer.
func TestTakeOverWithCache(t *testing.T) {
	g := startEdge(t, newDirs(t))
	var served atomic.Int64
	table := compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, longText)
	}))
	table.Routes[0].Cache = &Cache{Size: 1 << 20, Object: 1 << 20}
	g.set(table)
	url := g.url()
	stop := make(chan struct{})
	var all sync.WaitGroup
	var sent atomic.Int64
	for range 4 {
		all.Go(func() {
			c := client(t)
			for {
				select {
				case <-stop:
					c.CloseIdleConnections()
					return
				default:
				}
				r := request(t, http.MethodGet, url, nil)
				r.Header.Set("Accept-Encoding", "gzip")
				sent.Add(1)
				if res, body := do(t, c, r); res.StatusCode != http.StatusOK || decode(t, "gzip", body) != longText {
					t.Errorf("%d %v", res.StatusCode, res.Header)
				}
			}
		})
	}
	eventually(t, func() bool { return g.counts(0, 0).Requests > 100 })
	_, lines, end := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	before := g.counts(0, 0).Requests
	eventually(t, func() bool { return g.counts(0, 0).Requests > before+100 })
	close(stop)
	all.Wait()
	receive(t, g.s.Done())
	eventually(t, func() bool { return g.counts(0, 0).Requests == uint64(sent.Load()) })
	if route, i := g.counts(0, 0), g.counts(1, 1); route.Failed+route.Aborted != 0 || served.Load() != 2 || i.Requests != 2 || route.Cached+10 < route.Requests {
		t.Errorf("route %+v; served %d", route, served.Load())
	}
	end()
}
