// Package gate holds the questions that decide whether a rollout goes on.
package gate

import (
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// Healthy says no when an instance of the new release died or stopped being ready after it got traffic.
type Healthy struct {
	// Instances returns what the supervisor knows of the service's instances now.
	Instances func() []supervise.Instance
	// Tail returns the last lines of an instance's log.
	Tail func(release, instance int) []string
	// Lost is how often each instance of the release had been lost, by its number, before the rollout began.
	Lost map[int]int
}

// Ask implements [rollout.Gate].
func (h Healthy) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	p := m.Plan
	for _, i := range h.Instances() {
		if i.Release != int(p.New) {
			continue
		}
		why := ""
		switch {
		case i.Last != nil && i.Lost > h.Lost[i.Number]:
			why = i.Last.Reason
		case i.State == supervise.Unready:
			why = "is not ready any more: " + i.Probe
		}
		if why != "" {
			return rollout.Answer{Verdict: rollout.Breach, Else: rollout.Back, Lines: h.Tail(i.Release, i.Number),
				Reason: fmt.Sprintf("instance %d of release %d %s, after it had %s", i.Number, i.Release, why, since(m)),
				Hint:   fmt.Sprintf("run `fairlead logs %s --release %d%s`", p.Service, i.Release, spec.EnvFlag(p.Environment))}
		}
	}
	return rollout.Answer{Verdict: rollout.Pass}
}

func since(m rollout.Moment) string {
	if m.Before {
		return "become ready"
	}
	return "got traffic"
}
