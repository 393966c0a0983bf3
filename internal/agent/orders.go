package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/rpc"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// order notes what a person tells a rollout. The engine reads it at its next look, also in an agent that starts later.
func (a *Agent) order(r *http.Request) (any, error) {
	o, err := rpc.Decode[api.Order](r)
	if err != nil {
		return nil, err
	}
	run, id, err := a.find(r)
	if err != nil {
		return nil, err
	}
	ro, err := a.journal.Rollout(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if run == nil || ro.Outcome != "" || ro.Undoing {
		return nil, fail.New(fail.NotFound, "", "rollout %d does not run (any more)", id).Hinted("run `fairlead history %s`", ro.Plan.Service)
	}
	if o.Do == api.OrderApprove && !a.asksPeople(r.Context(), ro.Plan) {
		return nil, fail.New(fail.Usage, "", "no gate of release %d waits for an approval", ro.Plan.New).Hinted("run `fairlead promote %s` to end the step that it is at", ro.Plan.Service)
	}
	if err := a.journal.Tell(r.Context(), id, func(to *rollout.Orders) { err = tell(to, o, ro.Step, len(ro.Plan.Steps)) }); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	a.log.Info("told", "rollout", id, "order", o.Do, "by", o.By, "why", o.Why)
	e := event.Event{Time: time.Now(), Type: "order", Level: event.Info, Service: ro.Plan.Service, Release: int(ro.Plan.New), Step: ro.Step + 1, Steps: len(ro.Plan.Steps), Text: o.Do + " by " + signed(o)}
	if err := run.j.Decide(r.Context(), rollout.Decision{Time: e.Time, Step: ro.Step, Answer: rollout.Answer{Gate: o.Do, Verdict: rollout.Pass, Reason: signed(o)}}); err != nil {
		return nil, err
	}
	run.tell(e)
	return struct{}{}, nil
}

// asksPeople reports whether the release that a plan goes to has a gate that waits for an approval.
func (a *Agent) asksPeople(ctx context.Context, p rollout.Plan) bool {
	rel, err := a.journal.Release(ctx, p.Service, p.Environment, p.New)
	var s spec.Spec
	if err != nil || json.Unmarshal(rel.Config, &s) != nil {
		return false
	}
	return slices.ContainsFunc(s.Release.Gates, func(g spec.Gate) bool { return g.Approve != "" })
}

// tell changes orders as o says, at a step.
func tell(to *rollout.Orders, o api.Order, step, steps int) error {
	switch o.Do {
	case api.OrderPause:
		to.Paused = "by " + signed(o)
	case api.OrderFreeze:
		to.Paused, to.Frozen = "frozen by "+signed(o), true
	case api.OrderResume:
		to.Paused, to.Frozen = "", false
	case api.OrderPromote, api.OrderPromoteAll:
		to.Paused, to.Frozen, to.Past = "", false, step+1
		if o.Do == api.OrderPromoteAll {
			to.Past = steps
		}
	case api.OrderApprove:
		to.Approved, to.Approval = step+1, "approved by "+signed(o)
	default:
		return fail.New(fail.Usage, "", "there is no order %q", o.Do)
	}
	return nil
}

func signed(o api.Order) string {
	if o.Why == "" {
		return o.By
	}
	return fmt.Sprintf("%s: %s", o.By, o.Why)
}
