// Package benchgates measures in simulated rollouts how often `compare` raises a false alarm and how many requests a bad
// release serves before it goes back, beside two other ways of judging a canary.
//
//	make bench-gates                       # or: go test ./test/benchgates -run '^$' -bench . -benchtime 1x -timeout 60m
//	ROLLOUTS=500 ...                       # fewer rollouts a cell than 10,000
//	TABLE=../../docs/gates-table.md ...    # write the table there
package benchgates

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/sequential"
)

const (
	horizon = 30 * time.Minute // of the step; what is not found by then was served for all of it
	check   = time.Minute      // between two checks of the others
	weight  = 0.05             // of the new release
	alarm   = 0.01             // false_alarm
	checks  = int(horizon / check)
)

// look returns the time between two readings of the counters: a quarter of a second, and a whole one where a quarter brings
// hardly a request, or where it only makes the simulation longer: with equal releases.
func (c cell) look() time.Duration {
	if c.rate < 50 || c.old == c.newer {
		return time.Second
	}
	return time.Second / 4
}

// A cell is one situation.
type cell struct {
	old, newer service
	rate       float64 // requests a second, both releases together
	seed       uint64
}

// A run is how one rollout ended.
type run struct {
	found   bool
	exposed float64 // requests that new served until then
}

// each plays n rollouts, on all processors, each with its own seed. The order of the outcome is that of the seeds.
func each[T any](n int, seed uint64, play func(r *rand.PCG) func() T) []T {
	out := make([]T, n)
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wait.Go(func() {
			source := rand.NewPCG(0, 0)
			one := play(source)
			for i := w; i < n; i += workers {
				source.Seed(mix(seed), mix(seed^uint64(i)<<20))
				out[i] = one()
			}
		})
	}
	wait.Wait()
	return out
}

// mix spreads a number over 64 bits, so that neighbouring seeds give unrelated streams (the finalizer of SplitMix64, Steele,
// Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fairlead judges with compare: [errors, latency], at every reading.
func (c cell) fairlead(n int) []run {
	return each(n, c.seed, func(r *rand.PCG) func() run {
		per := c.rate * c.look().Seconds()
		old, newer := newArm(c.old, per*(1-weight)), newArm(c.newer, per*weight)
		before := newArm(c.old, c.rate*60) // the minute before the rollout
		s := sequential.Sample{Weight: weight}
		s.Old.Latency, s.New.Latency = make([]uint64, len(bounds)), make([]uint64, len(bounds))
		base := sequential.Arm{Latency: make([]uint64, len(bounds))}
		return func() run {
			before.serve(r, &base)
			g, err := sequential.New(sequential.Options{FalseAlarm: alarm, Errors: true, Latency: true, Bounds: bounds, Before: base})
			if err != nil {
				panic(err)
			}
			var out run
			for range int(horizon / c.look()) {
				old.serve(r, &s.Old)
				newer.serve(r, &s.New)
				out.exposed += float64(s.New.Requests)
				g.Add(s)
				if g.State() == sequential.Worse {
					out.found = true
					break
				}
			}
			return out
		}
	})
}

// summary of the runs of a cell.
type summary struct{ found, mean, median, p90 float64 }

func summarize(runs []run) summary {
	var s summary
	all := make([]float64, len(runs))
	for i, r := range runs {
		all[i] = r.exposed
		s.mean += r.exposed / float64(len(runs))
		if r.found {
			s.found += 1 / float64(len(runs))
		}
	}
	slices.Sort(all)
	s.median, s.p90 = all[len(all)/2], all[len(all)*9/10]
	return s
}

func (s summary) String() string {
	return fmt.Sprintf("%.0f %%, %.0f, %.0f, %.0f", 100*s.found, s.mean, s.median, s.p90)
}
