package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/rollout/rollouttest"
)

const (
	older = release.ID(6)
	newer = release.ID(7)
)

// scenario is one rollout that is simulated in every way.
type scenario struct {
	name     string
	strategy string
	q        rollout.Request
	like     rollouttest.Like
}

// scenarios are all strategies on all kinds of targets, where a target can do it.
func scenarios() []scenario {
	var out []scenario
	for _, like := range []rollouttest.Like{rollouttest.OneMachine, rollouttest.LaggyFleet, rollouttest.Cluster} {
		for _, s := range strategies() {
			s.like = like
			if _, err := rollout.Make(s.strategy, s.q, like.Caps()); err == nil {
				s.name += " on a " + like.Name
				out = append(out, s)
			}
		}
	}
	return out
}

func strategies() []scenario {
	base := rollout.Request{Service: "shop", Environment: "default", Old: older, New: newer, OldInstances: 3, Instances: 3, Watch: 10 * time.Second, Surge: 1}
	with := func(f func(*rollout.Request)) rollout.Request {
		q := base
		f(&q)
		return q
	}
	return []scenario{
		{name: "recreate", strategy: "recreate", q: base},
		{name: "blue-green", strategy: "blue-green", q: base},
		{name: "blue-green warm", strategy: "blue-green", q: with(func(q *rollout.Request) { q.Warm = time.Minute })},
		{name: "rolling", strategy: "rolling", q: base},
		{name: "rolling in place", strategy: "rolling", q: with(func(q *rollout.Request) { q.Surge, q.Unavailable = 0, 1 })},
		{name: "rolling by two, growing", strategy: "rolling", q: with(func(q *rollout.Request) { q.Surge, q.Instances = 2, 5 })},
		{name: "rolling, shrinking", strategy: "rolling", q: with(func(q *rollout.Request) { q.Instances = 1 })},
		{name: "canary", strategy: "canary", q: with(func(q *rollout.Request) { q.Steps, q.Bake, q.Verify = []int{5, 25, 50}, time.Minute, true })},
		{name: "canary of one", strategy: "canary", q: with(func(q *rollout.Request) { q.Instances, q.OldInstances, q.Warm = 1, 1, time.Minute })},
		{name: "canary, growing", strategy: "canary", q: with(func(q *rollout.Request) { q.Instances, q.Steps = 6, []int{1, 99, 100} })},
		{name: "canary with everything", strategy: "canary", q: with(func(q *rollout.Request) {
			q.Steps, q.Verify, q.Preview, q.Mirror, q.Before, q.After = []int{50}, true, true, time.Minute, true, true
		})},
		{name: "first with hooks", strategy: "canary", q: with(func(q *rollout.Request) {
			q.Old, q.OldInstances, q.Mirror, q.Before, q.After = 0, 0, time.Minute, true, true
		})},
		{name: "first", strategy: "rolling", q: with(func(q *rollout.Request) { q.Old, q.OldInstances = 0, 0 })},
	}
}

