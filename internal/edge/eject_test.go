//go:build unix

package edge

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// flaky answers with the status that is set, and counts.
type flaky struct {
	status atomic.Int64
	asked  atomic.Int64
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	f.asked.Add(1)
	w.WriteHeader(int(f.status.Load()))
}

func newFlaky(status int64) *flaky {
	f := &flaky{}
	f.status.Store(status)
	return f
}

func TestEjectedForErrors(t *testing.T) { onBothPaths(t, testEjectedForErrors) }

func testEjectedForErrors(t *testing.T, client clients) {
	bad, good := newFlaky(500), newFlaky(200)
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Eject: Eject{Failures: 3, For: time.Hour}}, serveOn(t, bad.ServeHTTP), serveOn(t, good.ServeHTTP))
	g.set(table)
	c := client(t)
	for n := 0; bad.asked.Load() < 3 && n < 200; n++ {
		get(t, c, g.url())
	}
	eventually(t, func() bool { return g.counts(1, 1).Failed == 3 })
	g.set(table) // what is known of an instance outlives the table
	for range 30 {
		if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusOK {
			t.Fatal("an ejected instance was asked")
		}
	}
	// The other one fails, too: it is the last of its release, and stays.
	good.status.Store(500)
	before := good.asked.Load()
	for range 10 {
		if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusInternalServerError {
			t.Error(res.Status)
		}
	}
	if n := good.asked.Load() - before; n != 10 {
		t.Errorf("the last one of its release got %d of 10 requests", n)
	}
	// The same address with another release's instance behind it begins anew.
	table.Routes[0].Backends[0].Release = 2
	g.set(table)
	old := bad.asked.Load()
	for n := 0; bad.asked.Load() == old && n < 200; n++ {
		get(t, c, g.url())
	}
	if bad.asked.Load() == old {
		t.Error("a new release pays for the old one's failures")
	}
}

// A canary whose instances all fail must go on failing in front of its gates.
func TestEjectionKeepsEachReleasesShare(t *testing.T) {
	onBothPaths(t, testEjectionKeepsEachReleasesShare)
}

func testEjectionKeepsEachReleasesShare(t *testing.T, client clients) {
	bad, good := newFlaky(503), newFlaky(200)
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Eject: Eject{Failures: 2, For: time.Hour}}, serveOn(t, good.ServeHTTP))
	table.Routes[0].Backends[0].Weight = 50
	table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Weight: 50, Endpoints: ends(serveOn(t, bad.ServeHTTP), serveOn(t, bad.ServeHTTP))})
	g.set(table)
	c := client(t)
	for range 200 {
		get(t, c, g.url())
	}
	if n := bad.asked.Load(); n < 60 || n > 140 {
		t.Errorf("the failing release got %d of 200 requests, at 50 %%", n)
	}
}

func TestEjectedForLateAnswers(t *testing.T) { onBothPaths(t, testEjectedForLateAnswers) }

func testEjectedForLateAnswers(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Try: 150 * time.Millisecond, Eject: Eject{Failures: 2, For: time.Hour}}, serveOn(t, hangs(t, &n)), serveOn(t, says("alive"))))
	c := client(t)
	for range 40 {
		get(t, c, g.url())
	}
	if n.Load() != 2 {
		t.Errorf("an instance that hangs was asked %d times", n.Load())
	}
}

func TestJudge(t *testing.T) {
	guard := &Guard{Eject: Eject{Failures: 2, For: time.Second}}
	rel := &backend{}
	for range 2 {
		rel.endpoints = append(rel.endpoints, &endpoint{state: &endpointState{}, release: rel})
	}
	e, now := rel.endpoints[0], time.Unix(1000, 0)
	judge := func(o outcome, want bool) {
		t.Helper()
		e.judge(guard, o, now)
		if got := e.state.avoided(now.UnixNano()); got != want {
			t.Errorf("after %+v left out: %v", o, got)
		}
	}
	bad, good := outcome{status: 500}, outcome{status: 404}
	judge(bad, false)
	judge(good, false) // one that the client is to blame for resets, too: it was an answer
	judge(bad, false)
	judge(outcome{aborted: true}, false)
	judge(outcome{status: 413, refused: true}, false)
	judge(outcome{failed: true}, true)
	judge(bad, true)
	judge(bad, true) // on their way when it was ejected: that is no new ejection
	for want := 1; want <= 12; want++ {
		end := now.Add(time.Duration(min(want, maxGrowth)) * time.Second)
		if now = end.Add(-1); !e.state.avoided(now.UnixNano()) {
			t.Errorf("ejection %d ended too soon", want)
		}
		now = end
		judge(bad, false)
		judge(bad, true)
	}
	now = now.Add(time.Hour) // it was well for long
	judge(bad, false)
	judge(bad, true)
	if now = now.Add(time.Second); e.state.avoided(now.UnixNano()) {
		t.Error("it never begins anew")
	}
}
