// Package sequential decides from counted requests whether a new release is worse than the old one beside it, and may be asked
// after every request: its answers stay right however often one looks and whenever one stops.
//
// [Compare] takes in what both releases served since it was last told, as counts, and keeps two kinds of evidence for each
// metric (the share of requests that fail; how long requests take):
//
//   - against "new is no worse", as an e-process: a fortune that no bet can be expected to increase while new is no worse, so
//     that it ever grows to 1/alpha with a chance of at most alpha (Ville 1939). When it does, new is [Worse].
//   - against "new is worse by the margin or more", likewise. While that is refuted for all metrics, new is [NotWorse].
//
// Nothing is assumed about rates staying the same over time: only what was served at the same time, at the same weights, is
// ever compared. What is assumed is that chance alone decides which release gets a request. DESIGN.md has the proofs, the
// sources, and what breaks that assumption.
//
// The room has no clock, does no I/O and imports nothing of this module. A Compare marshals to JSON and goes on from there.
package sequential

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Options say what is compared and how surely. The zero value of a field stands for its default.
type Options struct {
	// FalseAlarm is the greatest chance, over the whole rollout and all metrics together, that a release that is no worse is
	// found worse. 0.01 by default.
	FalseAlarm float64 `json:"false_alarm,omitempty"`
	// FalsePass is the greatest chance that a release that is worse by a margin is found not worse. FalseAlarm by default.
	FalsePass float64 `json:"false_pass,omitempty"`
	// Errors and Latency choose the metrics; at least one.
	Errors  bool `json:"errors,omitempty"`
	Latency bool `json:"latency,omitempty"`
	// Tolerance is by how much new may be worse and still count as no worse, as a ratio less one: 0.1 lets it fail 1.1 times as
	// often and take 1.1 times as long. None by default: any true regression may be found, though one of less than about 15 %
	// is not looked for.
	Tolerance float64 `json:"tolerance,omitempty"`
	// ErrorPoints and ErrorRatio are the margin for errors, the greater of the two: 0.005 (half a percentage point) and 0.25
	// (a quarter of what old fails) by default. A negative one stands for 0.
	ErrorPoints float64 `json:"error_points,omitempty"`
	ErrorRatio  float64 `json:"error_ratio,omitempty"`
	// LatencyRatio is the margin for latency: by how much new's quantile may lie above old's. 0.25 by default.
	LatencyRatio float64 `json:"latency_ratio,omitempty"`
	// Bounds are the upper ends of the latency buckets, ascending; the last bucket has no end, whatever its bound. Required
	// for Latency.
	Bounds []time.Duration `json:"bounds,omitempty"`
	// Before is what old served before the rollout. It only sharpens the bets; without it those on latency begin when old has
	// served some hundred requests beside new.
	Before Arm `json:"before,omitzero"`
	// Quantile is which one [NotWorse] is about, in (0, 1). 0.95 by default.
	Quantile float64 `json:"quantile,omitempty"`
	// MinRequests is how many requests new must have served before it can be found NotWorse. 100 by default.
	MinRequests uint64 `json:"min_requests,omitempty"`
}

// fill puts in the defaults and says what is wrong with the rest.
func (o *Options) fill() error {
	o.FalseAlarm = cmp.Or(o.FalseAlarm, 0.01)
	o.FalsePass = cmp.Or(o.FalsePass, o.FalseAlarm)
	o.ErrorPoints = cmp.Or(o.ErrorPoints, 0.005)
	o.ErrorRatio = cmp.Or(o.ErrorRatio, 0.25)
	o.LatencyRatio = cmp.Or(o.LatencyRatio, 0.25)
	o.Quantile = cmp.Or(o.Quantile, 0.95)
	o.MinRequests = cmp.Or(o.MinRequests, 100)
	inside := func(x, low, high float64) bool { return x > low && x < high } // false for NaN
	switch {
	case !o.Errors && !o.Latency:
		return errors.New("compare: nothing to compare: neither errors nor latency")
	case !inside(o.FalseAlarm, 0, 1) || !inside(o.FalsePass, 0, 1):
		return fmt.Errorf("compare: false_alarm and false_pass must lie between 0 and 1, not %v and %v", o.FalseAlarm, o.FalsePass)
	case !(o.Tolerance >= 0 && o.Tolerance <= 10):
		return fmt.Errorf("compare: the tolerance must lie between 0 and 10, not %v", o.Tolerance)
	case !inside(o.ErrorPoints, -1e9, 1) || !inside(o.ErrorRatio, -1e9, 100) || !inside(o.LatencyRatio, -1e9, 100):
		return fmt.Errorf("compare: a margin is out of range: %v, %v, %v", o.ErrorPoints, o.ErrorRatio, o.LatencyRatio)
	case !inside(o.Quantile, 0, 1):
		return fmt.Errorf("compare: the quantile must lie between 0 and 1, not %v", o.Quantile)
	case o.Latency && (len(o.Bounds) < 2 || o.Bounds[0] <= 0 || !slices.IsSortedFunc(o.Bounds[:len(o.Bounds)-1], ascending)):
		return errors.New("compare: latency needs the buckets' bounds, ascending")
	}
	if o.Latency {
		o.Bounds[len(o.Bounds)-1] = math.MaxInt64
	}
	return nil
}

