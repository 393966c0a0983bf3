package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// The kinds of rollouts.
const (
	kindDeploy   = "deploy"
	kindRollback = "rollback"
	kindRestart  = "restart"
	kindDrill    = "drill " // and what is rehearsed
)

// run is a rollout under way.
type run struct {
	id     int64
	plan   rollout.Plan
	cancel context.CancelCauseFunc
	j      *journal.Running
	tell   func(event.Event) // keeps an event and hands it to who follows

	mu     sync.Mutex
	events []event.Event
	more   chan struct{} // closed and replaced at each event
	over   bool
}

func (r *run) add(e event.Event) (seq int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.over = r.over || e.Type == api.EventEnd
	close(r.more)
	r.more = make(chan struct{})
	return len(r.events) - 1
}

// from returns the events from number n on, whether the last one is among them, and what to wait for.
func (r *run) from(n int) ([]event.Event, bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > len(r.events) {
		n = len(r.events)
	}
	return r.events[n:], r.over, r.more
}

// intent is a rollout that could begin.
type intent struct {
	kind    string
	env     journal.Environment
	release release.Release
	fresh   bool // the release does not exist yet
	spec    spec.Spec
	plan    rollout.Plan
	listen  string
	by      string
	secrets map[string]string
}

// deploy plans a draft. Nothing is changed.
func (a *Agent) deploy(ctx context.Context, d api.Draft) (intent, error) {
	d.Spec.Environments, d.Spec.Environment = nil, d.Environment
	body, err := json.Marshal(d.Spec)
	if err != nil {
		return intent{}, err
	}
	id, err := a.journal.NextRelease(ctx, d.Spec.Service, d.Environment)
	if err != nil {
		return intent{}, err
	}
	id = max(id, d.Release)
	return a.intend(ctx, intent{kind: kindDeploy, fresh: true, spec: d.Spec, by: d.By, secrets: d.Secrets, release: release.Release{
		Service: d.Spec.Service, Environment: d.Environment, ID: id, Artifact: d.Artifact, Config: body, Created: time.Now(), By: d.By}})
}

// rollback plans the way to an older release.
func (a *Agent) rollback(ctx context.Context, m api.Move) (intent, error) {
	env, err := a.journal.Environment(ctx, m.Service, m.Environment)
	if err != nil {
		return intent{}, err
	}
	id := m.Release
	if id == 0 {
		id = env.Previous
	}
	switch {
	case id == 0:
		return intent{}, fail.New(fail.Usage, "", "%s has no release before %d", m.Service, env.Current).Hinted("run `fairlead history %s`", m.Service)
	case id == env.Current && !env.Stopped:
		return intent{}, fail.New(fail.Usage, "", "release %d of %s serves already", id, m.Service).Hinted("run `fairlead history %s`", m.Service)
	}
	i := intent{kind: kindRollback, by: m.By}
	if i.release, err = a.journal.Release(ctx, m.Service, m.Environment, id); err != nil {
		return intent{}, err
	}
	if err := json.Unmarshal(i.release.Config, &i.spec); err != nil {
		return intent{}, err
	}
	if i.spec.Release.Strategy != "recreate" {
		i.spec.Release.Strategy = "blue-green" // going back is one switch, whatever the way there was
	}
	return a.intend(ctx, i)
}

// restart plans a new run of what serves: the same artifact and configuration under a new number.
func (a *Agent) restart(ctx context.Context, m api.Move) (intent, error) {
	i, err := a.again(ctx, kindRestart, m)
	if err != nil {
		return i, err
	}
	return a.intend(ctx, i)
}

