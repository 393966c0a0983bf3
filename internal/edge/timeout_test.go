//go:build unix

package edge

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// guardedRoute is oneRoute with protections.
func guardedRoute(g Guard, addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Guard = &g
	return t
}

// hangs takes requests and answers none until the test ends.
func hangs(t *testing.T, n *atomic.Int64) http.HandlerFunc {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func(_ http.ResponseWriter, r *http.Request) {
		n.Add(1)
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}
}

func TestRequestTimeout(t *testing.T) { onBothPaths(t, testRequestTimeout) }

func testRequestTimeout(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Request: 100 * time.Millisecond}, serveOn(t, hangs(t, &n))))
	for _, method := range []string{"GET", "POST"} {
		if a := receive(t, ask(t, client(t), method, g.url())); a.status != http.StatusGatewayTimeout || !strings.Contains(a.body, "route.timeouts.request") {
			t.Errorf("%s: %+v", method, a)
		}
	}
	if c := g.settled(2); c.Failed != 2 || c.Undone != 2 || c.Aborted != 0 || n.Load() != 2 || g.counts(1, 1).Failed != 2 {
		t.Errorf("%+v, sent %d times", c, n.Load())
	}
	// It also bounds the wait for an instance, and an answer that does not end.
	g.set(guardedRoute(Guard{Request: 100 * time.Millisecond}))
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != http.StatusGatewayTimeout {
		t.Errorf("%+v", a)
	}
	g.set(guardedRoute(Guard{Request: 100 * time.Millisecond}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("begun"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})))
	res, err := client(t).Do(request(t, http.MethodGet, g.url(), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err == nil || string(b) != "begun" {
		t.Errorf("%q %v", b, err)
	}
	if c := g.settled(4); c.Failed != 4 || c.Undone != 4 || c.Aborted != 0 {
		t.Errorf("%+v", c)
	}
}

func TestTryTimeout(t *testing.T) { onBothPaths(t, testTryTimeout) }

func testTryTimeout(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Try: 50 * time.Millisecond}, serveOn(t, hangs(t, &n))))
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != http.StatusGatewayTimeout || !strings.Contains(a.body, "route.timeouts.try") || n.Load() != 1+retries {
		t.Errorf("%+v, sent %d times", a, n.Load())
	}
	n.Store(0)
	if a := receive(t, ask(t, client(t), "POST", g.url())); a.status != http.StatusGatewayTimeout || n.Load() != 1 {
		t.Errorf("POST: %+v, sent %d times", a, n.Load())
	}
	if c := g.settled(2); c.Failed != 2 || c.Undone != 2 || c.Aborted != 0 || g.counts(1, 1).Failed != 2+retries {
		t.Errorf("%+v", c)
	}
	// An answer that has begun may take its time, and so may a client's body.
	g.set(guardedRoute(Guard{Try: 200 * time.Millisecond}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(w, r.Body)
			return
		}
		http.NewResponseController(w).Flush()
		<-time.After(1200 * time.Millisecond)
		w.Write([]byte("late"))
	})))
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.body != "late" {
		t.Errorf("%+v", a)
	}
	body, in := io.Pipe()
	time.AfterFunc(450*time.Millisecond, func() {
		io.WriteString(in, "slow")
		in.Close()
	})
	if res, text := do(t, client(t), request(t, http.MethodPost, g.url(), body)); text != "slow" {
		t.Errorf("%s %q", res.Status, text)
	}
}

// Clients hardly notice a canary that hangs. Its gates do.
func TestLateTriesAreSeenByGates(t *testing.T) { onBothPaths(t, testLateTriesAreSeenByGates) }

func testLateTriesAreSeenByGates(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Try: 150 * time.Millisecond}, serveOn(t, says("fine")))
	table.Routes[0].Backends[0].Weight = 50
	table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Weight: 50, Endpoints: ends(serveOn(t, hangs(t, &n)))})
	g.set(table)
	c, lost := client(t), uint64(0)
	for range 16 {
		if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusOK {
			lost++
		}
	}
	route, hung := g.settled(16), g.counts(2, 1)
	if hung.Failed != uint64(n.Load()) || hung.Requests != hung.Failed || hung.Failed < 2 || hung.Quantile(0.5) < 135*time.Millisecond || hung.Open != 0 {
		t.Errorf("%d tries hung, the gates see %+v", n.Load(), hung)
	}
	if route.Failed != lost || g.counts(1, 1).Failed != 0 {
		t.Errorf("%d clients got no answer, counted are %+v", lost, route)
	}
}

// A connection that is no HTTP any more is not a request that takes long, nor one that is worked on.
func TestAnUpgradeIsNoRequest(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Request: 500 * time.Millisecond, Try: 300 * time.Millisecond, Concurrency: Concurrency{Limit: 1}}, serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		rw.WriteString(line)
		rw.Flush()
	})))
	c := dialRaw(t, g.addr())
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if res := c.response("GET"); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	if busy, _ := g.queued(); busy != 0 {
		t.Errorf("%d requests are under way", busy)
	}
	<-time.After(700 * time.Millisecond)
	c.send("still here\n")
	if line, err := bufio.NewReader(c.r).ReadString('\n'); line != "still here\n" {
		t.Errorf("%q %v", line, err)
	}
}

// The clock starts when the body was sent, and never when the answer came before.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{d: time.Millisecond, late: cancel}
	if !w.stop() {
		t.Error("late without a start")
	}
	w.start()
	if w.t != nil || ctx.Err() != nil {
		t.Error("started after it was stopped")
	}
	w = &watch{d: time.Millisecond, late: cancel}
	w.start()
	<-ctx.Done()
	if w.stop() {
		t.Error("in time after it was late")
	}
}
