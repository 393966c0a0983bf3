package journal

import (
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// What a person tells a rollout holds across a restart of the agent and ends with the rollout; what was decided stays.
func TestOrdersAndDecisions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	j, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	p := rollout.Plan{Service: "shop", Environment: "default", New: 1, Steps: []rollout.Step{{Do: rollout.Watch}}}
	r, err := j.Begin(t.Context(), Draft{Kind: "deploy", Plan: p, Holder: "me"})
	if err != nil {
		t.Fatal(err)
	}
	if o := r.Orders(); o != (rollout.Orders{}) {
		t.Errorf("a new rollout has orders: %+v", o)
	}
	if err := r.Pause(t.Context(), "cpu is high"); err != nil {
		t.Fatal(err)
	}
	if err := j.Tell(t.Context(), r.ID, func(o *rollout.Orders) {
		if o.Paused != "cpu is high" {
			t.Errorf("told over %+v", *o)
		}
		o.Frozen, o.Past = true, 3
	}); err != nil {
		t.Fatal(err)
	}
	for i, v := range []rollout.Verdict{rollout.Unsure, rollout.Breach} {
		d := rollout.Decision{Step: i, Answer: rollout.Answer{Gate: "errors <= 1%", Verdict: v, Reason: "5 %", Evidence: map[string]any{"n": 7.0}}}
		if err := r.Decide(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	if j, err = Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	open, err := j.Unfinished(t.Context())
	if err != nil || len(open) != 1 {
		t.Fatalf("%v, %v", open, err)
	}
	r = j.Resume(open[0])
	if o := r.Orders(); o != (rollout.Orders{Paused: "cpu is high", Frozen: true, Past: 3}) {
		t.Errorf("after a restart: %+v", o)
	}
	if err := r.End(t.Context(), rollout.Done, nil); err != nil {
		t.Fatal(err)
	}
	if err := j.Tell(t.Context(), r.ID, func(*rollout.Orders) {}); fail.KindOf(err) != fail.NotFound {
		t.Errorf("an ended rollout took an order: %v", err)
	}
	all, err := j.Decisions(t.Context(), r.ID)
	if err != nil || len(all) != 2 || all[1].Verdict != rollout.Breach || all[1].Step != 1 || all[1].Evidence.(map[string]any)["n"] != 7.0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := j.Remove(t.Context(), "shop", "default"); err != nil {
		t.Fatal(err)
	}
	if all, err = j.Decisions(t.Context(), r.ID); err != nil || len(all) != 0 {
		t.Errorf("decisions of a removed service: %v, %v", all, err)
	}
}