func (s scenario) plan(t *testing.T) rollout.Plan {
	t.Helper()
	p, err := rollout.Make(s.strategy, s.q, s.like.Caps())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world makes the machine before the rollout, with the capacity that must not be lost.
func (s scenario) world(p rollout.Plan) *rollouttest.Fake {
	f := rollouttest.NewFakeLike(s.like, s.q.Old, s.q.OldInstances)
	if !p.Exclusive && s.q.Old != 0 {
		f.Least = min(s.q.Instances, s.q.OldInstances) - s.q.Unavailable
	}
	return f
}

func run(ctx context.Context, f *rollouttest.Fake, p rollout.Plan, gates ...rollout.Gate) error {
	e := rollout.Engine{Target: f, Journal: f, Gates: gates}
	return e.Run(ctx, p, release.Release{ID: p.New, Service: p.Service}, f.At0)
}

// crashes runs the engine until it ends or its process does.
func crashes(ctx context.Context, f *rollouttest.Fake, p rollout.Plan) (err error, crashed bool) { //nolint:revive,staticcheck // the error is the engine's, not this function's
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(rollouttest.Crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	return run(ctx, f, p), false
}

// served reports whether the new release serves, counting what is kept warm as gone.
func served(f *rollouttest.Fake, p rollout.Plan) bool {
	if last := p.Steps[len(p.Steps)-1]; last.Do == rollout.Warm {
		return f.Ready(p.New) == p.Instances && f.Ready(p.Old) == p.OldInstances
	}
	return f.All(p.New, p.Instances)
}

// end checks that everything is old or everything is new, and that the engine said which.
func end(t *testing.T, f *rollouttest.Fake, p rollout.Plan, err error) {
	t.Helper()
	isNew, isOld := served(f, p), f.All(p.Old, p.OldInstances)
	switch {
	case len(f.Broken) > 0:
		t.Fatalf("broken: %v", f.Broken)
	case err == nil && !isNew:
		t.Fatal("the engine says done, and the new release does not serve alone")
	case err != nil && !isOld:
		t.Fatalf("the engine says %v, and the old release does not serve alone", err)
	}
}

// calls is how many calls an undisturbed rollout makes.
func calls(t *testing.T, s scenario) (n int) {
	p := s.plan(t)
	synctest.Test(t, func(t *testing.T) {
		f := s.world(p)
		end(t, f, p, run(t.Context(), f, p))
		if f.Outcome != rollout.Done {
			t.Fatal(f.Outcome)
		}
		n = f.Calls
	})
	return n
}

var moments = []rollouttest.When{rollouttest.Before, rollouttest.Middle, rollouttest.After}

// each runs f in virtual time for every scenario, every call and every moment of a call.
func each(t *testing.T, f func(t *testing.T, s scenario, p rollout.Plan, at int, w rollouttest.When)) {
	total := 0
	for _, s := range scenarios() {
		n := calls(t, s)
		p := s.plan(t)
		for at := 1; at <= n+8; at++ { // and some behind, where only going back makes more calls
			for _, w := range moments {
				total++
				synctest.Test(t, func(t *testing.T) {
					defer func() {
						if t.Failed() {
							t.Logf("%s, call %d, moment %d", s.name, at, w)
						}
					}()
					f(t, s, p, at, w)
				})
			}
		}
	}
	t.Logf("%d simulated rollouts", total)
}

func TestFailureAtEveryCall(t *testing.T) {
	for _, length := range []int{0, 1, 4} { // so many more calls fail, those of going back among them
		each(t, func(t *testing.T, s scenario, p rollout.Plan, at int, w rollouttest.When) {
			f := s.world(p)
			f.At, f.For, f.When, f.Fail = at, length, w, true
			err := run(t.Context(), f, p)
			if f.Outcome == "" || (err == nil) != (f.Outcome == rollout.Done) {
				t.Fatalf("the journal says %q, the engine %v", f.Outcome, err)
			}
			end(t, f, p, err)
		})
	}
}

func TestCancelAtEveryCall(t *testing.T) {
	each(t, func(t *testing.T, s scenario, p rollout.Plan, at int, _ rollouttest.When) {
		f := s.world(p)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f.At, f.Cancel = at, cancel
		end(t, f, p, run(ctx, f, p))
	})
}

// The process ends at any call; another one goes on from the journal and comes to the same end as if nothing had been.
func TestCrashAtEveryCallThenResume(t *testing.T) {
	each(t, func(t *testing.T, s scenario, p rollout.Plan, at int, w rollouttest.When) {
		f := s.world(p)
		f.At, f.When, f.Crash = at, w, true
		err, crashed := crashes(t.Context(), f, p)
		if crashed {
			f.At = 0
			err = run(t.Context(), f, p)
		}
		if err != nil {
			t.Fatal(err)
		}
		end(t, f, p, err)
	})
}

// A failure, and while it is being put back the process ends at any call after it; the next one ends the going back.
func TestCrashWhileGoingBack(t *testing.T) {
	each(t, func(t *testing.T, s scenario, p rollout.Plan, at int, w rollouttest.When) {
		for behind := 1; behind <= 6; behind++ {
			f := s.world(p)
			f.At, f.Fail = at, true
			count := 0
			two := twice{Fake: f, crashAt: at + behind, when: w, count: &count}
			err, crashed := two.run(t.Context(), p)
			if crashed {
				f.At = 0
				err = run(t.Context(), f, p)
			}
			end(t, f, p, err)
		}
	})
}

// twice makes its fake fail at one call and crash at a later one.
type twice struct {
	*rollouttest.Fake
	crashAt int
	when    rollouttest.When
	count   *int
}

func (w twice) arm() {
	if *w.count++; *w.count == w.crashAt {
		w.At, w.When, w.Crash = w.crashAt, w.when, true
	}
}

func (w twice) Stage(ctx context.Context, r release.Release) error {
	w.arm()
	return w.Fake.Stage(ctx, r)
}

func (w twice) Hook(ctx context.Context, id release.ID, name string) error {
	w.arm()
	return w.Fake.Hook(ctx, id, name)
}

func (w twice) Scale(ctx context.Context, id release.ID, n int) error {
	w.arm()
	return w.Fake.Scale(ctx, id, n)
}

func (w twice) Route(ctx context.Context, weights rollout.Weights) error {
	w.arm()
	return w.Fake.Route(ctx, weights)
}

func (w twice) Step(ctx context.Context, i int) error {
	w.arm()
	return w.Fake.Step(ctx, i)
}

func (w twice) Undo(ctx context.Context, cause error) error {
	w.arm()
	return w.Fake.Undo(ctx, cause)
}

func (w twice) End(ctx context.Context, o rollout.Outcome, cause error) error {
	w.arm()
	return w.Fake.End(ctx, o, cause)
}

func (w twice) run(ctx context.Context, p rollout.Plan) (err error, crashed bool) { //nolint:revive,staticcheck // as above
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(rollouttest.Crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	e := rollout.Engine{Target: w, Journal: w}
	return e.Run(ctx, p, release.Release{ID: p.New}, w.At0), false
}

type gateFunc func(rollout.Moment) rollout.Answer

func (f gateFunc) Ask(_ context.Context, m rollout.Moment) rollout.Answer { return f(m) }

// hasTraffic reports whether clients see the new release at a step.
func hasTraffic(p rollout.Plan, step int) bool {
	for _, s := range p.Steps[:step] {
		if s.Weights[p.New] > 0 {
			return true
		}
	}
	return false
}

// A gate that says no at its n-th question, for every n, puts the old release back.
func TestGateSaysNoAtEveryQuestion(t *testing.T) {
	for _, s := range scenarios() {
		p := s.plan(t)
		for n := 1; n < 200; n++ {
			asked, before := 0, false
			synctest.Test(t, func(t *testing.T) {
				f := s.world(p)
				err := run(t.Context(), f, p, gateFunc(func(m rollout.Moment) rollout.Answer {
					if asked++; asked == n {
						before = m.Before || !hasTraffic(p, m.Step)
						return rollout.Answer{Gate: "p95", Verdict: rollout.Breach, Else: rollout.Back, Reason: "too slow", Lines: []string{"last words"}}
					}
					return rollout.Answer{Gate: "p95", Verdict: rollout.Pass}
				}))
				end(t, f, p, err)
				if asked < n {
					return
				}
				kind := fail.RolledBack
				if p.Old == 0 || before {
					kind = fail.Unhealthy
				}
				if fail.KindOf(err) != kind || len(fail.As(err).Lines) != 1 {
					t.Fatalf("question %d: %v (%s)", n, err, fail.KindOf(err))
				}
			})
			if asked < n {
				break
			}
		}
	}
}

// A target that never answers again leaves a rollout that says so, within its bound.
func TestNeitherForwardNorBack(t *testing.T) {
	s := scenarios()[1] // blue-green on a machine
	p := s.plan(t)
	synctest.Test(t, func(t *testing.T) {
		f := s.world(p)
		f.At, f.For, f.Fail = 5, 1<<30, true
		begun := time.Now()
		err := run(t.Context(), f, p)
		if fail.KindOf(err) != fail.Stuck || fail.As(err).Hint == "" {
			t.Fatalf("%v", err)
		}
		if took := time.Since(begun); took > 3*time.Minute {
			t.Fatalf("it took %s to say so", took)
		}
	})
}

// Any numbers give a plan that ends, moves only through allowed states, and never loses the promised capacity.
func TestAnyRollingPlanHolds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		q := rollout.Request{Service: "s", Environment: "e", Old: older, New: newer,
			OldInstances: rapid.IntRange(1, 12).Draw(r, "old"), Instances: rapid.IntRange(1, 12).Draw(r, "new"),
			Surge: rapid.IntRange(0, 5).Draw(r, "surge"), Unavailable: rapid.IntRange(0, 5).Draw(r, "unavailable")}
		p, err := rollout.Make("rolling", q, rollout.Caps{Surge: true})
		if err != nil {
			if fail.KindOf(err) != fail.Usage {
				r.Fatal(err)
			}
			return
		}
		f := rollouttest.NewFake(older, q.OldInstances)
		f.Least = max(min(q.Instances, q.OldInstances)-q.Unavailable, 0)
		most := max(q.Instances, q.OldInstances) + q.Surge
		for _, s := range p.Steps {
			var err error
			switch s.Do {
			case rollout.Stage:
				err = f.Stage(context.Background(), release.Release{ID: newer})
			case rollout.Scale:
				err = instantScale(f, s)
			case rollout.Route:
				err = f.Route(context.Background(), s.Weights)
			}
			if err != nil {
				r.Fatalf("%s: %v", s, err)
			}
			if n := f.Ready(older) + f.Ready(newer); n > most {
				r.Fatalf("%d instances at once, at most %d", n, most)
			}
		}
		if !f.All(newer, q.Instances) || len(f.Broken) > 0 {
			r.Fatalf("%v: %v", p.Steps, f.Broken)
		}
	})
}

