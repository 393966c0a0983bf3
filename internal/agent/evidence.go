package agent

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/gate"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/preflight"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// evidence is where the gates of one rollout look. It is used by one goroutine.
type evidence struct {
	*Agent
	service, env string
	querier      metrics.Querier // nil where there is none

	at        time.Time // when counts and instances were read
	counts    counters
	instances []supervise.Instance
}

// fresh is how old a reading may be: gates that are asked together look at the same.
const fresh = 100 * time.Millisecond

var _ gate.Evidence = (*evidence)(nil)

func (e *evidence) read(ctx context.Context) error {
	if time.Since(e.at) < fresh {
		return nil
	}
	snap, err := e.machine.Supervised(ctx)
	if err != nil {
		return err
	}
	e.counts, e.instances, e.at = e.count(), snap.Instances, time.Now()
	return nil
}

// Counts implements [gate.Evidence].
func (e *evidence) Counts(id release.ID) (edge.Counts, error) {
	err := e.read(e.ctx)
	return e.counts[counterKey{e.service, e.env, int(id)}], err
}

// Instances implements [gate.Evidence].
func (e *evidence) Instances(ctx context.Context, id release.ID) ([]supervise.Instance, error) {
	err := e.read(ctx)
	var out []supervise.Instance
	for _, i := range e.instances {
		if i.Service == e.service && i.Environment == e.env && i.Release == int(id) {
			out = append(out, i)
		}
	}
	return out, err
}

// Lines implements [gate.Evidence].
func (e *evidence) Lines(ctx context.Context, id release.ID, since time.Time, level, text string) (int, error) {
	q := logs.Query{Service: e.service, Env: e.env, Release: int(id), Since: since, Level: level}
	if text != "" {
		q.Grep = regexp.MustCompile(regexp.QuoteMeta(text))
	}
	n := 0
	err := logs.Read(ctx, e.dirs.Logs(), q, func(r logs.Record) error {
		if r.Stream != "fairlead" { // what the service said itself
			n++
		}
		return nil
	})
	return n, err
}

// Query implements [gate.Evidence].
func (e *evidence) Query(ctx context.Context, expr string) ([]gate.Sample, error) {
	q := e.querier
	if q == nil {
		return nil, errors.New("this machine keeps no metrics; the agent's log says why")
	}
	ctx, cancel := context.WithTimeout(ctx, queryWait)
	defer cancel()
	found, err := q.Query(ctx, expr, time.Now())
	var out []gate.Sample
	for _, s := range found {
		out = append(out, gate.Sample{Labels: s.Labels, Value: s.Value})
	}
	return out, err
}

// queryWait bounds one question of a gate: it is asked again a moment later.
const queryWait = 2 * time.Second

// Tail implements [gate.Evidence].
func (e *evidence) Tail(id release.ID, instance int) []string {
	return e.tail(e.service, e.env, int(id), instance)
}

// Machine implements [gate.Evidence].
func (e *evidence) Machine() (memory int64, cores int) { return preflight.Memory(), runtime.NumCPU() }

// gatesOrWait are the gates of a rollout that was planned with them; the supervisor may be away for a moment.
func (a *Agent) gatesOrWait(ctx context.Context, ro journal.Rollout, rel release.Release) (gates []rollout.Gate) {
	for {
		gates, err := a.gates(ctx, ro.Kind, ro.Plan, rel)
		if err == nil {
			return gates
		}
		a.log.Error("the gates cannot be asked yet", "rollout", ro.ID, "error", err)
		if wait.For(ctx, time.Second) != nil {
			return nil // the engine finds the same context done and goes back
		}
	}
}

// gates are what a rollout is asked. Those of the spec hold for deploys; going back and a new run of the same release only
// have to live.
func (a *Agent) gates(ctx context.Context, kind string, p rollout.Plan, rel release.Release) ([]rollout.Gate, error) {
	var s spec.Spec
	if err := json.Unmarshal(rel.Config, &s); err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(kind, kindDrill) && noticeable(kind): // those that may notice; nobody is asked for leave
		s.Release.Gates = slices.DeleteFunc(s.Release.Gates, func(g spec.Gate) bool { return g.PromQL == "" && len(g.Compare) == 0 && (g.Check == "" || g.Before()) })
	case kind != kindDeploy:
		s.Release.Gates = nil
	}
	e := &evidence{Agent: a, service: p.Service, env: p.Environment}
	if a.metrics != nil {
		e.querier = a.metrics
	}
	if url := s.Release.Evidence.Prometheus; url != "" {
		var err error
		if e.querier, err = metrics.Remote(url, nil); err != nil {
			return nil, err
		}
	}
	drills, err := a.drills(ctx, p.Service, p.Environment)
	if err != nil {
		return nil, err
	}
	gates, err := gate.Make(&s, p, e, gate.Known{Before: a.baseline(p).Before, Drills: drills, Run: a.machine.Ask})
	if strings.HasPrefix(kind, kindDrill) {
		gates = append(gates, a.drillGate(kind, p))
	}
	e.at = time.Time{} // what was read by now is from before the rollout: an instance may be up within the time a reading is fresh
	return gates, err
}
