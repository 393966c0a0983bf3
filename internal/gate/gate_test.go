package gate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/gate"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

const (
	older release.ID = 1
	newer release.ID = 2
)

// fake is evidence that a test makes up.
type fake struct {
	counts    map[release.ID]edge.Counts
	instances []supervise.Instance
	logged    []time.Time // when a line came that is asked for
	asked     []string    // what was asked of the log and in PromQL
	query     func(expr string) ([]gate.Sample, error)
	run       gate.Runner
	err       error // of everything
}

func (f *fake) Counts(id release.ID) (edge.Counts, error) {
	if f.err != nil {
		return edge.Counts{}, f.err
	}
	return f.counts[id], nil
}

func (f *fake) Instances(_ context.Context, id release.ID) ([]supervise.Instance, error) {
	if id != newer {
		return nil, f.err
	}
	return f.instances, f.err
}

func (f *fake) Lines(_ context.Context, _ release.ID, since time.Time, level, text string) (n int, err error) {
	f.asked = append(f.asked, level+text)
	for _, at := range f.logged {
		if !at.Before(since) {
			n++
		}
	}
	return n, f.err
}

func (f *fake) Query(_ context.Context, expr string) ([]gate.Sample, error) {
	f.asked = append(f.asked, expr)
	if f.err != nil || f.query == nil {
		return nil, f.err
	}
	return f.query(expr)
}

func (f *fake) Tail(release.ID, int) []string { return []string{"the last line"} }

func (f *fake) Machine() (int64, int) { return 1 << 30, 2 }

// serve counts n requests of a release, some of which failed, that each took so long.
func (f *fake) serve(id release.ID, n, failed uint64, took time.Duration) {
	c := edge.Counts{Requests: n, Failed: failed, Hist: make([]uint64, len(edge.BucketEnds()))}
	c.Hist[slices.IndexFunc(edge.BucketEnds(), func(end time.Duration) bool { return took < end })] = n
	if f.counts == nil {
		f.counts = map[release.ID]edge.Counts{}
	}
	f.counts[id] = f.counts[id].Add(c)
}

// asker asks one gate as the engine does.
type asker struct {
	t      *testing.T
	f      *fake
	gates  []rollout.Gate // what every rollout is asked, then the one of the test
	m      rollout.Moment
	began  time.Time
	steps  []int // indices of the plan's watches
	before int   // of what is asked before there is traffic
}

const watched = 30 * time.Second

// asking makes a gate of a rollout with shares of 20, 50 and 100 % to two instances; change may alter the spec.
func asking(t *testing.T, f *fake, g spec.Gate, change ...func(*spec.Spec)) *asker {
	t.Helper()
	if g.Else == "" {
		g.Else = "rollback"
	}
	s := spec.Spec{Release: spec.Release{Gates: []spec.Gate{g}, Evidence: spec.Evidence{Requests: 100, Wait: spec.Duration(time.Minute), Inconclusive: "rollback"}}}
	q := rollout.Request{Service: "shop", Environment: "staging", Old: older, New: newer, OldInstances: 2, Instances: 2,
		Steps: []int{20, 50, 100}, Watch: watched, Verify: true}
	for _, f := range change {
		f(&s)
	}
	p, err := rollout.Make("canary", q, rollout.Caps{WeightStep: 1, Surge: true})
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{t: t, f: f}
	if a.gates, err = gate.Make(&s, p, f, gate.Known{Run: f.run}); err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Steps {
		switch s.Do {
		case rollout.Verify:
			a.before = i
		case rollout.Watch:
			a.steps = append(a.steps, i)
		}
	}
	a.m = rollout.Moment{Plan: p, For: watched}
	a.at(0)
	return a
}

// at goes to the plan's nth watch.
func (a *asker) at(n int) { a.m.Step, a.m.Before, a.began = a.steps[n], false, time.Now() }

// verifying goes to where there is no traffic yet.
func (a *asker) verifying() { a.m.Step, a.m.Before, a.m.For, a.began = a.before, true, 0, time.Now() }

// ask asks the gate of the test, after a time.
func (a *asker) ask(after time.Duration) rollout.Answer {
	a.t.Helper()
	if after > 0 {
		<-time.After(after)
	}
	a.m.Elapsed = time.Since(a.began)
	return a.gates[len(a.gates)-1].Ask(a.t.Context(), a.m)
}

// wants checks an answer: its verdict and parts of its reason.
func (a *asker) wants(got rollout.Answer, v rollout.Verdict, says ...string) {
	a.t.Helper()
	if got.Verdict != v {
		a.t.Errorf("%s after %s: %s (%s), want %s", got.Gate, a.m.Elapsed, got.Verdict, got.Reason, v)
	}
	for _, s := range says {
		if !strings.Contains(got.Reason, s) {
			a.t.Errorf("%s: the reason should hold %q: %s", got.Gate, s, got.Reason)
		}
	}
	if (v == rollout.Breach) != (got.Else != "") {
		a.t.Errorf("%s: what follows %s is %q", got.Gate, v, got.Else)
	}
}

