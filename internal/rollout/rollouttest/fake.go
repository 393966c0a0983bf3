// Package rollouttest has the fake target and journal that the engine is simulated with, and the suite that every real
// target passes. It is imported by tests only.
package rollouttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// When says at which moment of a call the injected thing happens.
type When int

// The moments.
const (
	Before When = iota // nothing was done yet
	Middle             // half of a scale was done
	After              // all was done, only the answer is lost
)

// Crash is what a fake panics with to stand for the end of the process.
type Crash struct{}

// Fake is a machine in virtual time, with a journal. Every call on either counts; at call number At it fails, crashes or
// cancels. It looks at the invariants at every instant at which anything changes.
type Fake struct {
	At     int
	For    int // the calls behind At that fail, too
	When   When
	Fail   bool
	Crash  bool
	Cancel context.CancelFunc // called at At when set

	Calls   int
	Broken  []string // violations, in words
	Least   int      // ready instances with traffic that must never be missing; 0 switches it off
	Outcome rollout.Outcome
	At0     rollout.Progress // what the journal holds

	staged map[release.ID]bool
	ready  map[release.ID]int
	weight rollout.Weights
	Start  time.Duration // an instance's time to become ready
}

// NewFake makes a machine on which n instances of old serve; 0 for an empty one.
func NewFake(old release.ID, n int) *Fake {
	f := &Fake{staged: map[release.ID]bool{}, ready: map[release.ID]int{}, Start: 3 * time.Second}
	if old != 0 {
		f.staged[old], f.ready[old], f.weight = true, n, rollout.Weights{old: 100}
	}
	return f
}

var errInjected = errors.New("injected failure")

// call counts and injects. do does the whole thing or, when half is set, a part of it.
func (f *Fake) call(ctx context.Context, do func(half bool) error) error {
	f.Calls++
	hit := f.At > 0 && f.Calls >= f.At && f.Calls <= f.At+f.For
	if hit && f.Cancel != nil {
		f.Cancel()
	}
	if hit && (f.Fail || f.Crash) {
		if f.When != Before {
			do(f.When == Middle) // its own error is lost with the answer
		}
		if f.Crash {
			panic(Crash{})
		}
		return fmt.Errorf("call %d: %w", f.Calls, errInjected)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return do(false)
}

// Caps implements [rollout.Target].
func (f *Fake) Caps() rollout.Caps { return rollout.Caps{WeightStep: 1, Surge: true} }

// Observe implements [rollout.Target].
func (f *Fake) Observe(context.Context) (rollout.State, error) {
	s := rollout.State{Releases: map[release.ID]rollout.Running{}}
	for id, n := range f.ready {
		s.Releases[id] = rollout.Running{Instances: n, Ready: n, Weight: f.weight[id]}
	}
	return s, nil
}

// Stage implements [rollout.Target].
func (f *Fake) Stage(ctx context.Context, r release.Release) error {
	return f.call(ctx, func(bool) error {
		f.staged[r.ID] = true
		return nil
	})
}

// Scale implements [rollout.Target], one instance at a time.
func (f *Fake) Scale(ctx context.Context, id release.ID, n int) error {
	return f.call(ctx, func(half bool) error {
		if n > 0 && !f.staged[id] {
			return fmt.Errorf("release %d is not staged", id)
		}
		goal := n
		if half {
			goal = (f.ready[id] + n) / 2
		}
		for f.ready[id] != goal {
			if f.ready[id] < goal {
				if !half {
					if err := wait.For(ctx, f.Start); err != nil {
						return err
					}
				}
				f.ready[id]++
			} else {
				f.ready[id]--
			}
			f.look()
		}
		return nil
	})
}

// Route implements [rollout.Target].
func (f *Fake) Route(ctx context.Context, w rollout.Weights) error {
	return f.call(ctx, func(half bool) error {
		if half {
			return nil // a table is swapped whole
		}
		for id, n := range w {
			if n > 0 && f.ready[id] == 0 {
				return fmt.Errorf("no instance of release %d is ready", id)
			}
		}
		f.weight = rollout.Weights{}
		for id, n := range w {
			f.weight[id] = n
		}
		f.look()
		return nil
	})
}

// look notes every invariant that does not hold.
func (f *Fake) look() {
	sum, capacity := 0, 0
	for id, n := range f.weight {
		sum += n
		if n > 0 && f.ready[id] == 0 {
			f.broken("release %d has %d %% of the traffic and no ready instance", id, n)
		}
		if n > 0 {
			capacity += f.ready[id]
		}
	}
	if sum != 100 && sum != 0 {
		f.broken("the weights sum to %d", sum)
	}
	if f.Least > 0 && capacity < f.Least {
		f.broken("%d ready instances have traffic, %d are wanted", capacity, f.Least)
	}
}

func (f *Fake) broken(format string, args ...any) {
	f.Broken = append(f.Broken, fmt.Sprintf("call %d: "+format, append([]any{f.Calls}, args...)...))
}

// All reports whether id alone serves, with n instances.
func (f *Fake) All(id release.ID, n int) bool {
	for other, have := range f.ready {
		if other != id && have > 0 {
			return false
		}
	}
	if id == 0 {
		return len(f.weight) == 0
	}
	return f.ready[id] == n && f.weight[id] == 100
}

// Ready returns how many instances of id are ready.
func (f *Fake) Ready(id release.ID) int { return f.ready[id] }

// Step implements [rollout.Journal].
func (f *Fake) Step(ctx context.Context, i int) error {
	return f.call(ctx, func(half bool) error {
		if !half {
			f.At0.Step = i
		}
		return nil
	})
}

// Undo implements [rollout.Journal].
func (f *Fake) Undo(ctx context.Context, cause error) error {
	return f.call(ctx, func(half bool) error {
		if !half {
			f.At0.Undoing, f.At0.Cause = true, cause.Error()
		}
		return nil
	})
}

// End implements [rollout.Journal].
func (f *Fake) End(ctx context.Context, o rollout.Outcome, _ error) error {
	return f.call(ctx, func(half bool) error {
		if !half {
			f.Outcome = o
		}
		return nil
	})
}
