package agent

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// rateWindow is over how long requests per second and p95 in the status are taken.
const rateWindow = 10 * time.Second

// rateLeast is how much of it there must be: over less, as just after the agent's start, a single request is thousands a second.
const rateLeast = time.Second

// status describes one service, or all when service is empty.
func (a *Agent) status(ctx context.Context, service, env string) (api.Status, error) {
	st := api.Status{Agent: a.info, Services: []api.Service{}}
	envs, err := a.journal.Environments(ctx)
	if err != nil {
		return st, err
	}
	snap, err := a.machine.Supervised(ctx)
	if err != nil {
		return st, err
	}
	table, err := a.machine.Table(ctx)
	if err != nil {
		return st, err
	}
	now := a.count()
	then, at := a.samples.ago(rateWindow)
	for _, e := range envs {
		if service != "" && e.Service != service || env != "" && e.Environment != env {
			continue
		}
		s := api.Service{Service: e.Service, Environment: e.Environment, URL: a.url(e.Service, e.Environment, e.Listen), Stopped: e.Stopped,
			Current: e.Current, Previous: e.Previous, Weights: map[int]int{}, Instances: []supervise.Instance{}}
		if r, err := a.journal.Release(ctx, e.Service, e.Environment, e.Current); err == nil {
			s.Version, s.Commit = r.Artifact.Version, r.Artifact.Commit
		}
		if r := table.Find(e.Service, e.Environment); r != nil {
			for _, b := range r.Backends {
				s.Weights[b.Release] = b.Weight
			}
		}
		for _, i := range snap.Instances {
			if i.Service == e.Service && i.Environment == e.Environment {
				s.Instances = append(s.Instances, i)
			}
		}
		k := counterKey{e.Service, e.Environment, 0}
		d := now[k].Sub(then[k])
		if past := time.Since(at); past > rateLeast {
			s.RPS = float64(d.Requests) / past.Seconds()
		}
		s.P95 = d.Quantile(0.95)
		w := a.machine.Way(e.Service, e.Environment)
		if s.Mode = w.Mode; !e.Stopped {
			s.ModeWhy = w.Why
		}
		s.Rollout = a.under(ctx, e)
		st.Services = append(st.Services, s)
	}
	if service != "" && len(st.Services) == 0 {
		if env != "" {
			_, err := a.journal.Environment(ctx, service, env)
			return st, err
		}
		return st, fail.New(fail.NotFound, "", "there is no service %q here", service).Hinted("run `fairlead status` for what there is")
	}
	return st, nil
}

// under returns the rollout of e that runs now, nil where there is none.
func (a *Agent) under(ctx context.Context, e journal.Environment) *api.Under {
	if !a.busy(e.Service, e.Environment) {
		return nil
	}
	h, err := a.journal.History(ctx, e.Service, e.Environment, 1)
	if err != nil || len(h) == 0 || h[0].Outcome != "" {
		return nil
	}
	o, step := a.journal.Resume(h[0]).Orders(), h[0].Plan.Steps[min(h[0].Step, len(h[0].Plan.Steps)-1)]
	return &api.Under{Paused: o.Paused, Frozen: o.Frozen, Doing: step.String(), ID: h[0].ID, Kind: h[0].Kind, To: h[0].Plan.New, Step: h[0].Step + 1, Steps: len(h[0].Plan.Steps), Undoing: h[0].Undoing, Holder: h[0].Holder}
}

// history returns the service's rollouts, newest first.
func (a *Agent) history(ctx context.Context, service, env string, n int) ([]api.Entry, error) {
	if _, err := a.journal.Environment(ctx, service, env); err != nil {
		return nil, err
	}
	rows, err := a.journal.History(ctx, service, env, n)
	if err != nil {
		return nil, err
	}
	out := []api.Entry{}
	for _, r := range rows {
		e := api.Entry{ID: r.ID, Kind: r.Kind, Strategy: r.Plan.Strategy, From: r.Plan.Old, To: r.Plan.New, Outcome: string(r.Outcome), By: r.Holder,
			Started: r.Started, Ended: r.Ended, Error: r.Error}
		if e.Outcome == "" {
			e.Outcome = "running"
		}
		if rel, err := a.journal.Release(ctx, service, env, r.Plan.New); err == nil {
			e.Version, e.Commit = rel.Artifact.Version, rel.Artifact.Commit
		}
		if len(r.Receipt) > 0 {
			e.Receipt = &api.Receipt{}
			if err := json.Unmarshal(r.Receipt, e.Receipt); err != nil {
				return nil, err
			}
		}
		out = append(out, e)
	}
	return out, nil
}
