// Package rollouttest has the fake target and journal that the engine is simulated with, and the suite that every real
// target passes. It is imported by tests only.
package rollouttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
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

	Ran map[string]bool // hooks that did

	mu        sync.Mutex // of Told, once a rollout runs
	Told      rollout.Orders
	Decisions []rollout.Decision

	staged map[release.ID]bool
	ready  map[release.ID]int
	like   Like
	weight []rollout.Weights // by host
	Start  time.Duration     // an instance's time to become ready
}

// Like says what kind of target a fake is.
type Like struct {
	Name   string
	Hosts  int           // each has a routing table of its own; one fails or comes late without the other
	Lag    time.Duration // from a change of traffic to its being in force, on each host after the other
	Coarse bool          // traffic follows the numbers of instances, as in a cluster without a router
}

// The kinds of targets.
var (
	OneMachine = Like{Name: "machine", Hosts: 1}
	LaggyFleet = Like{Name: "laggy fleet", Hosts: 3, Lag: 2 * time.Second}
	Cluster    = Like{Name: "coarse cluster", Hosts: 1, Coarse: true}
)

// NewFake makes a machine on which n instances of old serve; 0 for an empty one.
func NewFake(old release.ID, n int) *Fake { return NewFakeLike(OneMachine, old, n) }

// NewFakeLike makes a target of another kind.
func NewFakeLike(like Like, old release.ID, n int) *Fake {
	f := &Fake{Ran: map[string]bool{}, staged: map[release.ID]bool{}, ready: map[release.ID]int{}, Start: 3 * time.Second, like: like, weight: make([]rollout.Weights, like.Hosts)}
	if old != 0 {
		f.staged[old], f.ready[old] = true, n
		f.all(rollout.Weights{old: 100})
	}
	return f
}

func (f *Fake) all(w rollout.Weights) {
	for i := range f.weight {
		f.weight[i] = maps.Clone(w)
	}
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
func (f *Fake) Caps() rollout.Caps { return f.like.Caps() }

// Caps are what such a target can do.
func (l Like) Caps() rollout.Caps {
	return rollout.Caps{WeightStep: 1, WeightFromScale: l.Coarse, Surge: true}
}

// Observe implements [rollout.Target].
func (f *Fake) Observe(context.Context) (rollout.State, error) {
	s := rollout.State{Releases: map[release.ID]rollout.Running{}}
	for id, n := range f.ready {
		s.Releases[id] = rollout.Running{Instances: n, Ready: n, Weight: f.weight[0][id]}
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

// Hook implements [rollout.Target].
func (f *Fake) Hook(ctx context.Context, id release.ID, name string) error {
	return f.call(ctx, func(bool) error {
		switch {
		case !f.staged[id]:
			return fmt.Errorf("release %d is not staged", id)
		case name == rollout.HookBefore && f.ready[id] > 0:
			f.broken("hooks.before ran when release %d had started", id)
		case name == rollout.HookAfter && f.weight[0][id] != 100:
			f.broken("hooks.after ran before release %d had all traffic", id)
		}
		f.Ran[name] = true
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
			f.follow()
			f.look()
		}
		return nil
	})
}

// Route implements [rollout.Target], on one host after the other.
func (f *Fake) Route(ctx context.Context, w rollout.Weights) error {
	return f.call(ctx, func(half bool) error {
		for id, n := range w {
			if n > 0 && f.ready[id] == 0 {
				return fmt.Errorf("no instance of release %d is ready", id)
			}
		}
		for i := range f.weight {
			if half && i == f.like.Hosts/2 {
				return nil // a table is swapped whole, but not every host's
			}
			if !half {
				if err := wait.For(ctx, f.like.Lag); err != nil {
					return err
				}
			}
			f.weight[i] = rollout.Weights{}
			maps.Copy(f.weight[i], w)
			f.follow()
			f.look()
		}
		return nil
	})
}

// follow gives every instance of a coarse target the same share, whatever was asked for; only that requests wait is obeyed.
func (f *Fake) follow() {
	if !f.like.Coarse || len(f.weight[0]) == 0 {
		return
	}
	sum := 0
	for _, n := range f.ready {
		sum += n
	}
	w, left := rollout.Weights{}, 100
	ids := slices.Sorted(maps.Keys(f.ready))
	for _, id := range ids {
		if f.ready[id] > 0 {
			w[id] = 100 * f.ready[id] / sum
			left -= w[id]
		}
	}
	for _, id := range ids {
		if f.ready[id] > 0 {
			w[id] += left
			break
		}
	}
	f.weight[0] = w
}

// look notes every invariant that does not hold.
func (f *Fake) look() {
	for _, table := range f.weight {
		sum, capacity := 0, 0
		for id, n := range table {
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
	for _, w := range f.weight {
		if id == 0 && len(w) > 0 || id != 0 && w[id] != 100 {
			return false
		}
	}
	return id == 0 || f.ready[id] == n
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

// Decide implements [rollout.Journal].
func (f *Fake) Decide(_ context.Context, d rollout.Decision) error {
	f.Decisions = append(f.Decisions, d)
	return nil
}

// Pause implements [rollout.Journal].
func (f *Fake) Pause(ctx context.Context, why string) error {
	return f.call(ctx, func(half bool) error {
		if !half {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.Told.Paused = why
		}
		return nil
	})
}

// Orders implements [rollout.Journal].
func (f *Fake) Orders() rollout.Orders {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Told
}

// Tell changes the orders while a rollout runs.
func (f *Fake) Tell(o rollout.Orders) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Told = o
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
