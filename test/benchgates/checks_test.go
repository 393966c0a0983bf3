package benchgates

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/sequential"
)

// A checked is what one check of another tool saw in its minute.
type checked struct {
	served uint32  // by new
	errors float32 // share of new's requests that failed
	p99    float32 // bucket of new's p99
	zFail  float32 // how many standard deviations new's failures, and
	zSlow  float32 // its times, rank above old's
}

// checked plays n rollouts to their horizons and returns what the checks saw.
func (c cell) checked(n int) [][checks]checked {
	return each(n, c.seed^0xf1a6, func(r *rand.PCG) func() [checks]checked {
		per := c.rate * check.Seconds()
		old, newer := newArm(c.old, per*(1-weight)), newArm(c.newer, per*weight)
		o, w := sequential.Arm{Latency: make([]uint64, len(bounds))}, sequential.Arm{Latency: make([]uint64, len(bounds))}
		return func() (out [checks]checked) {
			for i := range out {
				old.serve(r, &o)
				newer.serve(r, &w)
				out[i] = checked{served: uint32(w.Requests), p99: float32(p99(w.Latency, w.Requests)),
					zFail: float32(rankSum([]uint64{o.Requests - o.Failures, o.Failures}, []uint64{w.Requests - w.Failures, w.Failures})),
					zSlow: float32(rankSum(o.Latency, w.Latency))}
				if w.Requests > 0 {
					out[i].errors = float32(w.Failures) / float32(w.Requests)
				}
			}
			return out
		}
	})
}

func p99(counts []uint64, n uint64) int {
	sum, want := uint64(0), uint64(math.Ceil(0.99*float64(n)))
	for i, k := range counts {
		if sum += k; sum >= want {
			return i
		}
	}
	return len(counts) - 1
}

// rankSum is the Mann-Whitney U test on counts by class: how far new's U lies above what equal releases give, in standard
// deviations, with the correction for ties.
func rankSum(old, newer []uint64) float64 {
	var n, m, below, u, ties float64
	for i := range old {
		n += float64(newer[i])
		m += float64(old[i])
	}
	for i := range old {
		x, y := float64(newer[i]), float64(old[i])
		u += x * (below + y/2)
		below += y
		ties += (x + y) * (x + y + 1) * (x + y - 1)
	}
	all := n + m
	variance := n * m / 12 * (all + 1 - ties/(all*(all-1)))
	if !(variance > 0) {
		return 0
	}
	return (u - n*m/2) / math.Sqrt(variance)
}

// repeated goes back at the first check whose test is significant at the one-sided level of false_alarm, for either metric.
func repeated(rollouts [][checks]checked) []run {
	const z = 2.326 // one in a hundred
	return play(rollouts, 1, func(k checked) bool { return k.zFail > z || k.zSlow > z })
}

// play goes back at the n-th check that breaches.
func play(rollouts [][checks]checked, n int, breach func(checked) bool) []run {
	out := make([]run, len(rollouts))
	for i, all := range rollouts {
		left := n
		for _, k := range all {
			out[i].exposed += float64(k.served)
			if breach(k) {
				left--
			}
			if left == 0 {
				out[i].found = true
				break
			}
		}
	}
	return out
}

// A rule is Flagger's: a limit for the share of failures, one for the p99, and how many checks must breach either. Flagger
// counts failed checks over the whole analysis, not in a row.
type rule struct {
	errors, p99 float32
	n           int
}

// defaults are those of Flagger's documentation: success rate 99 %, p99 500 ms, five failed checks.
var defaults = rule{errors: 0.01, p99: float32(bucketOf(500 * time.Millisecond)), n: 5}

// never is a limit that nothing breaches.
const never = math.MaxFloat32

func (u rule) breach(k checked) bool { return k.errors > u.errors || k.p99 > u.p99 }

func (u rule) String() string {
	s := fmt.Sprintf("%d×", u.n)
	if u.errors < never {
		s += fmt.Sprintf(" errors > %.3g %%", 100*u.errors)
	}
	if u.p99 < never {
		s += fmt.Sprintf(" p99 > %v", bounds[int(u.p99)].Round(time.Millisecond))
	}
	return s
}

// tune returns, of the given limits and all numbers of breaches that raise a false alarm in at most one in a hundred rollouts of each
// equal situation, the rule that exposes fewest requests in the bad ones: by the mean of each, and of these the geometric one.
func tune(failed, slow []float32, equals, bads [][][checks]checked) rule {
	var found rule
	least := math.Inf(1)
	for _, e := range failed {
		for _, p := range slow {
			u := rule{errors: e, p99: p, n: 1}
			for _, equal := range equals {
				u.n = max(u.n, u.needs(equal))
			}
			sum := 0.0
			for _, bad := range bads {
				sum += math.Log(summarize(play(bad, u.n, u.breach)).mean)
			}
			if sum < least {
				found, least = u, sum
			}
		}
	}
	return found
}

// needs returns the least number of breaches that few enough of the equal rollouts reach.
func (u rule) needs(equal [][checks]checked) int {
	var reach [checks + 1]int // rollouts by how many of their checks breach
	for _, all := range equal {
		n := 0
		for _, k := range all {
			if u.breach(k) {
				n++
			}
		}
		reach[n]++
	}
	alarms := 0
	for n := checks; n > 0; n-- {
		if alarms += reach[n]; float64(alarms) > alarm*float64(len(equal)) {
			return n + 1
		}
	}
	return 1
}

// limits returns some two dozen limits, spread over all that a check may see, and one that is never breached.
func limits(all [][][checks]checked, score func(checked) float32) []float32 {
	var out []float32
	for _, rollouts := range all {
		var seen []float32
		for i := 0; i < len(rollouts); i += max(1, len(rollouts)/100) {
			for _, k := range rollouts[i] {
				seen = append(seen, score(k))
			}
		}
		slices.Sort(seen)
		for _, q := range []float64{0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999} {
			out = append(out, seen[int(q*float64(len(seen)))])
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	for len(out) > 28 {
		for i := 1; i < len(out); i++ {
			out = slices.Delete(out, i, i+1)
		}
	}
	return append(out, never)
}

func bucketOf(t time.Duration) int {
	i, _ := slices.BinarySearch(bounds, t)
	return i
}
