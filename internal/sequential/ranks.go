package sequential

import (
	"math"
	"slices"
	"sort"
	"time"
)

// learnFrom is how many latencies of old must be known before bets are made on new's.
const learnFrom = 100

// A ranking is a bet on latency: for each bucket by how much likelier new's requests are to be in it than old's. It grows from
// bucket to bucket, so that it loses if new is faster.
type ranking struct{ gain, log, inverse []float64 }

// learn makes the bets anew whenever what is known of old's latencies has doubled. A bet may depend on all that came before the
// pool it is set on.
func (c *Compare) learn() {
	if !c.opt.Latency {
		return
	}
	if c.known < learnFrom || c.known < 2*c.learned {
		return
	}
	var all Arm
	all.add(Arm{Latency: c.opt.Before.Latency}, len(c.opt.Bounds))
	all.add(Arm{Latency: c.Closed.Old.Latency}, len(c.opt.Bounds))
	c.Learned = all.Latency
	c.rank()
}

// rank makes the bets from what was learned.
func (c *Compare) rank() {
	c.ranks = nil
	all := total(c.Learned)
	if c.learned = all; all < learnFrom {
		return
	}
	c.slow = c.slowest(1 - c.opt.Quantile)
	at := c.slow
	if c.lumpy = total(c.Learned[c.slow:]) < all*(1-c.opt.Quantile)/2; c.lumpy {
		at = max(c.slow-1, 1) // the bucket that the quantile lies in
	}
	c.beyond = c.stretched(at, 1+max(c.opt.LatencyRatio, 0))
	c.tails = nil
	for _, b := range tailBets {
		c.tails = append(c.tails, c.slowest(b.tail))
	}
	for _, b := range rankBets {
		r := ranking{}
		slower := 1.0 // share of old's requests in this bucket or a slower one
		for _, n := range c.Learned {
			// The mean over the bucket of the density ratio ratio/(1+(ratio-1)s)^2, s being the share that is slower.
			here := b.ratio / (1 + (b.ratio-1)*slower)
			slower = max(slower-float64(n)/all, 0)
			here /= 1 + (b.ratio-1)*slower
			r.gain, r.log, r.inverse = append(r.gain, here), append(r.log, math.Log(here)), append(r.inverse, 1/here)
		}
		c.ranks = append(c.ranks, r)
	}
}

// logE returns the logarithm of what the bet gains from a pool. As in [table.logE] new's requests are drawn from the pool
// blindly if new is no slower, and drawing with putting back bounds the expectation; or old's are, and the lesser bound counts.
func (r ranking) logE(old, newer []uint64) float64 {
	var won, sum, gain, inverse, all, n float64
	for i := range r.gain {
		if old[i]|newer[i] == 0 {
			continue
		}
		x, k := float64(newer[i]), float64(newer[i])+float64(old[i])
		n += x
		all += k
		won += x * r.log[i]
		sum += k * r.log[i]
		gain += k * r.gain[i]
		inverse += k * r.inverse[i]
	}
	if n == 0 || n == all {
		return 0
	}
	return won - min(n*math.Log(gain/all), sum+(all-n)*math.Log(inverse/all))
}

// weighLatency bets on which of the pool's latencies are new's.
func (c *Compare) weighLatency() {
	if len(c.ranks) == 0 {
		return
	}
	old, newer := c.Pool.Old.Latency, c.tolerated(c.Pool.New.Latency)
	if old == nil || newer == nil {
		return
	}
	logs := c.state.Latency.Bets.Logs
	for i, r := range c.ranks {
		logs[i] += r.logE(old, newer)
	}
	all, n := total(old)+total(newer), total(newer)
	for i, b := range tailBets {
		above := c.tails[i]
		x := total(newer[above:])
		t := table{newHits: x, hits: x + total(old[above:]), newAll: n, all: all}
		logs[len(rankBets)+i] += t.logE(b.ratio, 1)
	}
	x, y := total(c.Pool.New.Latency[c.beyond:]), total(old[c.slow:])
	if c.lumpy {
		c.Slow.rarer(x, n, 1-c.opt.Quantile)
		return
	}
	c.Slow.below(table{newHits: x, hits: x + y, newAll: n, all: all}, 0)
}

// slowest returns the first of the buckets that hold at most the given share of old's requests, the slowest ones; at least
// the last bucket.
func (c *Compare) slowest(share float64) int {
	left := share * total(c.Learned)
	for i := len(c.Learned) - 1; i > 0; i-- {
		if left -= float64(c.Learned[i]); left < 0 {
			return min(i+1, len(c.Learned)-1)
		}
	}
	return 1
}

// stretched returns the first bucket that may hold times longer than ratio times the lower end of bucket i.
func (c *Compare) stretched(i int, ratio float64) int {
	limit := time.Duration(min(float64(c.opt.Bounds[i-1])*ratio, math.MaxInt64/2))
	j := sort.Search(len(c.opt.Bounds), func(j int) bool { return c.opt.Bounds[j] > limit })
	return min(j, len(c.opt.Bounds)-1)
}

// tolerated returns new's latencies as they would be if all were shorter by the tolerance, rounded in new's favour.
func (c *Compare) tolerated(newer []uint64) []uint64 {
	if c.opt.Tolerance == 0 || newer == nil {
		return newer
	}
	out := make([]uint64, len(newer))
	for i, n := range newer {
		j := 0
		if i > 0 {
			low := time.Duration(float64(c.opt.Bounds[i-1]) / (1 + c.opt.Tolerance))
			j = sort.Search(i, func(j int) bool { return c.opt.Bounds[j] > low })
		}
		out[j] = plus(out[j], n)
	}
	return out
}

// quantile returns the bucket in which the k-th fastest request lies, and its middle.
func (c *Compare) quantile(counts []uint64, k float64) time.Duration {
	sum := 0.0
	i := slices.IndexFunc(counts, func(n uint64) bool { sum += float64(n); return sum > k })
	switch {
	case i == 0:
		return c.opt.Bounds[0] / 2
	case i < 0 || i >= len(c.opt.Bounds)-1:
		return c.opt.Bounds[len(c.opt.Bounds)-2]
	}
	return c.opt.Bounds[i-1] + (c.opt.Bounds[i]-c.opt.Bounds[i-1])/2
}

func total(counts []uint64) float64 {
	sum := uint64(0)
	for _, n := range counts {
		sum = plus(sum, n)
	}
	return float64(sum)
}