// instantScale scales without waiting: rapid runs outside of virtual time.
func instantScale(f *rollouttest.Fake, s rollout.Step) error {
	f.Start = 0
	return f.Scale(context.Background(), s.Release, s.Instances)
}

func TestPlansRefuseNonsense(t *testing.T) {
	q := rollout.Request{Service: "s", Environment: "e", Old: older, New: newer, OldInstances: 1, Instances: 1}
	for name, tc := range map[string]struct {
		strategy string
		caps     rollout.Caps
	}{
		"unknown strategy":       {"yolo", rollout.Caps{Surge: true}},
		"rolling without room":   {"rolling", rollout.Caps{Surge: true}},
		"blue-green by replicas": {"blue-green", rollout.Caps{Surge: true, WeightFromScale: true}},
		"blue-green without two": {"blue-green", rollout.Caps{}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rollout.Make(tc.strategy, q, tc.caps)
			if fail.KindOf(err) != fail.Usage || fail.As(err).Hint == "" {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestConformanceOfTheFake(t *testing.T) {
	rollouttest.Run(t, func(*testing.T) rollouttest.Harness {
		f := rollouttest.NewFake(0, 0)
		f.Start = 0
		return rollouttest.Harness{Target: f, Good: []release.Release{{ID: 1}, {ID: 2}}}
	})
}

func ExampleMake() {
	p, err := rollout.Make("rolling", rollout.Request{Service: "shop", Environment: "production", Old: 6, New: 7, OldInstances: 2, Instances: 2,
		Surge: 1, Watch: 10 * time.Second}, rollout.Caps{Surge: true})
	if err != nil {
		fmt.Println(errors.Unwrap(err))
	}
	for _, s := range p.Steps {
		fmt.Println(s)
	}
	// Output:
	// make release 7 startable
	// 1 instance of release 7 ready
	// traffic: 33 % to release 7, 67 % to release 6
	// watch release 7 for 10s
	// traffic: 50 % to release 7, 50 % to release 6
	// 1 instance of release 6 ready
	// 2 instances of release 7 ready
	// traffic: 100 % to release 7
	// watch release 7 for 10s
	// drain and stop release 6
}
