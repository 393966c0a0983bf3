//go:build unix

package badbackend

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// badness is a way in which instances are bad.
type badness struct {
	name  string // of its test
	title string
	bad   int // of three instances
	make  func(t testing.TB) *instance
}

func by(m manner) func(testing.TB) *instance {
	return func(t testing.TB) *instance { return start(t, m, nil) }
}

const (
	all      = 3
	hanging  = "hangs"
	halfway  = "hangs-halfway"
	outage   = "all-hang"
	refusing = "refuses"
	reset0   = "resets-at-once"
	reset1   = "resets"
	reset2   = "breaks-off"
	garbage  = "garbage"
	slowly   = "slow"
	onePath  = "500-one-path"
	failing  = "500"
	disaster = "all-500"
)

var badnesses = []badness{
	{hanging, "One hangs: it takes requests and never answers", 1, by(hangs)},
	{halfway, "One hangs in the middle of a body", 1, by(hangsWithin)},
	{outage, "All hang", all, by(hangs)},
	{refusing, "One takes no connection", 1, refuses},
	{reset0, "One resets each connection as soon as it took it", 1, func(t testing.TB) *instance { return start(t, resets, reset) }},
	{reset1, "One resets each connection when it has read the request", 1, by(resets)},
	{reset2, "One breaks off in the middle of a body, by a reset or by closing", 1, by(resetsWithin)},
	{garbage, "One answers what is not HTTP", 1, by(babbles)},
	{slowly, "All are slow for 5 % of the requests: 500 ms in place of 10", all, by(slow)},
	{onePath, "All answer 500 to one path, which is a tenth of the requests", all, by(failsOnePath)},
	{failing, "One answers 500 to everything, at once", 1, by(fails)},
	{disaster, "All answer 500 to everything", all, by(fails)},
}

// protection is what a route is protected by.
type protection struct {
	title string
	guard *edge.Guard
}

// The values fit the load: a tenth of what the guide has as an example, so that a cell need not last minutes.
const (
	tryTime     = 250 * time.Millisecond
	requestTime = time.Second
)

var (
	ejecting    = edge.Eject{Failures: 5, For: 2 * time.Second}
	concurrency = edge.Concurrency{Limit: 20, Queue: 20, Wait: 250 * time.Millisecond}
)

const (
	none = iota
	try
	request
	eject
	limit
	tryEject
	everything
)

// protections are indexed by the constants above.
var protections = []protection{
	{"none", nil},
	{"`timeouts.try`", &edge.Guard{Try: tryTime}},
	{"`timeouts.request`", &edge.Guard{Request: requestTime}},
	{"`eject`", &edge.Guard{Eject: ejecting}},
	{"`concurrency`", &edge.Guard{Concurrency: concurrency}},
	{"`try` and `eject`", &edge.Guard{Try: tryTime, Eject: ejecting}},
	{"all of them", &edge.Guard{Try: tryTime, Request: requestTime, Eject: ejecting, Concurrency: concurrency}},
}

// instances starts three, of which the first ones are bad.
func (b badness) instances(t testing.TB) []*instance {
	t.Helper()
	var out []*instance
	for n := range all {
		if n < b.bad {
			out = append(out, b.make(t))
		} else {
			out = append(out, start(t, well, nil))
		}
	}
	return out
}

// cell is one badness under one protection.
type cell struct {
	badness
	protection int
	instances  []*instance
	host       string
	leave      func()
	noise      time.Duration // the longest answer of a service that was well meanwhile
	calm       bool
	seen
}

// prepare starts what a cell needs.
func (w *world) prepare(t testing.TB, b badness, p int) *cell {
	t.Helper()
	c := &cell{badness: b, protection: p, instances: b.instances(t)}
	c.host, c.leave = w.service(t, protections[p].guard, c.instances)
	return c
}

// finish reads the counters and checks what must hold in every cell.
func (w *world) finish(t testing.TB, c *cell, requests int) {
	t.Helper()
	for _, i := range c.instances[:c.bad] {
		c.atBad += i.came()
	}
	c.again = w.again(c.host)
	c.leave()
	if len(c.took) != requests {
		t.Errorf("%s: %d of %d requests ended", c, len(c.took), requests)
	}
	for _, x := range c.wrong[:min(len(c.wrong), 5)] {
		t.Errorf("%s: %s (one of %d)", c, x, len(c.wrong))
	}
	once(t, c, requests)
	// No instance is kept at work for a client that has gone.
	rig.Eventually(t, 10*time.Second, c.String()+": the requests that hung are given up", func() bool {
		return !slices.ContainsFunc(c.instances, func(i *instance) bool { return i.hung.Load() > 0 })
	})
}

// String names the cell in messages.
func (c *cell) String() string { return c.name + " with " + protections[c.protection].title }

// hangs reports whether requests at the bad instances end only when somebody ends them.
func (b badness) hangs() bool { return b.name == hanging || b.name == halfway || b.name == outage }

// once checks that no POST came to the instances twice, and no GET more often than its two retries explain. Where there is a protection the
// requests go through net/http, which sends a GET again by itself for each kept connection that ends under it: there only POSTs count.
func once(t testing.TB, c *cell, requests int) {
	t.Helper()
	for n := range requests {
		id, came := idOf(c.host, n), 0
		for _, i := range c.instances {
			came += i.got(id)
		}
		if isPost(n) && came > 1 || c.protection == none && came > 3 {
			t.Errorf("%s: %s came %d times", c, id, came)
		}
	}
}

// results are the cells by badness and protection.
type results map[string][]*cell

// plan is how the cells are measured.
type plan struct {
	load
	atOnce int           // so many cells
	calm   time.Duration // longer answers of a service that is well say that the machine has other things to do: what is late then tells nothing
	most   int           // how often a cell is measured to find the machine calm
}

// measure runs every cell.
func (w *world) measure(t testing.TB, p plan) results {
	t.Helper()
	var cells []*cell
	out := results{}
	for _, b := range badnesses {
		for i := range protections {
			c := &cell{badness: b, protection: i}
			cells, out[b.name] = append(cells, c), append(out[b.name], c)
		}
	}
	tr := newClient(t)
	fine, leave := w.service(t, nil, badness{}.instances(t))
	defer leave()
	for some := range slices.Chunk(cells, p.atOnce) {
		for range p.most {
			var done sync.WaitGroup
			ended, noise := make(chan struct{}), make(chan time.Duration)
			for _, c := range some {
				*c = *w.prepare(t, c.badness, c.protection)
				done.Go(func() { c.seen = p.run(t.Context(), w, tr, c.host) })
			}
			go func() { noise <- w.control(t.Context(), tr, fine, ended) }()
			done.Wait()
			close(ended)
			longest := <-noise
			tr.CloseIdleConnections()
			for _, c := range some {
				c.noise, c.calm = longest, longest < p.calm
				w.finish(t, c, p.requests)
			}
			if longest < p.calm {
				break
			}
		}
	}
	return out
}

// control asks a service whose instances are well, until the others have ended, and returns its longest answer.
func (w *world) control(ctx context.Context, tr *http.Transport, host string, ended <-chan struct{}) (longest time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := range 10_000 {
		longest = max(longest, w.ask(ctx, tr, host, n).took)
		select {
		case <-ended:
			return longest
		case <-tick.C:
		}
	}
	<-ended
	return longest
}