// ascending makes IsSortedFunc refuse equal neighbours too.
func ascending(a, b time.Duration) int {
	if a == b {
		return -1
	}
	return cmp.Compare(a, b)
}

// An Arm is what one release served in some time.
type Arm struct {
	Requests uint64 `json:"requests,omitempty"`
	Failures uint64 `json:"failures,omitempty"` // of Requests
	// Latency counts requests per bucket of Options.Bounds; nil for none. Its sum need not be Requests: aborted requests,
	// for one, have no latency.
	Latency []uint64 `json:"latency,omitempty"`
}

// A Sample is what both releases served since the sample before.
type Sample struct {
	Old Arm `json:"old"`
	New Arm `json:"new"`
	// Weight is the share of requests that the edge meant for new, 0 to 1; 0 where it is not known. It only says what belongs
	// together: samples are pooled while it stays the same. A sample must not span a change.
	Weight float64 `json:"weight,omitempty"`
}

// Compare gathers the evidence. It is not safe for concurrent use.
type Compare struct {
	opt Options
	state

	known float64 // how many latencies of old there are to learn from: Options.Before and those weighed
	// The rest is made from Learned.
	learned float64   // how many there are
	ranks   []ranking // the bets on all buckets
	tails   []int     // for each of tailBets the first bucket that is slow
	slow    int       // the first bucket above old's quantile
	beyond  int       // the first one above what the margin makes of that
	lumpy   bool      // so few of old's are above its quantile that there is nothing to compare new's with
}

// state is what a Compare knows; all else follows from it and the options.
type state struct {
	Pool    Sample   `json:"pool"`   // not yet weighed
	Target  float64  `json:"target"` // how many requests the pool is to have
	Closed  Sample   `json:"closed"` // weighed
	Errors  metric   `json:"errors"`
	Latency metric   `json:"latency"`
	Learned []uint64 `json:"learned,omitempty"` // old's latencies that the bets rest on
	Points  contrast `json:"points"`            // new's failures against old's and a number of points more
	Ratio   contrast `json:"ratio"`             // new's failures against a multiple of old's
	Floor   contrast `json:"floor"`             // old's failures against new's: the lower bound of the difference
	Slow    contrast `json:"slow"`              // new's requests slower than the margin allows against old's slow ones
}

// metric is the evidence that new is worse in one way.
type metric struct {
	Bets  bets      `json:"bets"`
	Prior []float64 `json:"prior,omitempty"` // logarithms of what was set on each bet
	Worse bool      `json:"worse,omitempty"` // stays
}

// New starts a comparison. The error says which option makes no sense.
func New(o Options) (*Compare, error) {
	o.Bounds, o.Before.Latency = slices.Clone(o.Bounds), slices.Clone(o.Before.Latency)
	if err := o.fill(); err != nil {
		return nil, err
	}
	c := &Compare{opt: o}
	c.state.Errors.Bets = newBets(len(errorRatios))
	c.state.Latency.Bets = newBets(len(rankBets) + len(tailBets))
	c.Points, c.Ratio, c.Slow, c.Floor = newContrast(), newContrast(), newContrast(), newContrast()
	c.Target = c.target()
	c.known = total(c.opt.Before.Latency)
	c.learn()
	return c, nil
}

// Add takes in what was served since the last Add. Samples with impossible counts are read as well as they can be: more
// failures than requests are as many as requests; buckets that Options.Bounds has no bound for belong to the last one.
func (c *Compare) Add(s Sample) {
	if !(s.Weight > 0 && s.Weight < 1) {
		s.Weight = 0 // all traffic goes one way, or nobody knows
	}
	if s.Weight != c.Pool.Weight {
		c.weigh()
		c.Pool.Weight = s.Weight
		c.Target = c.target()
	}
	c.Pool.Old.add(s.Old, len(c.opt.Bounds))
	c.Pool.New.add(s.New, len(c.opt.Bounds))
	if float64(c.Pool.Old.Requests)+float64(c.Pool.New.Requests) >= c.Target {
		c.weigh()
		c.Target = c.target()
	}
}

// Pools have room for so many requests of new at the start, for a sixteenth of those it has served later on, and at most for
// so many.
const (
	smallPool = 2
	largePool = 64
	poolShare = 16
)

// target returns how many requests of both releases the next pool should have.
//
// The share of new in a pool is what its failures are judged by, so a pool of one request tells nothing, and small pools tell
// less than they could; but what waits in a pool is not looked at yet. The size must not follow from what is in the pool
// itself: not how many failed, and strictly not which release they went to either. So it depends on earlier pools and the weight.
func (c *Compare) target() float64 {
	old, newer := float64(c.Closed.Old.Requests), float64(c.Closed.New.Requests)
	w := c.Pool.Weight
	if w == 0 {
		w = (newer + 1) / (old + newer + 20)
	}
	return min(max(newer/poolShare, smallPool), largePool) / max(min(w, 1-w), 1e-4)
}

