package agent

import (
	"context"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// maxDrill bounds how long a rehearsal takes traffic.
const maxDrill = 10 * time.Minute

// drill plans a rehearsal of going back. It is a rollout like any other: a second run of what serves gets its share, a gate
// says no on purpose, and the engine puts everything back. So an agent that dies in the middle leaves no more behind than in
// any rollout: the next one goes on, and back.
func (a *Agent) drill(ctx context.Context, d api.Drill) (intent, error) {
	switch {
	case d.What != api.DrillRollback:
		return intent{}, fail.New(fail.Usage, "", "there is no drill %q", d.What).Hinted("rollback is what can be rehearsed")
	case d.Share < 1 || d.Share > 99:
		return intent{}, fail.New(fail.Usage, "", "a share of %d %%: between 1 and 99 is left for both", d.Share)
	case d.For <= 0 || d.For > maxDrill:
		return intent{}, fail.New(fail.Usage, "", "%s is not a time between 0 and %s", d.For, maxDrill)
	}
	i, err := a.again(ctx, kindDrill+d.What, d.Move)
	if err != nil {
		return i, err
	}
	env, err := a.journal.Environment(ctx, d.Service, d.Environment)
	if err != nil {
		return i, err
	}
	if env.Stopped {
		return i, fail.New(fail.Usage, "", "%s is stopped: there is no traffic to rehearse with", d.Service).Hinted("run `fairlead restart %s`", d.Service)
	}
	i.spec.Release.Strategy, i.spec.Release.Steps = "canary", []spec.Percent{spec.Percent(d.Share * 1000)}
	i.spec.Release.Watch, i.spec.Release.Gates = spec.Duration(d.For), nil
	return a.intend(ctx, i)
}

// drills are when each rehearsal last went as it should, by its name.
func (a *Agent) drills(ctx context.Context, service, env string) (map[string]time.Time, error) {
	at, err := a.journal.LastDrill(ctx, service, env, kindDrill+api.DrillRollback)
	return map[string]time.Time{api.DrillRollback: at}, err
}
