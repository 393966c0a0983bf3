package sequential

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// edgeBounds are the buckets of the edge: 65 µs, then eight steps in each of 22 doublings. The last has no end.
func edgeBounds() []time.Duration {
	out := []time.Duration{1 << 16}
	for octave := range 22 {
		base := time.Duration(1) << (16 + octave)
		for sub := range time.Duration(8) {
			out = append(out, base+base/8*(sub+1))
		}
	}
	return append(out, 1<<38)
}

// lognormal returns how n requests with a median of times × 40 ms spread over the edge's buckets, in expectation.
func lognormal(n, times float64) []uint64 {
	out, before := make([]uint64, len(edgeBounds())), 0.0
	for i, b := range edgeBounds() {
		below := math.Round(n * math.Erfc(-math.Log(b.Seconds()/0.04/times)/math.Sqrt2) / 2)
		out[i] = uint64(below - before)
		before = below
	}
	return out
}

// A world serves requests that chance sends to new with the given weight.
type world struct {
	r              *rand.Rand
	oldFail, fails float64 // old's and new's share of failures
	times          float64 // how much longer new takes
	latency        bool
	steady         bool // every request takes 40 ms, give or take 2 %
}

func (w world) serve(n int, weight float64) Sample {
	s := Sample{Weight: weight}
	if w.latency {
		s.Old.Latency, s.New.Latency = make([]uint64, 178), make([]uint64, 178)
	}
	for range n {
		to, p, times := &s.Old, w.oldFail, 1.0
		if w.r.Float64() < weight {
			to, p, times = &s.New, w.fails, w.times
		}
		to.Requests++
		if w.r.Float64() < p {
			to.Failures++
		}
		if w.latency {
			sigma := 1.0
			if w.steady {
				sigma = 0.02
			}
			to.Latency[bucketOf(0.04*times*math.Exp(sigma*w.r.NormFloat64()))]++
		}
	}
	return s
}

var thresholds = func() []float64 {
	var out []float64
	for _, b := range edgeBounds() {
		out = append(out, b.Seconds())
	}
	return out
}()

func bucketOf(seconds float64) int {
	low, high := 0, len(thresholds)-1
	for low < high {
		if mid := (low + high) / 2; seconds < thresholds[mid] {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

func mustNew(t testing.TB, o Options) *Compare {
	t.Helper()
	if o.Latency {
		o.Bounds = edgeBounds()
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
