//go:build unix

package edge

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// queued is how many of shop@prod's requests are let in, and how many wait.
func (g *rig) queued() (busy, waiting int) {
	q := &g.s.proxy.recall(g.s.current().byKey["shop@prod"]).queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.busy, q.waiting.Len()
}

func (g *rig) waiters() int {
	_, n := g.queued()
	return n
}

func TestConcurrencyIsBounded(t *testing.T) { onBothPaths(t, testConcurrencyIsBounded) }

func testConcurrencyIsBounded(t *testing.T, client clients) {
	let := make(chan struct{})
	var inside, most atomic.Int64
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Concurrency: Concurrency{Limit: 2, Queue: 3, Wait: time.Minute}}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-let
		inside.Add(-1)
		w.Write([]byte("done"))
	}))
	g.set(table)
	var all []<-chan answer
	for range 2 {
		all = append(all, ask(t, client(t), "GET", g.url()))
	}
	eventually(t, func() bool { return inside.Load() == 2 })
	for n := range 3 {
		all = append(all, ask(t, client(t), "POST", g.url()))
		eventually(t, func() bool { return g.waiters() == n+1 })
	}
	a := receive(t, ask(t, client(t), "GET", g.url()))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "60" || !strings.Contains(a.body, "too many requests") {
		t.Errorf("%+v", a)
	}
	// A client that goes away leaves its place to the next one.
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	table.Routes[0].Guard = &Guard{Concurrency: Concurrency{Limit: 2, Queue: 4, Wait: time.Minute}}
	g.set(table)
	g.waiters() // the new table is in force for the queue, too
	go func() {
		_, err := client(t).Do(request(t, http.MethodGet, g.url(), nil).WithContext(ctx))
		gone <- err
	}()
	eventually(t, func() bool { return g.waiters() == 4 })
	cancel()
	if receive(t, gone) == nil {
		t.Error("it was answered")
	}
	eventually(t, func() bool { return g.waiters() == 3 })
	for range all {
		let <- struct{}{}
	}
	for _, ch := range all {
		if a := receive(t, ch); a.status != 200 || a.body != "done" {
			t.Errorf("%+v", a)
		}
	}
	if c := g.settled(7); c.Refused != 1 || c.Aborted != 1 || c.Failed != 0 || most.Load() != 2 || g.counts(1, 1).Requests != 5 {
		t.Errorf("%+v, %d at once", c, most.Load())
	}
	if n, _ := g.queued(); n != 0 {
		t.Errorf("%d never left", n)
	}
}

// Who spent its time in the queue was not failed by the service.
func TestOutOfTimeInTheQueue(t *testing.T) { onBothPaths(t, testOutOfTimeInTheQueue) }

func testOutOfTimeInTheQueue(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Request: 100 * time.Millisecond, Concurrency: Concurrency{Limit: 1, Queue: 5, Wait: time.Minute}}, serveOn(t, hangs(t, &n))))
	first := ask(t, client(t), "GET", g.url())
	eventually(t, func() bool { return n.Load() == 1 })
	held := &g.s.proxy.recall(g.s.current().byKey["shop@prod"]).queue
	held.mu.Lock()
	held.busy++ // somebody who stays
	held.mu.Unlock()
	c := client(t)
	for range 2 {
		res, body := do(t, c, request(t, http.MethodPost, g.url(), strings.NewReader("data")))
		if res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "waited its turn") {
			t.Errorf("%s %q", res.Status, body)
		}
	}
	if a := receive(t, first); a.status != http.StatusGatewayTimeout || strings.Contains(a.body, "turn") {
		t.Errorf("%+v", a)
	}
	if c := g.settled(3); c.Refused != 2 || c.Failed != 1 {
		t.Errorf("%+v", c)
	}
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		q.follow(Concurrency{Limit: 1, Queue: 10, Wait: time.Second})
		order := make(chan int, 10)
		enter := func(n int) {
			go func() {
				if f, err := q.enter(t.Context()); f == nil && err == nil {
					order <- n
				} else {
					order <- -n
				}
			}()
			synctest.Wait()
		}
		for n := range 5 {
			enter(n + 1)
		}
		for want := 1; want <= 2; want++ {
			if n := <-order; n != want {
				t.Errorf("%d came before %d", n, want)
			}
			q.leave()
			synctest.Wait()
		}
		<-order // 3 is inside; 4 and 5 wait too long
		<-time.After(time.Second)
		if a, b := <-order, <-order; a+b != -9 {
			t.Error(a, b)
		}
		// A rule that falls away lets all in; one that comes back counts them.
		enter(6)
		enter(7)
		q.follow(Concurrency{})
		synctest.Wait()
		if <-order+<-order != 13 || q.busy != 3 {
			t.Errorf("%d are in", q.busy)
		}
		q.follow(Concurrency{Limit: 3})
		if f, _ := q.enter(t.Context()); f == nil || f.wait != time.Second {
			t.Errorf("a fourth got in: %+v", f)
		}
		q.leave()
		if f, _ := q.enter(t.Context()); f != nil {
			t.Error("the place of one who left is lost")
		}
	})
}

// A service that slows down under load gets no more than it works on well, and the queue takes the rest.
func TestConcurrencyIsFoundOut(t *testing.T) { onBothPaths(t, testConcurrencyIsFoundOut) }

func testConcurrencyIsFoundOut(t *testing.T, client clients) {
	var inside atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Concurrency: Concurrency{Auto: true, Queue: 200, Wait: time.Minute}}, serveOn(t, func(http.ResponseWriter, *http.Request) {
		n := inside.Add(1)
		defer inside.Add(-1)
		if n > 2*gradientStart {
			t.Errorf("%d at once, before much is known", n)
		}
		<-time.After(time.Duration(n) * time.Millisecond)
	})))
	var all []<-chan answer
	for range 100 {
		all = append(all, ask(t, client(t), "GET", g.url()))
	}
	for _, ch := range all {
		if a := receive(t, ch); a.status != http.StatusOK {
			t.Errorf("%+v", a)
		}
	}
	g.settled(100)
	q := &g.s.proxy.recall(g.s.current().byKey["shop@prod"]).queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy != 0 || q.auto.limit == 0 || q.auto.limit > 2*gradientStart {
		t.Errorf("%d are in; it learned %+v", q.busy, q.auto)
	}
}
