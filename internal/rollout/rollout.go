// Package rollout moves an environment's traffic from one release to the next and back.
//
// It knows nothing of processes, SSH or Kubernetes: a [Target] does. A strategy is a pure function that returns a [Plan];
// the engine is a loop over its steps. It starts no goroutine and does no I/O of its own. Every call it makes says what
// should be true ("two instances of 7 are ready"), never what to do ("add one"), so that repeating a call after a crash is
// always safe.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Target is a place that runs the releases of one service in one environment.
type Target interface {
	// Caps reports what this target can do. It is constant for the life of the value.
	Caps() Caps
	// Observe reports what really runs and really gets traffic: read from the data plane, not from a memory of wishes.
	Observe(ctx context.Context) (State, error)
	// Stage makes r startable: present, verified, configured. It starts nothing.
	Stage(ctx context.Context, r release.Release) error
	// Hook runs a program of id, [HookBefore] or [HookAfter], and returns when it has ended; a program that fails is a
	// [fail.Unhealthy] with its last lines. One that has run is not run again: its outcome is returned again.
	Hook(ctx context.Context, id release.ID, name string) error
	// Scale returns when instances of id are ready, as many as asked for and no more; what is too many is drained, then
	// stopped. It fails with [fail.Unhealthy] when they do not become ready.
	Scale(ctx context.Context, id release.ID, instances int) error
	// Route returns when the traffic is split by w; an empty w lets requests wait for the next Route.
	Route(ctx context.Context, w Weights) error
}

// Caps are the limits a plan must keep to.
type Caps struct {
	WeightStep      int  `json:"weight_step"`       // smallest change of traffic in percent
	WeightFromScale bool `json:"weight_from_scale"` // traffic follows the numbers of instances; Route only waits
	Surge           bool `json:"surge"`             // old and new may run side by side
}

// Weights are shares of the traffic in percent; they sum to 100, or are empty.
type Weights map[release.ID]int

// State is what is true of a target.
type State struct {
	Releases map[release.ID]Running `json:"releases"`
}

// Running is what is true of one release.
type Running struct {
	Instances int `json:"instances"`
	Ready     int `json:"ready"`
	Weight    int `json:"weight"` // percent
}

// Journal makes each step durable before it is taken, so that another process can go on, and keeps what was decided why.
type Journal interface {
	Step(ctx context.Context, i int) error
	Undo(ctx context.Context, cause error) error
	End(ctx context.Context, o Outcome, cause error) error
	Decide(ctx context.Context, d Decision) error
	// Pause makes the rollout stay as it is until [Journal.Orders] say otherwise.
	Pause(ctx context.Context, why string) error
	// Orders returns what holds now. It is asked often and answers at once.
	Orders() Orders
}

// Outcome is how a rollout ended.
type Outcome string

// The outcomes.
const (
	Done       Outcome = "done"
	Failed     Outcome = "failed"      // before anything changed for clients
	RolledBack Outcome = "rolled-back" // traffic or capacity had changed and was put back
	Stuck      Outcome = "stuck"       // neither forward nor back worked
)

// Progress is where a rollout stands; the zero value is its beginning.
type Progress struct {
	Step    int    // index of the step that was begun
	Undoing bool   // it was already going back
	Cause   string // why
}

// Engine runs plans on a target.
type Engine struct {
	Target  Target
	Gates   []Gate
	Journal Journal
	Events  event.Sink
	// Recovered is how long it took from the decision to go back until the old release had all traffic. Run sets it.
	Recovered time.Duration
	// Limit bounds going back, and finishing after the point of no return. Zero means two minutes.
	Limit time.Duration
}

// Run carries out p for release r from where it stands, and returns nil only if r serves all traffic. On a failure or
// when ctx is done it puts everything back first; the error's kind says how that went ([fail.Unhealthy] or another cause's
// kind when nothing had changed for clients, [fail.RolledBack], [fail.Stuck]).
func (e *Engine) Run(ctx context.Context, p Plan, r release.Release, from Progress) error {
	if from.Undoing {
		return e.undo(ctx, p, from.Step, errors.New(from.Cause))
	}
	for i := from.Step; i < len(p.Steps); i++ {
		err := e.Journal.Step(ctx, i)
		if err == nil {
			e.say(p, i, "step", event.Info, p.Steps[i].String())
			err = e.step(ctx, p, r, i)
		}
		if err == nil && i < p.NoReturn {
			err = context.Cause(ctx)
		}
		switch {
		case err != nil && i < p.NoReturn:
			return e.undo(ctx, p, i, err)
		case err != nil:
			if err := e.finish(ctx, p, r, i); err != nil {
				return e.stuck(ctx, p, err)
			}
		}
	}
	return e.end(ctx, Done, nil)
}

// journalLimit is how long the end of a rollout is tried to be noted: a disk may be full for a moment.
const journalLimit = 10 * time.Second

// end notes the outcome. The data plane is right by now, so all that is left to do about a failure is to try again.
func (e *Engine) end(ctx context.Context, o Outcome, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalLimit)
	defer cancel()
	return retry(ctx, func() error { return e.Journal.End(ctx, o, cause) })
}