// again is a new run of what serves, which is not planned yet.
func (a *Agent) again(ctx context.Context, kind string, m api.Move) (intent, error) {
	env, err := a.journal.Environment(ctx, m.Service, m.Environment)
	if err != nil {
		return intent{}, err
	}
	if env.Current == 0 {
		return intent{}, fail.New(fail.Usage, "", "%s never ran", m.Service).Hinted("run `fairlead up`")
	}
	i := intent{kind: kind, fresh: true, by: m.By}
	if i.release, err = a.journal.Release(ctx, m.Service, m.Environment, env.Current); err != nil {
		return intent{}, err
	}
	if err := json.Unmarshal(i.release.Config, &i.spec); err != nil {
		return intent{}, err
	}
	if f := machine.SecretsPath(a.dirs, m.Service, m.Environment, env.Current); i.spec.Run.Secrets != nil {
		if err := home.ReadJSON(f, &i.secrets); err != nil {
			return intent{}, fmt.Errorf("the secrets of release %d cannot be read", env.Current)
		}
	}
	if i.release.ID, err = a.journal.NextRelease(ctx, m.Service, m.Environment); err != nil {
		return intent{}, err
	}
	i.release.Created, i.release.By = time.Now(), m.By
	return i, nil
}

// movesWatch is the longest that going back, and a new run of what serves, are watched: the release is known.
const movesWatch = 2 * time.Second

// intend completes an intent: from where, to which address, by which steps.
func (a *Agent) intend(ctx context.Context, i intent) (intent, error) {
	s, name := i.release.Service, i.release.Environment
	env, err := a.journal.Environment(ctx, s, name)
	if err != nil && !notFound(err) {
		return i, err
	}
	i.env = env
	if i.listen, err = a.chooseListen(ctx, i.spec, env); err != nil {
		return i, err
	}
	q := rollout.Request{Service: s, Environment: name, New: i.release.ID, Instances: i.spec.Run.Instances,
		Watch: i.spec.Release.Watch.D(), Warm: i.spec.Release.Warm.D(),
		Surge: i.spec.Release.Surge.Of(i.spec.Run.Instances, true), Unavailable: i.spec.Release.Unavailable.Of(i.spec.Run.Instances, false)}
	switch i.kind {
	case kindDeploy:
		q.Bake = i.spec.Release.Bake.D()
		q.Verify = slices.ContainsFunc(i.spec.Release.Gates, spec.Gate.Before)
		q.Preview, q.Mirror = i.spec.Route.Preview.On(), i.spec.Release.Mirror.For.D()
		q.Before, q.After = len(i.spec.Release.Hooks.Before) > 0, len(i.spec.Release.Hooks.After) > 0
	case kindRollback, kindRestart:
		q.Watch = min(q.Watch, movesWatch)
	}
	if env.Current != 0 && !env.Stopped && env.Current != i.release.ID {
		old, err := a.journal.Release(ctx, s, name, env.Current)
		if err != nil {
			return i, err
		}
		var os spec.Spec
		if err := json.Unmarshal(old.Config, &os); err != nil {
			return i, err
		}
		q.Old, q.OldInstances = env.Current, os.Run.Instances
	}
	for _, p := range i.spec.Release.Steps {
		q.Steps = append(q.Steps, int(p.Float()))
	}
	if i.plan, err = rollout.Make(i.spec.Release.Strategy, q, a.target(s, name, i.listen).Caps()); err != nil {
		return i, err
	}
	_, err = a.gates(ctx, i.kind, i.plan, i.release) // one that cannot be asked is refused before anything changes
	return i, err
}

// draft is the intent as the journal notes it.
func (a *Agent) draft(i *intent) journal.Draft {
	d := journal.Draft{Kind: i.kind, Plan: i.plan, Listen: i.listen, Holder: i.by, Baseline: a.baseline(i.plan)}
	if i.fresh {
		d.Release = &i.release
	}
	return d
}