// weigh turns the pool into evidence and empties it.
func (c *Compare) weigh() {
	p := &c.Pool
	if p.Old.empty() && p.New.empty() {
		return
	}
	if c.opt.Errors {
		c.weighErrors()
	}
	if c.opt.Latency {
		c.weighLatency()
	}
	c.known += total(p.Old.Latency)
	c.Closed.Old.add(p.Old, len(c.opt.Bounds))
	c.Closed.New.add(p.New, len(c.opt.Bounds))
	p.Old.clear()
	p.New.clear()
	c.state.Errors.Bets.restart(c.Closed.New.Requests)
	c.state.Latency.Bets.restart(c.Closed.New.Requests)
	c.learn()
	c.judge()
}

// weighErrors bets on how many of the pool's failures are new's.
func (c *Compare) weighErrors() {
	old, newer := c.Pool.Old, c.Pool.New
	t := table{hits: float64(old.Failures) + float64(newer.Failures), newHits: float64(newer.Failures),
		all: float64(old.Requests) + float64(newer.Requests), newAll: float64(newer.Requests)}
	if c.state.Errors.Prior == nil && t.informative() {
		known := c.opt.Before // and this pool's own requests are not known yet
		known.Latency = nil
		known.add(c.Closed.Old, 0)
		c.state.Errors.Prior = errorPrior(float64(known.Requests), float64(known.Failures))
	}
	for i, ratio := range errorRatios {
		c.state.Errors.Bets.Logs[i] += t.logE(ratio, 1+c.opt.Tolerance)
	}
	c.Points.below(t, 0)
	c.Ratio.below(t, max(c.opt.ErrorRatio, 0))
	c.Floor.above(t)
}

// errorPart is what errors get of the evidence where latency is compared, too. Failures are rare, and each of them tells
// less.
const errorPart = 0.75

// judge notes when a metric, or all of them together, says worse. A mean of e-processes is one, so their weighted mean is held
// against 1/alpha: that finds all that giving each metric its part of alpha would find, and what hurts both sooner.
func (c *Compare) judge() {
	compared := c.compared()
	bar := -math.Log(c.opt.FalseAlarm)
	if !slices.ContainsFunc(compared, func(m scored) bool { return m.Bets.most() >= bar }) {
		return // no fortune is greater than the best of its bets; this is quick to see
	}
	logs := make([]float64, 0, 2)
	for _, m := range compared {
		logs = append(logs, math.Log(m.part)+m.logE())
	}
	if logSum(logs) < bar {
		return
	}
	first := !c.worse()
	for i, m := range compared {
		// The one with the most is to blame, and the other too if it would have been enough alone.
		if logs[i] >= bar || first && logs[i] == slices.Max(logs) {
			m.Worse = true
		}
	}
}

func (c *Compare) worse() bool { return c.state.Errors.Worse || c.state.Latency.Worse }

// A scored metric knows how its fortune was set at the start, and what part of all evidence it is.
type scored struct {
	*metric
	prior []float64
	part  float64
}

func (m scored) logE() float64 { return m.Bets.logE(m.prior) }

func (c *Compare) errors() scored {
	s := scored{&c.state.Errors, c.state.Errors.Prior, 1}
	if s.prior == nil {
		s.prior = anyPrior // nothing was won or lost so far
	}
	if c.opt.Latency {
		s.part = errorPart
	}
	return s
}

func (c *Compare) latency() scored {
	s := scored{&c.state.Latency, latencyPrior, 1}
	if c.opt.Errors {
		s.part = 1 - errorPart
	}
	return s
}

// compared returns the metrics that are, errors first.
func (c *Compare) compared() []scored {
	switch {
	case c.opt.Errors && c.opt.Latency:
		return []scored{c.errors(), c.latency()}
	case c.opt.Errors:
		return []scored{c.errors()}
	}
	return []scored{c.latency()}
}

// add adds b, folding buckets behind the last of n into it. Sums stop at the greatest number there is.
func (a *Arm) add(b Arm, n int) {
	a.Requests = plus(a.Requests, b.Requests)
	a.Failures = plus(a.Failures, min(b.Failures, b.Requests))
	if n == 0 || len(b.Latency) == 0 {
		return
	}
	if a.Latency == nil {
		a.Latency = make([]uint64, n)
	}
	for i, k := range b.Latency {
		if k > 0 {
			j := min(i, n-1)
			a.Latency[j] = plus(a.Latency[j], k)
		}
	}
}

func (a *Arm) empty() bool {
	return a.Requests == 0 && !slices.ContainsFunc(a.Latency, func(k uint64) bool { return k > 0 })
}

func (a *Arm) clear() {
	a.Requests, a.Failures = 0, 0
	clear(a.Latency)
}

func plus(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}
