package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Drill is the gate of a rehearsal. After the step's time it says no, whatever there is to see: everything goes back.
type Drill struct {
	Strike  func(ctx context.Context) error // what is done when the traffic has moved; nil for nothing
	Notices bool                            // another gate should have said no by then
	Began   time.Time                       // when it was done
}

// DrillName is what the gate of a rehearsal is called.
const DrillName = "drill"

// Ask implements [rollout.Gate].
func (d *Drill) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	a := rollout.Answer{Gate: DrillName, Verdict: rollout.Unsure, Reason: "the rehearsal takes its time"}
	if m.Before {
		a.Verdict = rollout.Pass
		return a
	}
	if d.Began.IsZero() {
		d.Began = time.Now()
		if d.Strike != nil {
			if err := d.Strike(ctx); err != nil {
				a.Verdict, a.Else, a.Reason = rollout.Breach, rollout.Back, "the drill could not be held: "+err.Error()
				return a
			}
		}
	}
	if m.Elapsed >= m.For {
		a.Verdict, a.Else, a.Reason = rollout.Breach, rollout.Back, "drill: it goes back on purpose"
		if d.Notices {
			a.Reason = fmt.Sprintf("drill: no gate noticed it within %s", m.For)
		}
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
