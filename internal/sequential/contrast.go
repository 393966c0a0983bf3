package sequential

import "math"

// A contrast is the evidence against "new is hit m more often than old", m being a share of requests, for every m at once.
//
// For each of some stakes it holds the sum S of what the bets won and the amount A by which a greater m would have raised
// that: the logarithm of the e-process is S + A m. Solved for m at 1/alpha it is a bound on the difference, averaged over the
// requests that new served, that holds at all times together with a chance of at least 1 - alpha (a confidence sequence).
type contrast struct {
	S []float64 `json:"s"`
	A []float64 `json:"a"`
}

// stakes are how much a bet loses by one hit of new, in logarithms. Small ones suit small differences and long counting.
var stakes = []float64{0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4}

var logStakes = math.Log(float64(len(stakes)))

func newContrast() contrast {
	return contrast{S: make([]float64, len(stakes)), A: make([]float64, len(stakes))}
}

// below bets that new is hit less than 1 + extra times as often as old, plus m.
//
// One pool gives -stake newHits + mu oldHits. With a = 1 - e^-stake and e^mu = 1 + a (1+extra) n/o, n and o being the
// requests of new and old, 1 + x <= e^x makes its expected exponential at most exp(-a n (p - (1+extra) q)), p and q being the
// rates at which the two are hit in this pool. Neither p nor q need be the same in the next.
func (c *contrast) below(t table, extra float64) {
	n, o := t.newAll, t.all-t.newAll
	if n <= 0 || o <= 0 {
		return
	}
	for i, stake := range stakes {
		a := -math.Expm1(-stake)
		c.S[i] += -stake*t.newHits + math.Log1p(a*(1+extra)*n/o)*(t.hits-t.newHits)
		c.A[i] += a * n
	}
}

// rarer bets that new is hit by less than the given share of its n requests, whatever old does. If it is hit by more, the
// expectation of exp(-stake hits) is at most (1 - a share)^n with a = 1 - e^-stake, also when each request has a chance of its own.
func (c *contrast) rarer(hits, n, share float64) {
	for i, stake := range stakes {
		a := -math.Expm1(-stake)
		c.S[i] += -stake*hits - n*math.Log1p(-a*share)
	}
}

// above bets that new is hit more often than old, less m: the same with the signs turned, where a = e^stake - 1 is kept so
// small that a n/o stays under 0.9.
func (c *contrast) above(t table) {
	n, o := t.newAll, t.all-t.newAll
	if n <= 0 || o <= 0 {
		return
	}
	for i, stake := range stakes {
		a := min(math.Expm1(stake), 0.9*o/n)
		c.S[i] += math.Log1p(a)*t.newHits + math.Log1p(-a*n/o)*(t.hits-t.newHits)
		c.A[i] += a * n
	}
}

// logE returns the logarithm of the evidence against a difference of m.
func (c *contrast) logE(m float64) float64 {
	all := make([]float64, len(stakes))
	for i := range all {
		all[i] = c.S[i] + c.A[i]*m - logStakes
	}
	return logSum(all)
}

// most returns the most that any stake has gained, which [contrast.logE] does not exceed.
func (c *contrast) most(m float64) float64 {
	top := math.Inf(-1)
	for i, s := range c.S {
		top = max(top, s+c.A[i]*m)
	}
	return top
}

// solve returns the m at which the evidence reaches 1/alpha, within [-1, 1].
func (c *contrast) solve(alpha float64) float64 {
	low, high := -1.0, 1.0
	for range 50 {
		mid := (low + high) / 2
		if c.logE(mid) >= -math.Log(alpha) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// ranksWithin returns between which two ranks of n values their q-quantile lies, at all times together with a chance of at
// least 1 - alpha: how many values are smaller follows a binomial law, and a mixture of bets on other laws (beta, with the
// weight of about forty requests around 1 - q) bounds it. Howard and Ramdas, "Sequential estimation of quantiles", 2022.
func ranksWithin(n, q, alpha float64) (low, high float64) {
	out := func(k float64) bool {
		a, b := 40*q, 40*(1-q)
		return logBeta(a+k, b+n-k)-logBeta(a, b)-k*math.Log(q)-(n-k)*math.Log1p(-q) >= -math.Log(alpha)
	}
	search := func(bad, good float64) float64 {
		if !out(bad) {
			return bad
		}
		for range 200 {
			mid := math.Floor((bad + good) / 2)
			if mid == bad || mid == good || math.Abs(good-bad) <= 1 {
				break
			}
			if out(mid) {
				bad = mid
			} else {
				good = mid
			}
		}
		return good
	}
	middle := math.Floor(n * q)
	return search(0, middle), search(n, middle)
}

func logBeta(a, b float64) float64 {
	x, _ := math.Lgamma(a)
	y, _ := math.Lgamma(b)
	z, _ := math.Lgamma(a + b)
	return x + y - z
}
