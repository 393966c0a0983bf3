package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/rollout/rollouttest"
)

// canary has three watches of 10 s each: steps 3, 6 and 9.
func canary(t *testing.T) rollout.Plan {
	t.Helper()
	p, err := rollout.Make("canary", rollout.Request{Service: "shop", Environment: "default", Old: older, New: newer, OldInstances: 4, Instances: 4,
		Steps: []int{5, 50, 100}, Watch: 10 * time.Second}, rollout.Caps{WeightStep: 1, Surge: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func answers(f func(m rollout.Moment) rollout.Answer) rollout.Gate {
	return gateFunc(func(m rollout.Moment) rollout.Answer {
		a := f(m)
		a.Gate = "g"
		return a
	})
}

// watched runs the plan in virtual time and returns how long it took.
func watched(t *testing.T, f *rollouttest.Fake, gates ...rollout.Gate) (time.Duration, error) {
	t.Helper()
	f.Start = 0
	begun := time.Now()
	err := run(t.Context(), f, canary(t), gates...)
	return time.Since(begun), err
}

func TestTheStepsTimeAndTheEvidence(t *testing.T) {
	pass := rollout.Answer{Verdict: rollout.Pass}
	sure := rollout.Answer{Verdict: rollout.Sure}
	for name, tc := range map[string]struct {
		gates []rollout.Gate
		want  time.Duration
	}{
		"no gate: the time counts": {nil, 30 * time.Second},
		"passing gates want the whole time": {[]rollout.Gate{answers(func(rollout.Moment) rollout.Answer { return pass }),
			answers(func(rollout.Moment) rollout.Answer { return sure })}, 30 * time.Second},
		"all sure: at once": {[]rollout.Gate{answers(func(rollout.Moment) rollout.Answer { return sure })}, 0},
		"unsure: longer than planned": {[]rollout.Gate{answers(func(m rollout.Moment) rollout.Answer {
			if m.Elapsed < 25*time.Second {
				return rollout.Answer{Verdict: rollout.Unsure}
			}
			return pass
		})}, 75 * time.Second},
		"a warning does not stop it": {[]rollout.Gate{answers(func(rollout.Moment) rollout.Answer {
			return rollout.Answer{Verdict: rollout.Breach, Else: rollout.Warn, Reason: "slow"}
		})}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := rollouttest.NewFake(older, 4)
				took, err := watched(t, f, tc.gates...)
				if err != nil || f.Outcome != rollout.Done || took != tc.want {
					t.Fatalf("%s after %s, want %s: %v", f.Outcome, took, tc.want, err)
				}
			})
		})
	}
}

// A gate that pauses holds the traffic where it is until somebody promotes; the steps behind are watched as ever.
func TestPauseAndPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := rollouttest.NewFake(older, 4)
		asked := 0
		took, err := watched(t, f, answers(func(m rollout.Moment) rollout.Answer {
			if m.Step != 6 {
				return rollout.Answer{Verdict: rollout.Pass}
			}
			if asked++; asked == 100 {
				if f.Told.Paused != "cpu is high" || f.At0.Step != 6 {
					t.Errorf("told %+v at step %d", f.Told, f.At0.Step)
				}
				f.Told = rollout.Orders{Past: 7}
			}
			return rollout.Answer{Verdict: rollout.Breach, Else: rollout.Pause, Reason: "cpu is high"}
		}))
		if err != nil || f.Outcome != rollout.Done || took != 20*time.Second+100*250*time.Millisecond {
			t.Fatalf("%s after %s: %v", f.Outcome, took, err)
		}
	})
}

// Who pauses by hand and goes on later gets the step's end as soon as its time is over.
func TestPauseByHandAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := rollouttest.NewFake(older, 4)
		f.Told.Paused = "lunch"
		time.AfterFunc(time.Hour, func() { f.Tell(rollout.Orders{}) })
		took, err := watched(t, f)
		if err != nil || took < time.Hour+20*time.Second || took > time.Hour+21*time.Second {
			t.Fatalf("after %s: %v", took, err)
		}
	})
}

