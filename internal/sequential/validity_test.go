package sequential

import (
	"math"
	"math/rand/v2"
	"testing"
)

// often plays runs of a game and fails if it is lost more often than stated, by more than chance explains (three standard
// deviations). It returns how often.
func often(t *testing.T, runs int, stated float64, lost func(r *rand.Rand) bool) float64 {
	t.Helper()
	n := 0.0
	for i := range runs {
		if lost(rand.New(rand.NewPCG(uint64(i), 0x5eed))) {
			n++
		}
	}
	rate := n / float64(runs)
	if limit := stated + 3*math.Sqrt(stated*(1-stated)/float64(runs)); rate > limit {
		t.Errorf("%.4f of the runs, at most %.4f is stated (%.4f with chance)", rate, stated, limit)
	}
	t.Logf("%.4f of %d runs, at most %.4f is stated", rate, runs, stated)
	return rate
}

// Equal releases, and all that makes it hard: rates that swing together, weights that change, next to no failures, a request
// at a time or a minute at a time. One in ten is stated, so that too many would show.
func TestFalseAlarms(t *testing.T) {
	swing := func(i int) float64 { return 0.02 + 0.3*math.Pow(math.Sin(float64(i)/9), 8) }
	steps := func(i int) float64 { return []float64{0.05, 0.25, 0.5}[min(i/40, 2)] }
	for name, k := range map[string]struct {
		fails, weight func(i int) float64
		times         func(i int) float64
		samples, size int
		latency       bool
		tolerance     float64
	}{
		"steady":              {samples: 100, size: 40},
		"every request":       {samples: 2000, size: 1},
		"a minute at once":    {samples: 12, size: 600},
		"rare failures":       {samples: 100, size: 40, fails: func(int) float64 { return 0.002 }},
		"most fail":           {samples: 60, size: 40, fails: func(int) float64 { return 0.8 }},
		"swinging":            {samples: 120, size: 30, fails: swing, weight: steps},
		"rising with weight":  {samples: 120, size: 20, fails: func(i int) float64 { return 0.2 * steps(i) }, weight: steps},
		"latency":             {samples: 60, size: 40, latency: true},
		"latency, swinging":   {samples: 90, size: 20, latency: true, fails: swing, weight: steps, times: func(i int) float64 { return 1 + 20*swing(i) }},
		"as bad as tolerated": {samples: 80, size: 40, tolerance: 0.3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs := 2000
			if k.latency || k.size == 1 {
				runs = 400
			}
			often(t, runs, 0.1, func(r *rand.Rand) bool {
				c := mustNew(t, Options{FalseAlarm: 0.1, Errors: true, Latency: k.latency, Tolerance: k.tolerance})
				for i := range k.samples {
					p, w, times := 0.02, 0.1, 1.0
					if k.fails != nil {
						p = k.fails(i)
					}
					if k.weight != nil {
						w = k.weight(i)
					}
					if k.times != nil {
						times = k.times(i)
					}
					s := world{r, p, p * (1 + k.tolerance), 1, k.latency, false}.serve(k.size, w)
					if times != 1 { // for both
						shift := int(8 * math.Log2(times))
						for _, a := range []*Arm{&s.Old, &s.New} {
							copy(a.Latency[shift:], a.Latency[:len(a.Latency)-shift])
							clear(a.Latency[:shift])
						}
					}
					if c.Add(s); c.State() == Worse {
						return true
					}
				}
				return false
			})
		})
	}
}

// Rates and weights that grow together are what a comparison of totals falls for. Told of the weights Compare does not; a
// sample that hides a change of weight from it shows that this test could fail.
func TestWeightsMustBeTold(t *testing.T) {
	lost := func(told bool) func(r *rand.Rand) bool {
		return func(r *rand.Rand) bool {
			c := mustNew(t, Options{FalseAlarm: 0.1, Errors: true})
			for range 20 {
				quiet, busy := world{r, 0.001, 0.001, 1, false, false}.serve(400, 0.05), world{r, 0.2, 0.2, 1, false, false}.serve(100, 0.5)
				if told {
					c.Add(quiet)
					c.Add(busy)
				} else {
					quiet.Old.add(busy.Old, 0)
					quiet.New.add(busy.New, 0)
					quiet.Weight = 0
					c.Add(quiet)
				}
				if c.State() == Worse {
					return true
				}
			}
			return false
		}
	}
	often(t, 500, 0.1, lost(true))
	n := 0
	for i := range 50 {
		if lost(false)(rand.New(rand.NewPCG(uint64(i), 1))) {
			n++
		}
	}
	if n < 25 {
		t.Errorf("only %d of 50 were misled", n)
	}
}

// New is worse by exactly the margin, and rates drift: how often is it let pass at some time?
func TestFalsePasses(t *testing.T) {
	for name, k := range map[string]struct {
		old, newer func(i int) float64
		times      float64
		latency    bool
		steady     bool
	}{
		"half a point":         {old: func(int) float64 { return 0.002 }, newer: func(int) float64 { return 0.007 }, times: 1},
		"a quarter":            {old: func(int) float64 { return 0.1 }, newer: func(int) float64 { return 0.125 }, times: 1},
		"drifting":             {old: func(i int) float64 { return 0.001 * float64(i%20) }, newer: func(i int) float64 { return 0.001*float64(i%20) + 0.005 }, times: 1},
		"p95 a quarter":        {old: func(int) float64 { return 0 }, newer: func(int) float64 { return 0 }, times: 1.26, latency: true},
		"p95 a quarter steady": {old: func(int) float64 { return 0 }, newer: func(int) float64 { return 0 }, times: 1.26, latency: true, steady: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs := 500
			if k.latency {
				runs = 100
			}
			often(t, runs, 0.1, func(r *rand.Rand) bool {
				c := mustNew(t, Options{FalsePass: 0.1, FalseAlarm: 1e-9, Errors: !k.latency, Latency: k.latency})
				for i := range 150 {
					c.Add(world{r: r, oldFail: k.old(i), fails: k.newer(i), times: k.times, latency: k.latency, steady: k.steady}.serve(60, []float64{0.2, 0.5}[min(i/75, 1)]))
					if c.State() == NotWorse {
						return true
					}
				}
				return false
			})
		})
	}
}

// The bounds on the difference, and on the quantile, must hold at every time at once.
func TestBoundsHoldAtAllTimes(t *testing.T) {
	truth := 0.04 * math.Exp(1.6448536)
	often(t, 150, 0.1, func(r *rand.Rand) bool {
		c := mustNew(t, Options{FalsePass: 0.1, Errors: true})
		n, sum := 0.0, 0.0
		for i := range 100 {
			p := 0.01 + 0.0005*float64(i%30)
			more := 0.02 + 0.001*float64(i%7)
			s := world{r, p, p + more, 1, false, false}.serve(100, 0.25)
			c.Add(s)
			n += float64(s.New.Requests)
			sum += more * float64(s.New.Requests)
			if c.Pool.New.Requests == 0 {
				if v := c.Verdict().Errors; v.Low > sum/n || v.High < sum/n {
					return true
				}
			}
		}
		return false
	})
	often(t, 150, 0.1, func(r *rand.Rand) bool {
		c := mustNew(t, Options{FalsePass: 0.1, Latency: true})
		for range 25 {
			c.Add(world{r, 0, 0, 1, true, false}.serve(80, 0.5))
			v := c.Verdict().Latency
			// A bucket is told by its middle, at most 6.25 % from what it holds.
			if v.Low > truth*1.0625 || v.High < truth/1.0625 {
				return true
			}
		}
		return false
	})
}