// begin writes down what plan intends, takes the lease and starts the rollout.
func (a *Agent) begin(ctx context.Context, plan func() (intent, error)) (int64, error) {
	i, err := plan()
	if err != nil {
		return 0, err
	}
	d := a.draft(&i)
	r, err := a.journal.Begin(ctx, d)
	if errors.Is(err, journal.ErrMoved) || fail.KindOf(err) == fail.Busy && a.awaitEnding(ctx, i.plan) {
		// Another release serves now: a plan that was made before would lead back from it.
		if i, err = plan(); err != nil {
			return 0, err
		}
		d = a.draft(&i)
		r, err = a.journal.Begin(ctx, d)
	}
	if err != nil {
		return 0, err
	}
	p := i.plan
	// Only now: who was refused the lease must leave nothing that the next release of this number would find.
	if err := a.keepSecrets(i); err != nil {
		return 0, errors.Join(err, r.End(ctx, rollout.Failed, err))
	}
	base, err := json.Marshal(d.Baseline)
	if err != nil {
		return 0, err
	}
	if err := a.stats.ResetGap(p.Service, p.Environment); err != nil {
		a.log.Error("the receipt will lack the longest gap", "error", err)
	}
	a.start(journal.Rollout{ID: r.ID, Kind: i.kind, Plan: p, Started: time.Now(), Baseline: base}, i.release, i.listen)
	return r.ID, nil
}

// endingWait is how long a new rollout waits for the end of the one before to be noted.
const endingWait = 3 * time.Second

// awaitEnding reports whether the rollout that holds the lease has told its end already and only had to be noted.
func (a *Agent) awaitEnding(ctx context.Context, p rollout.Plan) bool {
	a.mu.Lock()
	over := false
	for _, r := range a.runs {
		if r.plan.Service == p.Service && r.plan.Environment == p.Environment {
			_, over, _ = r.from(0)
		}
	}
	a.mu.Unlock()
	if !over {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, endingWait)
	defer cancel()
	return wait.Until(ctx, 20*time.Millisecond, func() bool { return !a.busy(p.Service, p.Environment) }) == nil
}

// keepSecrets writes a new release's secrets where only the agent's user reads them. They are in no database.
func (a *Agent) keepSecrets(i intent) error {
	if !i.fresh || len(i.secrets) == 0 {
		return nil
	}
	f := machine.SecretsPath(a.dirs, i.release.Service, i.release.Environment, i.release.ID)
	if err := mkdirs(a.dirs, filepath.Dir(f)); err != nil {
		return err
	}
	return home.WriteJSON(f, i.secrets, 0o600)
}

// start runs the engine in the background. It is not ended with the agent: a rollout that is cut off by the end of the
// process is gone on with by the next one, while one that is cancelled would go back first.
func (a *Agent) start(ro journal.Rollout, rel release.Release, listen string) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(a.ctx))
	r := &run{id: ro.ID, plan: ro.Plan, cancel: cancel, more: make(chan struct{})}
	if old, err := a.journal.Events(a.ctx, ro.ID, 0); err == nil {
		r.events = old // clients go on by number
	}
	r.j = a.journal.Resume(ro)
	r.tell = func(e event.Event) {
		if err := r.j.Event(context.WithoutCancel(ctx), r.add(e), e); err != nil {
			a.log.Error("cannot keep an event", "rollout", r.id, "error", err)
		}
	}
	a.mu.Lock()
	a.runs[r.id] = r
	a.mu.Unlock()
	go func() {
		defer cancel(nil)
		defer a.machine.Watch(ro.Plan.Service, ro.Plan.Environment)()
		a.drive(ctx, r, ro, rel, listen)
		a.mu.Lock()
		delete(a.runs, r.id)
		a.mu.Unlock()
	}()
}

