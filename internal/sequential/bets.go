package sequential

import (
	"math"
	"slices"
)

// A bet is one supposition about how much worse new is, and the part of the fortune that is set on it beforehand.
type bet struct {
	ratio float64 // how much likelier a request of new is to fail, or to be slow; for ranks the ratio of odds
	tail  float64 // for slow requests: the share of old's that is slow
	prior float64
}

// errorRatios are spaced so that every ratio from 1.2 up has one near it; 400 stands for "only new fails".
var errorRatios = []float64{1.35, 1.8, 2.6, 4.2, 8, 20, 400}

// The fortune is set on errorRatios by what is known of old when the first request fails, see [errorPrior].
var (
	anyPrior   = logs(0.08, 0.20, 0.20, 0.17, 0.12, 0.08, 0.15)
	quietPrior = logs(0.01, 0.01, 0.02, 0.02, 0.03, 0.04, 0.87) // two failures of new and none of old suffice at 5 %
	noisyPrior = logs(0.07, 0.50, 0.22, 0.12, 0.06, 0.02, 0.01)
)

// How much must be known of old: so many requests without a failure; so many failures, and that one in so many fails.
const (
	quietFrom  = 600
	noisyFrom  = 3
	noisyShare = 1.0 / 300
)

// errorPrior says how likely each ratio is thought to be when old failed so many of its requests. Where it never fails,
// whatever fails is new's doing; where it fails often there is no room for great ratios. If that was wrong, it
// only takes longer.
func errorPrior(requests, failures float64) []float64 {
	switch {
	case failures == 0 && requests >= quietFrom:
		return quietPrior
	case failures >= noisyFrom && failures >= noisyShare*requests:
		return noisyPrior
	}
	return anyPrior
}

// rankBets suppose that all of new's requests are slower: that the odds of being slower than any time grow by a ratio
// (McCullagh, "Regression models for ordinal data", 1980). 1.35 is what a time 1.2 times as long means for times spread over
// an order of magnitude, 8 is what 3 times as long means.
var rankBets = []bet{
	{ratio: 1.35, prior: 0.20}, {ratio: 2, prior: 0.16}, {ratio: 4, prior: 0.14}, {ratio: 12, prior: 0.14},
}

// tailBets suppose that there are only more of the slow ones.
var tailBets = []bet{
	{ratio: 2, tail: 0.1, prior: 0.06}, {ratio: 5, tail: 0.1, prior: 0.06},
	{ratio: 2, tail: 0.05, prior: 0.06}, {ratio: 6, tail: 0.05, prior: 0.06},
	{ratio: 2.5, tail: 0.01, prior: 0.06}, {ratio: 10, tail: 0.01, prior: 0.06},
}

var latencyPrior = func() []float64 {
	var out []float64
	for _, b := range slices.Concat(rankBets, tailBets) {
		out = append(out, b.prior)
	}
	return logs(out...)
}()

func logs(all ...float64) []float64 {
	for i, x := range all {
		all[i] = math.Log(x)
	}
	return all
}

// bets are the fortunes of all bets of a metric, in logarithms.
//
// A release may turn bad after it was good for long: under more weight, with a full cache, when a leak has filled memory. By then
// every bet that it was bad from the start has lost. So a part of the fortune waits, and each share of it is set when
// new has served twice as many requests as at the time before. That too is a mean of e-processes.
type bets struct {
	Logs  []float64   `json:"logs"`
	Marks [][]float64 `json:"marks,omitempty"` // Logs as they were at each later start
}

const (
	firstPart  = 0.9 // of the fortune is set at once
	laterParts = 8   // share the rest
	laterFrom  = 512 // requests of new, then twice that, and so on
)

func newBets(n int) bets { return bets{Logs: make([]float64, n)} }

// restart sets the next share of the fortune when new has served enough.
func (b *bets) restart(served uint64) {
	for len(b.Marks) < laterParts && served >= laterFrom<<len(b.Marks) {
		b.Marks = append(b.Marks, slices.Clone(b.Logs))
	}
}

// most returns the most that any part of the fortune has grown by, as a logarithm.
func (b *bets) most() float64 {
	top := 0.0
	for i, l := range b.Logs {
		top = max(top, l)
		for _, mark := range b.Marks {
			top = max(top, l-mark[i])
		}
	}
	return top
}

// logE returns the logarithm of the whole fortune, 0 at the start.
func (b *bets) logE(logPrior []float64) float64 {
	later := math.Log((1 - firstPart) / laterParts)
	all := make([]float64, 0, 128)
	for i, l := range b.Logs {
		all = append(all, math.Log(firstPart)+logPrior[i]+l)
		for _, mark := range b.Marks {
			all = append(all, later+logPrior[i]+l-mark[i])
		}
	}
	if waiting := laterParts - len(b.Marks); waiting > 0 {
		all = append(all, later+math.Log(float64(waiting)))
	}
	return logSum(all)
}

// logSum returns the logarithm of the sum of what logs are the logarithms of.
func logSum(logs []float64) float64 {
	top := slices.Max(logs)
	sum := 0.0
	for _, l := range logs {
		if l >= top-40 { // what is less could not be seen in the sum
			sum += math.Exp(l - top)
		}
	}
	return top + math.Log(sum)
}

// table is the two-by-two table of a pool: requests that were hit (failed, or slow) and all of them, new's and both releases'.
type table struct{ newHits, hits, newAll, all float64 }

// informative reports whether both releases are in the pool, so that the hits could have gone either way.
func (t table) informative() bool { return t.hits > 0 && t.newAll > 0 && t.newAll < t.all }

// logE returns the logarithm of what a bet on new being hit ratio times as often gains from the pool, given that up to still
// times as often counts as no worse.
//
// For still = 1 it is ratio^newHits less the logarithm of what that is expected to be. If new is no worse, newHits is no
// likelier to be great than when its requests are drawn from the pool blindly. Hoeffding (1963, theorem 4) shows that for
// convex functions, ratio^x among them, drawing without putting back is bounded by drawing with. The drawing can be seen in
// four ways: the hits, those not hit, new's requests or old's are drawn, and the least of the four bounds is taken. It depends on
// the totals only, never on newHits. DESIGN.md, "Errors".
//
// For still > 1 the hits are taken as Poisson, which bounds Bernoulli trials: there the requests of a pool must be alike.
func (t table) logE(ratio, still float64) float64 {
	if !t.informative() {
		return 0
	}
	share, rate := t.newAll/t.all, t.hits/t.all
	if still > 1 {
		ratio *= still
		return t.newHits*math.Log(ratio/still) - t.hits*(math.Log1p((ratio-1)*share)-math.Log1p((still-1)*share))
	}
	more, less, log := ratio-1, 1/ratio-1, math.Log(ratio)
	expected := min(
		t.hits*math.Log1p(more*share),
		t.newAll*math.Log1p(more*rate),
		t.hits*log+(t.all-t.newAll)*math.Log1p(less*rate),
		t.newAll*log+(t.all-t.hits)*math.Log1p(less*share),
	)
	return t.newHits*log - expected
}
