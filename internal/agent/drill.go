package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/gate"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// maxDrill bounds how long a rehearsal takes traffic.
const maxDrill = 10 * time.Minute

// drill plans a rehearsal. It is a rollout like any other: a second run of what serves gets its share, something is done to it,
// a gate says no in the end, and the engine puts everything back. So an agent that dies in the middle leaves no more behind than in
// any rollout: the next one goes on, and back. What is done to it is written in the configuration of the second run and
// ends with that.
func (a *Agent) drill(ctx context.Context, d api.Drill) (intent, error) {
	if d.What == api.DrillSwitch {
		d.Share = 1
	}
	switch {
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
	i.spec.Release.Watch, i.spec.Release.Mirror, i.spec.Release.Hooks = spec.Duration(d.For), spec.Mirror{}, spec.Hooks{}
	if err := harm(&i.spec, d); err != nil {
		return i, err
	}
	if i.release.Config, err = json.Marshal(i.spec); err != nil {
		return i, err
	}
	return a.intend(ctx, i)
}

// harm writes into the second run's configuration what is done to it.
func harm(s *spec.Spec, d api.Drill) error {
	hit := spec.Percent(d.Hit * 1000)
	switch d.What {
	case api.DrillRollback, api.DrillCrash:
	case api.DrillSwitch:
		s.Release.Strategy = "blue-green"
	case api.DrillErrors:
		if hit <= 0 || hit > 100_000 || d.Status < 400 || d.Status > 599 {
			return fail.New(fail.Usage, "", "a status of %d for %g %% of the requests: a status from 400 to 599 for up to 100 %% can be rehearsed", d.Status, d.Hit)
		}
		s.Route.Faults = append(s.Route.Faults, spec.Fault{Share: hit, Abort: d.Status})
	case api.DrillLatency:
		if hit <= 0 || hit > 100_000 || d.Delay <= 0 || d.Delay > time.Minute {
			return fail.New(fail.Usage, "", "a delay of %s for %g %% of the requests: up to a minute for up to 100 %% can be rehearsed", d.Delay, d.Hit)
		}
		s.Route.Faults = append(s.Route.Faults, spec.Fault{Share: hit, Delay: spec.Duration(d.Delay)})
	case api.DrillCPU:
		s.Run.Faults.CPU = spec.Cores(d.CPU)
		if d.CPU <= 0 || s.Run.Limits.CPU == 0 {
			return fail.New(fail.Usage, "", "the drill needs a number of cores, and run.limits.cpu, which keeps the rest of the machine out of it").Hinted("set run.limits.cpu and deploy, then --cpu 0.9")
		}
	case api.DrillMemory:
		s.Run.Faults.Memory = spec.Bytes(d.Memory)
		if d.Memory <= 0 || s.Run.Limits.Memory == 0 {
			return fail.New(fail.Usage, "", "the drill needs an amount of memory, and run.limits.memory, which keeps the rest of the machine out of it").Hinted("set run.limits.memory and deploy, then --memory 200MiB")
		}
	default:
		return fail.New(fail.Usage, "", "there is no drill %q", d.What).Hinted("what can be rehearsed: %v", spec.Drills)
	}
	return nil
}

// noticeable reports whether a gate has something to notice in a drill of this kind.
func noticeable(kind string) bool {
	return kind != kindDrill+api.DrillRollback && kind != kindDrill+api.DrillSwitch
}

// drillGate is the gate of a rehearsal.
func (a *Agent) drillGate(kind string, p rollout.Plan) *gate.Drill {
	d := &gate.Drill{Notices: noticeable(kind)}
	if kind == kindDrill+api.DrillCrash {
		d.Strike = func(context.Context) error {
			for _, i := range a.machine.Instances(p.Service, p.Environment) {
				if i.Release == int(p.New) && i.Process.Alive() {
					process, err := os.FindProcess(i.Process.PID)
					if err != nil {
						return err
					}
					return process.Kill()
				}
			}
			return fmt.Errorf("no instance of release %d runs", p.New)
		}
	}
	return d
}

// noticed is what the receipt says of a drill in which a gate had something to notice.
func (a *Agent) noticed(ro journal.Rollout, gates []rollout.Gate) *api.Noticed {
	if !noticeable(ro.Kind) {
		return nil
	}
	all, err := a.journal.Decisions(a.ctx, ro.ID)
	if err != nil {
		a.log.Error("the drill's receipt lacks who noticed", "error", err)
	}
	n := &api.Noticed{}
	for _, d := range all {
		if d.Verdict != rollout.Breach || d.Else != rollout.Back || n.Reason != "" {
			continue
		}
		n.Reason = d.Reason
		if d.Gate == gate.DrillName {
			continue
		}
		n.By = d.Gate
		for _, g := range gates {
			if g, ok := g.(*gate.Drill); ok && !g.Began.IsZero() {
				n.Detected = d.Time.Sub(g.Began)
			}
		}
	}
	return n
}

// drills are when each rehearsal last went as it should, by its name.
func (a *Agent) drills(ctx context.Context, service, env string) (map[string]time.Time, error) {
	out := map[string]time.Time{}
	for _, what := range spec.Drills {
		at, err := a.journal.LastDrill(ctx, service, env, kindDrill+what)
		if err != nil {
			return nil, err
		}
		out[what] = at
	}
	return out, nil
}
