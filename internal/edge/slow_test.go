//go:build unix

package edge

import (
	"flag"
	"math"
	mrand "math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// slowRounds is how many answers each instance gives in each simulation of equal ones. More are for measuring the rate.
var slowRounds = flag.Int("slow.rounds", 3_000, "answers of each equal instance that are simulated")

// times are ways in which the times of answers are spread.
var times = map[string]func(*mrand.Rand) float64{ // in milliseconds
	"constant":      func(*mrand.Rand) float64 { return 10 },
	"lognormal, 1":  func(r *mrand.Rand) float64 { return 10 * math.Exp(r.NormFloat64()) },
	"lognormal, 2":  func(r *mrand.Rand) float64 { return 10 * math.Exp(2*r.NormFloat64()) },
	"lognormal, 10": func(r *mrand.Rand) float64 { return math.Exp(10 * r.NormFloat64()) }, // as wide as one likes: half of the pairs
	"Pareto, 1.1":   func(r *mrand.Rand) float64 { return math.Pow(r.Float64(), -1/1.1) },
	"Pareto, 0.5":   func(r *mrand.Rand) float64 { return math.Pow(r.Float64(), -2) },
	"half of a cache": func(r *mrand.Rand) float64 {
		if r.IntN(2) == 0 {
			return 0.1
		}
		return 100
	},
	"a third is slow": func(r *mrand.Rand) float64 {
		if r.IntN(3) == 0 {
			return 500 * r.ExpFloat64()
		}
		return 1
	},
}

// equals is a release of n instances.
func equals(n int) []*endpoint {
	rel := &backend{}
	for range n {
		rel.endpoints = append(rel.endpoints, &endpoint{state: &endpointState{}, release: rel})
	}
	return rel.endpoints
}

// Instances that are equal are not left out, whatever the spread of their times.
func TestEqualInstancesStay(t *testing.T) {
	rule := Eject{Slower: 2, For: 10 * time.Second}
	for name, draw := range times {
		for _, n := range []int{2, 3, 8} {
			r := mrand.New(mrand.NewPCG(1, uint64(n)))
			ends, now, out := equals(n), time.Unix(1e9, 0), 0
			for range *slowRounds {
				for _, e := range ends {
					now = now.Add(10 * time.Millisecond / time.Duration(n)) // a hundred a second each
					if was := e.state.avoided(now.UnixNano()); !was {
						e.timed(rule, time.Duration(draw(r)*1e6), now)
						if e.state.avoided(now.UnixNano()) {
							out++
						}
					}
				}
			}
			t.Logf("%s, %d instances: %d were left out in %d answers", name, n, out, n**slowRounds)
			if out > 0 {
				t.Errorf("%s, %d instances: %d were left out in %d answers", name, n, out, n**slowRounds)
			}
		}
	}
}

// One that is slower than the others by much is, within some hundred answers; one that is slower by little never is.
func TestSlowInstanceIsLeftOut(t *testing.T) {
	rule := Eject{Slower: 3, For: 10 * time.Second}
	for name, c := range map[string]struct {
		by   float64
		want bool
	}{"ten times": {10, true}, "twice": {2, false}} {
		for _, spread := range []string{"constant", "lognormal, 1"} {
			r := mrand.New(mrand.NewPCG(1, 2))
			ends, now := equals(3), time.Unix(1e9, 0)
			answers := 0
			for ; answers < 2000 && !ends[0].state.avoided(now.UnixNano()); answers++ {
				now = now.Add(10 * time.Millisecond)
				ends[0].timed(rule, time.Duration(c.by*times[spread](r)*1e6), now)
				for _, e := range ends[1:] {
					e.timed(rule, time.Duration(times[spread](r)*1e6), now)
				}
			}
			if out := answers < 2000; out != c.want || out && answers > 600 {
				t.Errorf("%s, %s: left out is %v after %d answers", name, spread, out, answers)
			}
			for i, e := range ends[1:] {
				if e.state.avoided(now.UnixNano()) {
					t.Errorf("%s, %s: instance %d was left out", name, spread, i+2)
				}
			}
		}
	}
}

// pacer feeds answers of given times to instances, round by round.
type pacer struct {
	ends []*endpoint
	now  time.Time
	rule Eject
}

func (p *pacer) feed(rounds int, every time.Duration, ms ...int) {
	for range rounds {
		p.now = p.now.Add(every)
		for i, e := range p.ends {
			e.timed(p.rule, time.Duration(ms[i])*time.Millisecond, p.now)
		}
	}
}

func (p *pacer) out() (n int) {
	for _, e := range p.ends {
		if e.state.avoided(p.now.UnixNano()) {
			n++
		}
	}
	return n
}

func TestSlowBounds(t *testing.T) {
	start := func(n int) *pacer {
		return &pacer{equals(n), time.Unix(1e9, 0), Eject{Slower: 3, For: 10 * time.Second}}
	}
	const tick = 10 * time.Millisecond
	check := func(name string, p *pacer, want int) {
		t.Helper()
		if got := p.out(); got != want {
			t.Errorf("%s: %d are left out, want %d", name, got, want)
		}
	}
	p := start(2)
	p.feed(slowSamples, tick, 100, 10)
	check("too few answers", p, 0)
	p.feed(1000, tick, 100, 10)
	check("one of two", p, 1)
	p = start(1)
	p.feed(1000, tick, 100)
	check("alone", p, 0)
	p = start(2)
	p.feed(1000, time.Second, 100, 10)
	check("too few a second", p, 0)
	p = start(4)
	p.feed(1000, tick, 100, 10, 10, 100)
	check("two of four", p, 2)
	p = start(5)
	p.feed(1000, tick, 100, 100, 10, 10, 10)
	check("two of five", p, 2)
	p = start(3)
	p.feed(1000, tick, 100, 100, 10)
	check("the most are slow", p, 0) // who is slow is said by most of the others
	p = start(5)
	p.feed(1000, tick, 1000, 100, 10, 10, 10)
	check("one after the other", p, 2)
	p = start(6)
	p.ends[5].state.avoid(p.now.Add(time.Hour))
	p.ends[4].state.avoid(p.now.Add(time.Hour))
	p.ends[3].state.avoid(p.now.Add(time.Hour))
	p.feed(1000, tick, 100, 10, 10, 10, 10, 10)
	check("half of them are out already", p, 3)
	p = start(3)
	p.feed(slowSamples, tick, 10, 10, 10)
	p.feed(slowSamples, tick/64, 1000, 10, 10) // all that were under way in a pause of a moment
	p.feed(1000, tick, 10, 10, 10)
	check("a pause", p, 0)
}

// It is left out for longer each time, and comes back without a past.
func TestSlowAgain(t *testing.T) {
	p := &pacer{equals(3), time.Unix(1e9, 0), Eject{Slower: 3, For: 10 * time.Second}}
	for want := 1; want <= 12; want++ {
		for p.out() == 0 {
			p.feed(1, 20*time.Millisecond, 100, 10, 10)
		}
		from := p.now
		for p.out() > 0 {
			p.feed(1, 20*time.Millisecond, 100, 10, 10)
		}
		if took, should := p.now.Sub(from), time.Duration(min(want, maxGrowth))*p.rule.For; took < should || took > should+100*time.Millisecond {
			t.Errorf("the %d. time it was left out for %s", want, took)
		}
	}
	p.feed(1000, 20*time.Millisecond, 10, 10, 10)
	if p.out() > 0 {
		t.Error("one that is well now is left out")
	}
}

func TestExceeds(t *testing.T) {
	for _, c := range []struct {
		a, b   []time.Duration
		factor int
		want   float64
	}{
		{[]time.Duration{1, 2}, []time.Duration{1, 2}, 1, 0.25},
		{[]time.Duration{4, 9}, []time.Duration{1, 3}, 2, 0.75},
		{[]time.Duration{6, 6}, []time.Duration{2, 2}, 3, 0},
		{[]time.Duration{7, 7}, []time.Duration{2, 2}, 3, 1},
		{[]time.Duration{1, math.MaxInt64}, []time.Duration{0, math.MaxInt64}, 3, 0.5},
	} {
		if got := exceeds(c.a, c.b, c.factor); got != c.want {
			t.Errorf("%v of %v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

// With real servers: one of three is slow, and soon nobody waits for it.
func TestEjectedForSlowAnswers(t *testing.T) { onBothPaths(t, testEjectedForSlowAnswers) }

func testEjectedForSlowAnswers(t *testing.T, client clients) {
	var asked [3]atomic.Int64
	var addrs []string
	for i := range asked {
		addrs = append(addrs, serveOn(t, func(_ http.ResponseWriter, r *http.Request) {
			asked[i].Add(1)
			wait := time.Millisecond
			if i == 0 {
				wait = 40 * time.Millisecond
			}
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
			}
		}))
	}
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Eject: Eject{Slower: 3, For: time.Hour}}, addrs...))
	stop := make(chan struct{})
	done := make(chan int64, 4)
	for range cap(done) {
		c := client(t)
		go func() {
			failed := int64(0)
			for {
				select {
				case <-stop:
					done <- failed
					return
				default:
				}
				if res, err := c.Get(g.url()); err != nil || res.StatusCode != http.StatusOK {
					failed++
				} else {
					res.Body.Close()
				}
			}
		}()
	}
	out := func(i int) bool {
		for _, b := range g.s.current().byKey["shop@prod"].backs {
			return b.endpoints[i].state.avoided(time.Now().UnixNano())
		}
		return false
	}
	eventually(t, func() bool { return out(0) })
	others := asked[1].Load() + asked[2].Load()
	eventually(t, func() bool { return g.s.stats.Open("shop", "prod", 1, 1) == 0 })
	before := asked[0].Load()
	eventually(t, func() bool { return asked[1].Load()+asked[2].Load() > others+500 })
	close(stop)
	for range cap(done) {
		if n := <-done; n > 0 {
			t.Errorf("%d requests failed", n)
		}
	}
	if n := asked[0].Load(); n != before || out(1) || out(2) {
		t.Errorf("the slow one was asked %d times after it was left out; the others are left out: %v, %v", n-before, out(1), out(2))
	}
	if c := g.counts(1, 1); c.Failed != 0 || c.Aborted != 0 {
		t.Errorf("being slow counts: %+v", c)
	}
}