// bubble runs f in virtual time.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestWhatFollowsWhenNothingIsKnown(t *testing.T) {
	for then, want := range map[string]rollout.Answer{
		"promote":  {Verdict: rollout.Pass},
		"rollback": {Verdict: rollout.Breach, Else: rollout.Back},
		"pause":    {Verdict: rollout.Breach, Else: rollout.Pause},
	} {
		bubble(t, then, func(t *testing.T) {
			f := &fake{}
			a := asking(t, f, spec.Gate{Check: "errors <= 1%", Else: "warn"}, func(s *spec.Spec) { s.Release.Evidence.Inconclusive = then })
			a.wants(a.ask(0), rollout.Unsure, "100 more are needed")
			a.wants(a.ask(59*time.Second), rollout.Unsure)
			got := a.ask(time.Second)
			a.wants(got, want.Verdict, "inconclusive after 1m0s: ", "100 more are needed")
			if got.Else != want.Else || then == "pause" && !strings.Contains(got.Hint, "fairlead promote shop") {
				t.Errorf("%+v", got)
			}
		})
	}
	bubble(t, "a step longer than the wait", func(t *testing.T) {
		a := asking(t, &fake{}, spec.Gate{Check: "errors <= 1%"}, func(s *spec.Spec) { s.Release.Evidence.Wait = spec.Duration(time.Second) })
		a.wants(a.ask(watched-time.Second), rollout.Unsure)
		a.wants(a.ask(time.Second), rollout.Breach, "inconclusive after 30s: ")
	})
}

// Nothing serves that could be harmed: missing evidence does not hold the first release, what is known to be bad does.
func TestFirstRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, g := range []spec.Gate{{Check: "errors <= 1%"}, {Check: "memory <= 80%"}, {PromQL: "up > 0"}} {
			a := asking(t, &fake{}, g)
			a.m.Plan.Old = 0
			a.wants(a.ask(0), rollout.Pass, "first release")
		}
		a := asking(t, &fake{}, spec.Gate{Compare: []string{"errors"}})
		a.m.Plan.Old = 0
		a.wants(a.ask(0), rollout.Pass, "no old release")
		f := &fake{}
		a = asking(t, f, spec.Gate{Check: "errors <= 1%"})
		a.m.Plan.Old = 0
		a.ask(0)
		f.serve(newer, 100, 50, time.Millisecond)
		a.wants(a.ask(time.Second), rollout.Breach, "50 % of 100 requests failed")
	})
}

// What cannot be read is waited for, and then goes the way the spec says: no gate passes blindly.
func TestUnreadableEvidenceIsNoPass(t *testing.T) {
	for _, g := range []spec.Gate{
		{Check: "errors <= 1%"}, {Check: "p95 <= 1s"}, {Check: "cpu <= 90%"}, {Check: "memory <= 80%"}, {Check: "restarts == 0"}, {Check: "files <= 9"},
		{Check: "log(level=error) == 0"}, {Compare: []string{"errors", "latency"}}, {PromQL: "up > 0"}, {PromQL: "up > bool 0"}, {PromQL: "up and up"}, {HTTP: "/"},
	} {
		bubble(t, g.Name(), func(t *testing.T) {
			f := &fake{}
			a := asking(t, f, g)
			f.err = errors.New("the disk is gone")
			if g.HTTP != "" {
				a.verifying()
			}
			a.wants(a.ask(0), rollout.Unsure, "cannot be measured: the disk is gone")
			a.wants(a.ask(time.Second), rollout.Unsure)
			a.wants(a.ask(time.Minute), rollout.Breach, "inconclusive", "the disk is gone")
			if v := a.gates[0].Ask(t.Context(), a.m); v.Verdict != rollout.Unsure {
				t.Errorf("whether the instances live is not known: %+v", v)
			}
			f.err = nil
			f.instances = []supervise.Instance{{Number: 1, State: supervise.Ready}}
			if v := a.gates[0].Ask(t.Context(), a.m); v.Verdict != rollout.Pass {
				t.Errorf("they live: %+v", v)
			}
		})
	}
	f := &fake{err: errors.New("no supervisor")}
	if _, err := gate.Make(&spec.Spec{}, rollout.Plan{New: newer}, f, gate.Known{}); !errors.Is(err, f.err) {
		t.Errorf("gates that know nothing of the instances: %v", err)
	}
}

// Every rollout is asked whether the new instances live: deaths before it began do not count, one since then does.
func TestInstancesMustLive(t *testing.T) {
	died := &supervise.Exit{Reason: "ended with code 2"}
	f := &fake{instances: []supervise.Instance{{Number: 1, Release: 2, State: supervise.Ready, Lost: 3, Last: died}, {Number: 2, Release: 2, State: supervise.Ready}}}
	a := asking(t, f, spec.Gate{Check: "errors <= 1%"})
	live := func() rollout.Answer { return a.gates[0].Ask(t.Context(), a.m) }
	if v := live(); v.Verdict != rollout.Pass {
		t.Fatalf("what was before does not count: %+v", v)
	}
	f.instances[1].Lost, f.instances[1].Last = 1, died
	v := live()
	a.wants(v, rollout.Breach, "instance 2 of release 2 ended with code 2, after it had got traffic")
	if v.Else != rollout.Back || len(v.Lines) != 1 || !strings.Contains(v.Hint, "--release 2 --env staging") {
		t.Errorf("%+v", v)
	}
	f.instances[1] = supervise.Instance{Number: 2, Release: 2, State: supervise.Unready, Probe: "/ready answers 503"}
	a.verifying()
	a.wants(live(), rollout.Breach, "is not ready any more: /ready answers 503, after it had become ready")
}

// Only smoke tests, windows and people have a question before there is traffic.
func TestBeforeThereIsTraffic(t *testing.T) {
	for _, g := range []spec.Gate{{Check: "errors <= 1%"}, {Compare: []string{"errors"}}, {PromQL: "up > 0"}, {Approve: "steps"}} {
		a := asking(t, &fake{}, g)
		a.verifying()
		a.wants(a.ask(0), rollout.Pass)
	}
}
