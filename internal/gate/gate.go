// Package gate holds the questions that decide whether a rollout goes on.
package gate

import (
	"context"

	"github.com/fairlead-dev/fairlead/internal/fail"
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

// Check implements [rollout.Gate].
func (h Healthy) Check(_ context.Context, p rollout.Plan) error {
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
			return fail.New(fail.Unhealthy, "", "instance %d of release %d %s, after it had got traffic", i.Number, i.Release, why).
				WithLines(h.Tail(i.Release, i.Number)).
				Hinted("run `fairlead logs %s --release %d%s`", p.Service, i.Release, spec.EnvFlag(p.Environment))
		}
	}
	return nil
}
