package edge

import (
	"math"
	"time"
)

// gradient finds out how many requests at once a service takes before they only wait for each other: latency under load is
// held against latency without load, and the limit follows their ratio (Netflix's concurrency-limits, GradientLimit). The
// room to grow, the root of the limit, is that of Envoy's adaptive concurrency filter, and so is the renewed look at latency
// without load; here half the limit is enough for that: where requests queue in the service at the limit L, latency grows
// with the limit, and L is lowered until L gives less than [slack] times the latency of L/2.
type gradient struct {
	limit   float64
	calm    time.Duration // latency without load
	probing bool          // half the limit is in force to measure it
	next    time.Time     // when that is due

	from time.Time // the window that is being measured
	sum  time.Duration
	n    int
	most int // requests at once in it
}

const (
	gradientWindow = 500 * time.Millisecond
	gradientLeast  = 10 // samples in a window, which lasts until it has them
	gradientProbe  = 30 * time.Second
	gradientStart  = 20
	gradientMin    = 4
	gradientMax    = 10_000
	slack          = 1.5 // how much slower than without load is as good
	smoothing      = 0.2 // the weight of a window's finding
)

// now is the limit in force.
func (g *gradient) now() int {
	switch {
	case g.limit == 0:
		return gradientStart
	case g.probing:
		return max(int(g.limit/2), gradientMin/2)
	}
	return int(g.limit)
}

// sample takes one answer into account: how long it took to begin, and how many requests were under way.
func (g *gradient) sample(took time.Duration, busy int, now time.Time) {
	if g.limit == 0 {
		g.limit, g.from, g.next = gradientStart, now, now.Add(gradientProbe)
	}
	if now.Add(-took).Before(g.from) {
		return // it began under another limit
	}
	g.sum, g.n, g.most = g.sum+took, g.n+1, max(g.most, busy)
	if g.n < gradientLeast || now.Sub(g.from) < gradientWindow {
		return
	}
	mean, most := max(g.sum/time.Duration(g.n), 1), g.most
	g.from, g.sum, g.n, g.most = now, 0, 0, 0
	if g.calm == 0 || mean < g.calm || g.probing {
		g.calm = mean
	}
	if g.probing || now.After(g.next) {
		g.probing, g.next = !g.probing, now.Add(gradientProbe)
		return
	}
	if float64(most) < g.limit/2 {
		return // it is not the limit that holds the load down: nothing is learned of it
	}
	ratio := min(max(slack*float64(g.calm)/float64(mean), 0.5), 1)
	found := g.limit*ratio + math.Sqrt(g.limit)
	g.limit = min(max((1-smoothing)*g.limit+smoothing*found, gradientMin), gradientMax)
}

// teach lets the queue learn from a request that ended.
func (ex *exchange) teach(q *queue) {
	if ex.waited > 0 {
		q.sample(ex.waited, time.Now())
	}
}
