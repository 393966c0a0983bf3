package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Drill is the gate of a rehearsal: after the step's time it says no, whatever there is to see.
type Drill struct{}

// Ask implements [rollout.Gate].
func (Drill) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	a := rollout.Answer{Gate: "drill", Verdict: rollout.Unsure, Reason: "the rehearsal takes its time"}
	if m.Before {
		a.Verdict = rollout.Pass
	} else if m.Elapsed >= m.For {
		a.Verdict, a.Else, a.Reason = rollout.Breach, rollout.Back, "drill: it goes back on purpose"
	}
	return a
}

// drilled asks whether going back was rehearsed lately, before there is traffic.
type drilled struct {
	base
	check spec.Check
}

// Ask implements [rollout.Gate].
func (d *drilled) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	at := d.drills[d.check.Arg]
	if m.Plan.Old == 0 {
		return d.pass("first release, there was nothing to rehearse", nil)
	}
	if at.IsZero() || !d.check.Holds(time.Since(at).Seconds()) {
		why := d.check.Arg + " was never rehearsed"
		if !at.IsZero() {
			why = fmt.Sprintf("%s was rehearsed on %s, which is too long ago", d.check.Arg, at.Format(time.DateOnly))
		}
		a := d.breach(why, at)
		a.Hint = fmt.Sprintf("run `fairlead drill %s %s%s`", d.check.Arg, m.Plan.Service, spec.EnvFlag(m.Plan.Environment))
		return a
	}
	return d.pass(fmt.Sprintf("%s was rehearsed on %s", d.check.Arg, at.Format(time.DateTime)), at)
}
