package sequential

import (
	"math"
	"slices"
	"testing"
)

func logChoose(n, k float64) float64 {
	a, _ := math.Lgamma(n + 1)
	b, _ := math.Lgamma(k + 1)
	c, _ := math.Lgamma(n - k + 1)
	return a - b - c
}

func binomialLaw(n int, p float64) []float64 {
	out := make([]float64, n+1)
	for k := range out {
		out[k] = math.Exp(logChoose(float64(n), float64(k)) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	return out
}

// The heart of the matter: what a bet is expected to hold after a pool, if hits fall blindly, summed over all that may happen.
func TestABetIsExpectedToGainNothing(t *testing.T) {
	for _, all := range []int{2, 10, 60, 400} {
		for _, part := range []float64{0.05, 0.3, 0.5, 0.9} {
			for _, rate := range []float64{0.004, 0.05, 0.5, 0.97} {
				newAll, hits := math.Ceil(part*float64(all)), math.Ceil(rate*float64(all))
				if newAll == float64(all) {
					continue
				}
				ratios := slices.Clone(errorRatios)
				for _, b := range tailBets {
					ratios = append(ratios, b.ratio)
				}
				for _, ratio := range ratios {
					mean, sum := 0.0, 0.0
					for x := max(0, hits+newAll-float64(all)); x <= min(hits, newAll); x++ {
						p := math.Exp(logChoose(newAll, x) + logChoose(float64(all)-newAll, hits-x) - logChoose(float64(all), hits))
						sum += p
						mean += p * math.Exp(table{x, hits, newAll, float64(all)}.logE(ratio, 1))
					}
					if math.Abs(sum-1) > 1e-9 {
						t.Fatalf("the law sums to %v", sum)
					}
					if mean > 1+1e-9 {
						t.Errorf("%v of %d are new's, %v hits, ratio %v: the bet is expected to hold %v", newAll, all, hits, ratio, mean)
					}
					// Where new has few of the requests or few are hit, hardly anything may be given away.
					if (part == 0.05 || rate == 0.004) && all == 400 && ratio < 3 && mean < 0.6 {
						t.Errorf("%v of %d are new's, %v hits, ratio %v: only %v: the bound is too loose", newAll, all, hits, ratio, mean)
					}
				}
			}
		}
	}
}

// With a tolerance the two releases fail on their own, new exactly as much more often as is tolerated.
func TestATolerantBetIsExpectedToGainNothing(t *testing.T) {
	for _, still := range []float64{1.1, 1.5, 3} {
		for _, p := range []float64{0.001, 0.02, 0.2} {
			const n, o = 30, 90
			newLaw, oldLaw := binomialLaw(n, still*p), binomialLaw(o, p)
			for _, ratio := range errorRatios {
				mean := 0.0
				for x, px := range newLaw {
					for y, py := range oldLaw {
						mean += px * py * math.Exp(table{float64(x), float64(x + y), n, n + o}.logE(ratio, still))
					}
				}
				if mean > 1+1e-9 {
					t.Errorf("tolerance %v, rate %v, ratio %v: the bet is expected to hold %v", still, p, ratio, mean)
				}
			}
		}
	}
}

// Which three of ten requests are new's is drawn blindly: all 120 ways are gone through.
func TestARankingIsExpectedToGainNothing(t *testing.T) {
	c, err := New(Options{Latency: true, Bounds: edgeBounds(), Before: Arm{Latency: lognormal(10000, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	buckets := []int{60, 75, 80, 80, 82, 85, 86, 90, 97, 110}
	for i, r := range c.ranks {
		for _, few := range []bool{true, false} {
			mean, ways := 0.0, 0.0
			for set := range 1 << 10 {
				n := 0
				old, newer := make([]uint64, len(c.opt.Bounds)), make([]uint64, len(c.opt.Bounds))
				for j, b := range buckets {
					if (set>>j&1 == 1) == few {
						newer[b]++
						n++
					} else {
						old[b]++
					}
				}
				if n != 3 && n != 7 || (n == 3) != few {
					continue
				}
				ways++
				mean += math.Exp(r.logE(old, newer))
			}
			if mean /= ways; ways != 120 || mean > 1+1e-9 || mean < 0.2 {
				t.Errorf("bet %d, few %v: is expected to hold %v (%v ways)", i, few, mean, ways)
			}
		}
		if !slices.IsSorted(r.gain) {
			t.Errorf("bet %d gains by requests that are faster", i)
		}
	}
}

// New fails exactly by the margin more often; the bet that it does not is expected to gain nothing.
func TestAContrastIsExpectedToGainNothing(t *testing.T) {
	for _, k := range []struct{ q, extra, m float64 }{{0.001, 0, 0.005}, {0.02, 0.25, 0}, {0.3, 0, 0.05}, {0.2, 0.5, 0.01}} {
		for _, n := range []int{3, 20, 100} {
			const o = 60
			p := (1+k.extra)*k.q + k.m
			below, above := make([]float64, len(stakes)), make([]float64, len(stakes))
			newLaw, oldLaw := binomialLaw(n, p), binomialLaw(o, k.q)
			for x, px := range newLaw {
				for y, py := range oldLaw {
					at := table{float64(x), float64(x + y), float64(n), float64(n + o)}
					c, d := newContrast(), newContrast()
					c.below(at, k.extra)
					d.above(at)
					for i := range stakes {
						below[i] += px * py * math.Exp(c.S[i]+c.A[i]*k.m)
						above[i] += px * py * math.Exp(d.S[i]-d.A[i]*(p-k.q))
					}
				}
			}
			for i, stake := range stakes {
				if below[i] > 1+1e-9 || above[i] > 1+1e-9 {
					t.Errorf("%+v, %d of new, stake %v: expected to hold %v and %v", k, n, stake, below[i], above[i])
				}
			}
		}
	}
}

func TestPriorsSumToOne(t *testing.T) {
	for _, p := range [][]float64{anyPrior, quietPrior, noisyPrior, latencyPrior} {
		if s := logSum(p); math.Abs(s) > 1e-12 {
			t.Errorf("the logarithm of the sum is %v", s)
		}
	}
	b := newBets(len(errorRatios))
	for served := uint64(1); served < 1<<20; served *= 2 {
		b.restart(served)
		if l := b.logE(anyPrior); math.Abs(l) > 1e-12 {
			t.Fatalf("after %d requests that told nothing the fortune's logarithm is %v", served, l)
		}
	}
	if len(b.Marks) != laterParts {
		t.Fatalf("%d later starts", len(b.Marks))
	}
}

// What is slow is told by old's latencies, to the bucket, and what the margin makes of it is rounded against new.
func TestWhatIsSlow(t *testing.T) {
	o := both()
	o.Before.Latency = lognormal(1e6, 1)
	c := mustNew(t, o)
	for i, share := range []float64{0.1, 0.1, 0.05, 0.05, 0.01, 0.01, 0.05} {
		at := append(slices.Clone(c.tails), c.slow)[i]
		if total(o.Before.Latency[at:]) > share*1e6 || total(o.Before.Latency[at-1:]) <= share*1e6 {
			t.Errorf("the slowest %v begin at bucket %d, above which lie %v and with it %v", share, at, total(o.Before.Latency[at:]), total(o.Before.Latency[at-1:]))
		}
	}
	limit := 1.25 * c.opt.Bounds[c.slow-1].Seconds()
	if low, high := c.opt.Bounds[c.beyond-1].Seconds(), c.opt.Bounds[c.beyond].Seconds(); low > limit || high <= limit {
		t.Errorf("a quarter above the p95 is %v s; counted are those from %v s, and in the first bucket up to %v s", limit, low, high)
	}
}

// With a tolerance new's times count as shorter, and never as longer than they are without it.
func TestToleratedTimes(t *testing.T) {
	o := both()
	o.Tolerance = 0.2
	c := mustNew(t, o)
	for i := 1; i < len(c.opt.Bounds); i++ {
		one := make([]uint64, len(c.opt.Bounds))
		one[i] = 3
		got := c.tolerated(one)
		j := slices.IndexFunc(got, func(n uint64) bool { return n > 0 })
		low := c.opt.Bounds[i-1].Seconds() / 1.2
		if total(got) != 3 || low >= c.opt.Bounds[j].Seconds() || j > 0 && low < c.opt.Bounds[j-1].Seconds()-1e-9 {
			t.Errorf("bucket %d, from %v s, counts as bucket %d", i, c.opt.Bounds[i-1], j)
		}
	}
}