// step takes step i, or watches it.
func (e *Engine) step(ctx context.Context, p Plan, r release.Release, i int) error {
	if do := p.Steps[i].Do; do == Watch || do == Verify {
		return e.watch(ctx, p, i)
	}
	return e.take(ctx, r, p.Steps[i])
}

// take makes it so.
func (e *Engine) take(ctx context.Context, r release.Release, s Step) error {
	switch s.Do {
	case Stage:
		return e.Target.Stage(ctx, r)
	case Hook:
		err := e.Target.Hook(ctx, s.Release, s.Hook)
		if s.Hook == HookAfter && err != nil && ctx.Err() == nil {
			e.Events.Send(event.Event{Type: "hook", Level: event.Warn, Release: int(s.Release), Text: "the release serves; " + err.Error()})
			return nil
		}
		return err
	case Scale:
		return e.Target.Scale(ctx, s.Release, s.Instances)
	case Route:
		return e.Target.Route(ctx, s.Weights)
	case Warm:
		return nil // the agent stops what stayed warm when its time is over
	}
	return fmt.Errorf("the plan holds an unknown step %q", s.Do)
}

// finish goes on behind the point of no return: the new release serves, only the old one's end is left. Being told to
// stop comes too late.
func (e *Engine) finish(ctx context.Context, p Plan, r release.Release, i int) error {
	ctx, cancel := e.bounded(ctx)
	defer cancel()
	return retry(ctx, func() error { return e.step(ctx, p, r, i) })
}

// undo puts all traffic and capacity back on the old release. It works when ctx is already done.
func (e *Engine) undo(ctx context.Context, p Plan, at int, cause error) error {
	visible, decided := p.visible(at), time.Now()
	ctx, cancel := e.bounded(ctx)
	defer cancel()
	e.say(p, at, "undo", event.Warn, cause.Error())
	journalErr := e.Journal.Undo(ctx, cause) // a full disk must not keep the old release from its traffic
	if err := retry(ctx, func() error { return e.back(ctx, p, decided) }); err != nil {
		return e.stuck(ctx, p, errors.Join(cause, fmt.Errorf("going back: %w", err)))
	}
	outcome := Failed
	if visible {
		outcome = RolledBack
	}
	if err := e.end(ctx, outcome, cause); err != nil {
		journalErr = errors.Join(journalErr, err)
	}
	return verdict(p, outcome, cause, journalErr)
}

// back makes the old release serve as before. Where both must not run side by side the new one ends first.
func (e *Engine) back(ctx context.Context, p Plan, decided time.Time) error {
	oldUp := Step{Do: Scale, Release: p.Old, Instances: p.OldInstances}
	oldTraffic := Step{Do: Route, Weights: Weights{p.Old: 100}}
	newDown := Step{Do: Scale, Release: p.New}
	steps := []Step{oldUp, oldTraffic, newDown}
	switch {
	case p.Old == 0:
		steps = []Step{{Do: Route}, newDown}
	case p.Exclusive:
		steps = []Step{{Do: Route}, newDown, oldUp, oldTraffic}
	}
	for _, s := range steps {
		if err := e.take(ctx, release.Release{}, s); err != nil {
			return err
		}
		if len(s.Weights) > 0 {
			e.Recovered = time.Since(decided)
		}
	}
	return nil
}

// verdict is the error of a rollout that was put back.
func verdict(p Plan, o Outcome, cause, journalErr error) error {
	f := *fail.As(cause) // its hint and its log lines; the cause's own words stay in Err
	f.Err, f.Place = cause, ""
	if o == RolledBack {
		f.Kind = fail.RolledBack
	} else if f.Kind == fail.Internal && (errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded)) {
		f.Kind = fail.Interrupted
	}
	if journalErr != nil {
		f.Err = errors.Join(cause, fmt.Errorf("journal: %w", journalErr))
	}
	f.Op = fmt.Sprintf("release %d of %s was not put in service; release %d serves as before", p.New, p.Service, p.Old)
	if p.Old == 0 {
		f.Op = fmt.Sprintf("release %d of %s was not put in service", p.New, p.Service)
	}
	return &f
}

func (e *Engine) stuck(ctx context.Context, p Plan, err error) error {
	f := fail.As(err)
	out := &fail.Error{Kind: fail.Stuck, Op: fmt.Sprintf("rollout of %s release %d", p.Service, p.New), Lines: f.Lines, Err: err,
		Hint: fmt.Sprintf("run `fairlead status %s`; then `fairlead up` or `fairlead rollback` goes on from what runs", p.Service)}
	if e := e.end(ctx, Stuck, err); e != nil {
		out.Err = errors.Join(err, fmt.Errorf("journal: %w", e))
	}
	return out
}

func (e *Engine) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := e.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

func (e *Engine) say(p Plan, i int, typ string, l event.Level, text string) {
	e.Events.Send(event.Event{Type: typ, Level: l, Service: p.Service, Release: int(p.New), Step: i + 1, Steps: len(p.Steps), Text: text})
}

// retry calls f until it works or ctx is done; then it returns f's last error.
func retry(ctx context.Context, f func() error) error {
	for d := 100 * time.Millisecond; ; d = min(2*d, 5*time.Second) {
		err := f()
		if err == nil {
			return nil
		}
		if wait.For(ctx, d) != nil {
			return err
		}
	}
}
