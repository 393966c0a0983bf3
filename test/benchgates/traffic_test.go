package benchgates

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/fairlead-dev/fairlead/internal/sequential"
)

// The buckets of the edge: 65 µs, then eight steps in each of 22 doublings, then all above.
var bounds = func() []time.Duration {
	out := []time.Duration{1 << 16}
	for octave := range 22 {
		for sub := range 8 {
			base := time.Duration(1) << (16 + octave)
			out = append(out, base+base/8*time.Duration(sub+1))
		}
	}
	return append(out, 1<<38)
}()

// A service says how requests fare: the share that fails, and how long they take, which has no say in whether they fail.
type service struct {
	fails  float64
	median time.Duration
	sigma  float64 // of the logarithm of the time
	slow   float64 // share of requests that take ten times as long: a second path, as of a cache that missed
	times  float64 // by how much all are longer
}

// law returns the probability of each bucket.
func (s service) law() []float64 {
	below := func(t time.Duration) float64 {
		z := math.Log(float64(t) / float64(s.median) / s.times)
		phi := func(z float64) float64 { return math.Erfc(-z/s.sigma/math.Sqrt2) / 2 }
		return (1-s.slow)*phi(z) + s.slow*phi(z-math.Log(10))
	}
	out, before := make([]float64, len(bounds)), 0.0
	for i, b := range bounds {
		out[i] = below(b) - before
		before += out[i]
	}
	out[len(out)-1] += 1 - before
	return out
}

// A dice draws from a law on 0, 1, 2... in constant time (Walker's alias method, in the form of Vose 1991).
type dice []face

type face struct {
	keep  uint64 // of 2^64
	other int
}

func newDice(law []float64) dice {
	d, keep := make(dice, len(law)), make([]float64, len(law))
	sum := 0.0
	for _, p := range law {
		sum += p
	}
	var small, big []int
	for i, p := range law {
		keep[i] = p / sum * float64(len(law))
		d[i] = face{math.MaxUint64, i}
		if keep[i] < 1 {
			small = append(small, i)
		} else {
			big = append(big, i)
		}
	}
	for len(small) > 0 && len(big) > 0 {
		s, b := small[len(small)-1], big[len(big)-1]
		small = small[:len(small)-1]
		d[s] = face{uint64(keep[s] * (1 << 63) * 2), b}
		if keep[b] -= 1 - keep[s]; keep[b] < 1 {
			big = big[:len(big)-1]
			small = append(small, b)
		}
	}
	return d
}

// draw takes one random number: its product with the number of faces has the face in its upper half, and in its lower half
// what is left to decide whether that face is kept.
func (d dice) draw(r *rand.PCG) int {
	i, left := bits.Mul64(r.Uint64(), uint64(len(d)))
	if f := &d[i]; left >= f.keep {
		return f.other
	}
	return int(i)
}

// poisson is the dice for a Poisson law.
func poisson(mean float64) dice {
	n := int(mean+12*math.Sqrt(mean)) + 12
	law := make([]float64, n)
	for k := range law {
		g, _ := math.Lgamma(float64(k + 1))
		law[k] = math.Exp(float64(k)*math.Log(mean) - mean - g)
	}
	return newDice(law)
}

// binomial draws how many of n come, each with probability p, by walking up the law: n p is small here.
func binomial(r *rand.PCG, n uint64, p float64) uint64 {
	if n == 0 || p <= 0 {
		return 0
	}
	if float64(n)*p > 650 {
		panic("too many: the first term would be too small for a number")
	}
	u, k, odds := float64(r.Uint64()>>11)/(1<<53), uint64(0), p/(1-p)
	mass := math.Exp(float64(n) * math.Log1p(-p))
	for u >= mass && k < n {
		u -= mass
		mass *= odds * float64(n-k) / float64(k+1)
		k++
	}
	return k
}

// An arm makes what one release serves in each span of time. Requests come as a Poisson stream, so the counts of the buckets
// are independent of each other.
type arm struct {
	fails   float64
	buckets []int // that ever get a request
	counts  []dice
	all     dice // how many requests, and
	one     dice // the bucket of one: cheaper when there are few
	few     bool
}

func newArm(s service, perSpan float64) *arm {
	a := &arm{fails: s.fails, all: poisson(perSpan), one: newDice(s.law())}
	for i, p := range s.law() {
		if p*perSpan > 1e-12 {
			a.buckets = append(a.buckets, i)
			a.counts = append(a.counts, poisson(p*perSpan))
		}
	}
	a.few = perSpan < float64(len(a.buckets))
	return a
}

// serve fills out, whose Latency has room for all buckets.
func (a *arm) serve(r *rand.PCG, out *sequential.Arm) {
	clear(out.Latency)
	out.Requests = 0
	if a.few {
		out.Requests = uint64(a.all.draw(r))
		for range out.Requests {
			out.Latency[a.one.draw(r)]++
		}
	} else {
		for i, b := range a.buckets {
			n := uint64(a.counts[i].draw(r))
			out.Latency[b] = n
			out.Requests += n
		}
	}
	out.Failures = binomial(r, out.Requests, a.fails)
}