// A paused rollout still goes back when a gate says so, unless it is frozen.
func TestBreachWhilePausedAndWhileFrozen(t *testing.T) {
	bad := func(f *rollouttest.Fake) rollout.Gate {
		return answers(func(m rollout.Moment) rollout.Answer {
			if m.Elapsed == 0 || f.Orders().Paused == "" {
				return rollout.Answer{Verdict: rollout.Pass}
			}
			return rollout.Answer{Verdict: rollout.Breach, Else: rollout.Back, Reason: "5 % fail"}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := rollouttest.NewFake(older, 4)
		f.Told.Paused = "look"
		_, err := watched(t, f, bad(f))
		if fail.KindOf(err) != fail.RolledBack || !strings.Contains(err.Error(), "5 % fail") {
			t.Fatal(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := rollouttest.NewFake(older, 4)
		f.Told = rollout.Orders{Paused: "migration", Frozen: true}
		time.AfterFunc(time.Hour, func() { f.Tell(rollout.Orders{}) })
		if _, err := watched(t, f, bad(f)); err != nil || f.Outcome != rollout.Done {
			t.Fatalf("%s: %v", f.Outcome, err)
		}
	})
}

// The record has each change of a verdict and the last one of each step, and a journal that cannot keep it changes nothing.
func TestDecisionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := rollouttest.NewFake(older, 4)
		if _, err := watched(t, f, answers(func(m rollout.Moment) rollout.Answer {
			if m.Step == 3 && m.Elapsed < 5*time.Second {
				return rollout.Answer{Verdict: rollout.Unsure, Reason: fmt.Sprint(m.Elapsed)}
			}
			return rollout.Answer{Verdict: rollout.Pass, Reason: fmt.Sprint(m.Elapsed)}
		})); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range f.Decisions {
			got = append(got, fmt.Sprintf("%d %s %s %t", d.Step, d.Verdict, d.Reason, d.Last))
		}
		want := "3 unsure 0s false, 3 pass 5s false, 3 pass 10s true, 6 pass 0s false, 6 pass 10s true, 9 pass 0s false, 9 pass 10s true"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("kept:\n%s\nwant:\n%s", s, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := forgetful{rollouttest.NewFake(older, 4)}
		e := rollout.Engine{Target: f, Journal: f, Gates: []rollout.Gate{answers(func(rollout.Moment) rollout.Answer { return rollout.Answer{Verdict: rollout.Pass} })}}
		if err := e.Run(t.Context(), canary(t), release.Release{ID: newer}, rollout.Progress{}); err != nil {
			t.Fatal(err)
		}
	})
}

type forgetful struct{ *rollouttest.Fake }

func (forgetful) Decide(context.Context, rollout.Decision) error { return errors.New("disk full") }

func ExampleCanary() {
	q := rollout.Request{Service: "shop", Environment: "production", Old: 6, New: 7, OldInstances: 4, Instances: 4,
		Steps: []int{5, 50, 100}, Watch: time.Minute, Bake: 10 * time.Minute, Verify: true}
	p, err := rollout.Canary(q, rollout.Caps{WeightStep: 1, Surge: true})
	if err != nil {
		fmt.Println(err)
	}
	for _, s := range p.Steps {
		fmt.Println(s)
	}
	// Output:
	// make release 7 startable
	// 1 instance of release 7 ready
	// ask the gates before release 7 gets traffic
	// traffic: 5 % to release 7, 95 % to release 6
	// watch release 7 for 1m0s
	// 2 instances of release 7 ready
	// traffic: 50 % to release 7, 50 % to release 6
	// watch release 7 for 1m0s
	// 4 instances of release 7 ready
	// traffic: 100 % to release 7
	// watch release 7 for 10m0s
	// drain and stop release 6
}