// drive runs one rollout to its end and tells everybody.
func (a *Agent) drive(ctx context.Context, r *run, ro journal.Rollout, rel release.Release, listen string) {
	p := ro.Plan
	var receipt *api.Receipt
	var e rollout.Engine
	r.j.Receipt = func(o rollout.Outcome, _ error) any {
		receipt = a.receipt(ro, o, listen)
		receipt.Recovered, receipt.Noticed = e.Recovered, nil
		if strings.HasPrefix(ro.Kind, kindDrill) {
			receipt.Noticed = a.noticed(ro, e.Gates)
		}
		return receipt
	}
	late := &insistent{Running: r.j}
	e = rollout.Engine{Target: a.target(p.Service, p.Environment, listen), Journal: late, Events: r.tell}
	e.Gates = a.gatesOrWait(ctx, ro, rel)
	if err := a.cooled(ctx, p); err != nil {
		a.log.Error("cannot stop what was kept warm", "error", err)
	}
	var s spec.Spec
	if err := json.Unmarshal(rel.Config, &s); err != nil {
		a.log.Error("the release's configuration cannot be read", "rollout", ro.ID, "error", err)
	}
	if ro.Kind == kindDeploy && s.Release.Evidence.Probe.HTTP != "" && p.Old != 0 {
		probing, end := context.WithCancel(ctx)
		defer end()
		go a.topUp(probing, p, listen, &s)
	}
	err := e.Run(ctx, p, rel, rollout.Progress{Step: ro.Step, Undoing: ro.Undoing, Cause: ro.Cause})
	end := api.End{Outcome: string(rollout.Done), Receipt: receipt}
	if err != nil {
		end.Error = fail.As(err)
		end.Outcome = string(end.Error.Kind)
	} else {
		a.reloadRules()
		if s.Release.Keep > 0 {
			a.prune(p.Service, p.Environment, s.Release.Keep)
		}
	}
	defer late.insist(a.ctx)
	if w := a.machine.Way(p.Service, p.Environment); w.Lacks {
		r.tell(event.Event{Time: time.Now(), Type: "steering", Level: event.Warn, Service: p.Service, Release: int(p.New), Text: "connections go through the proxy, not the kernel: " + w.Why})
	}
	r.tell(event.Event{Time: time.Now(), Type: api.EventEnd, Level: event.Info, Service: p.Service, Release: int(p.New), Data: end})
}

// insistent is a journal whose last word is noted later when it cannot be noted now: a full disk changes nothing about how
// the rollout ended. Should the agent die before, the next one resumes the rollout and finds everything as it shall be.
type insistent struct {
	*journal.Running
	pending func(context.Context) error
}

// End implements [rollout.Journal].
func (j *insistent) End(ctx context.Context, o rollout.Outcome, cause error) error {
	if j.Running.End(ctx, o, cause) != nil {
		j.pending = func(ctx context.Context) error { return j.Running.End(ctx, o, cause) }
	}
	return nil
}

// insist notes what is pending; until then the rollout counts as under way.
func (j *insistent) insist(ctx context.Context) {
	for j.pending != nil && j.pending(ctx) != nil {
		if wait.For(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}

// cooled stops an older release that was kept warm, unless the rollout is about it.
func (a *Agent) cooled(ctx context.Context, p rollout.Plan) error {
	e, err := a.journal.Environment(ctx, p.Service, p.Environment)
	if err != nil || e.WarmRelease == 0 || e.WarmRelease == p.New || e.WarmRelease == p.Old {
		return err
	}
	return a.cool(e)
}

// resume goes on with every rollout that an earlier agent did not end.
func (a *Agent) resume() {
	open, err := a.journal.Unfinished(a.ctx)
	if err != nil {
		a.log.Error("cannot read what was interrupted", "error", err)
		return
	}
	for _, ro := range open {
		rel, err := a.journal.Release(a.ctx, ro.Plan.Service, ro.Plan.Environment, ro.Plan.New)
		if err != nil {
			a.log.Error("cannot go on with a rollout", "rollout", ro.ID, "error", err)
			continue
		}
		env, err := a.journal.Environment(a.ctx, ro.Plan.Service, ro.Plan.Environment)
		if err != nil {
			a.log.Error("cannot go on with a rollout", "rollout", ro.ID, "error", err)
			continue
		}
		a.log.Info("going on with a rollout", "rollout", ro.ID, "step", ro.Step+1, "undoing", ro.Undoing)
		a.start(ro, rel, env.Listen)
	}
}
