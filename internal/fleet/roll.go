package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Rollout is what shall happen.
type Rollout struct {
	Kind        string // api.FleetDeploy or api.FleetRollback
	Service     string
	Environment string
	Fleet       spec.Fleet
	Release     release.ID // of a rollback; 0: what served before
	// Ready brings a host what it needs before it can plan its part, and Draft is what it is asked for. Both are of deploys only.
	Ready func(context.Context, *Host) error
	Draft func(*Host) api.Draft
}

// answerWait bounds how long a host may take for what takes no time: one that hangs must not hold the others.
const answerWait = 30 * time.Second

// lead is a rollout under way, as who leads it sees it.
type lead struct {
	*Fleet
	fleet api.Fleet
	pause time.Duration
	began time.Time

	mu   sync.Mutex
	ends map[*Host]*HostReceipt
}

// Roll takes the fleet to a release, or, when more hosts fail than may, everything back. Nothing that serves is changed before every
// host has all it needs and has planned its part. When ctx is done, everything goes back, too, and Roll returns when that is done.
//
// The receipt is nil where nothing began. Errors name the hosts: a [fail.Busy] is another rollout, a [fail.RolledBack] says that what
// served before serves again on every host that is reachable, a [fail.Stuck] that it does not.
func (f *Fleet) Roll(ctx context.Context, r Rollout) (*Receipt, error) {
	seats, errs := f.seats(ctx, r.Service, r.Environment)
	missing := 0
	for i, err := range errs {
		switch {
		case err == nil:
		case !lost(err):
			return nil, on(f.Hosts[i], err)
		default:
			missing++
			f.told(f.Hosts[i], event.Warn, "%v", err)
		}
	}
	if missing > r.Fleet.Failures {
		return nil, f.unreachable(errs, missing)
	}
	l := &lead{Fleet: f, pause: r.Fleet.Pause.D(), began: time.Now(), ends: map[*Host]*HostReceipt{},
		fleet: api.Fleet{ID: rand.Text(), Kind: r.Kind, Service: r.Service, Environment: r.Environment, Failures: r.Fleet.Failures,
			By: f.By, Started: time.Now(), Release: r.Release, Waves: Waves(f.names(), r.Fleet)}}
	switch {
	case r.Kind == api.FleetDeploy:
		for _, s := range seats {
			l.fleet.Release = max(l.fleet.Release, s.Next)
		}
	case r.Release == 0:
		var err error
		if l.fleet.Release, err = f.before(seats, errs, r.Service); err != nil {
			return nil, err
		}
	}
	if r.Ready != nil {
		if err := f.allOrLost(f.each(f.Hosts, func(h *Host) error { return r.Ready(ctx, h) }), r.Fleet.Failures); err != nil {
			return nil, err
		}
	}
	if err := l.stage(ctx, r); err != nil {
		return nil, err
	}
	return l.run(ctx)
}

// before is the release that served before on every host that answers.
func (f *Fleet) before(seats []api.Seat, errs []error, service string) (release.ID, error) {
	var id release.ID
	var lines []string
	same := true
	for i, s := range seats {
		if errs[i] != nil {
			continue
		}
		same = same && (id == 0 || s.Previous == id)
		id = s.Previous
		lines = append(lines, fmt.Sprintf("%s: release %d serves, before it %d did", f.Hosts[i].Name, s.Current, s.Previous))
	}
	switch {
	case !same:
		return 0, fail.New(fail.Usage, "", "not the same release served before on every host").WithLines(lines).Hinted("name the one you mean: `fairlead rollback RELEASE`")
	case id == 0:
		return 0, fail.New(fail.Usage, "", "%s has no release before this one", service)
	}
	return id, nil
}

func (f *Fleet) names() (out []string) {
	for _, h := range f.Hosts {
		out = append(out, h.Name)
	}
	return out
}

// allOrLost is nil where every host did what was asked, but for as many as may fail that were lost.
func (f *Fleet) allOrLost(errs []error, failures int) error {
	missing := 0
	for i, err := range errs {
		if err != nil && !lost(err) {
			return on(f.Hosts[i], err)
		}
		if err != nil {
			missing++
		}
	}
	if missing > failures {
		return f.unreachable(errs, missing)
	}
	return nil
}

func (f *Fleet) unreachable(errs []error, n int) error {
	var names, lines []string
	for i, err := range errs {
		if err != nil {
			names = append(names, f.Hosts[i].Name)
			lines = append(lines, f.Hosts[i].Name+": "+err.Error())
			if hint := fail.As(err).Hint; hint != "" {
				lines = append(lines, "  "+hint)
			}
		}
	}
	return fail.New(fail.Unavailable, "", "%d of %d hosts cannot be reached (%s), and nothing was changed", n, len(f.Hosts), strings.Join(names, ", ")).
		WithLines(lines).Hinted("mend them, leave them out of target.ssh, or say how many may be missing: release.fleet.max_failures")
}

// stage gives every host its part. Where one refuses, those that have it are told that it is over.
func (l *lead) stage(ctx context.Context, r Rollout) error {
	errs := l.each(l.Hosts, func(h *Host) error {
		ctx, cancel := context.WithTimeout(ctx, answerWait)
		defer cancel()
		s := api.Staging{Part: api.Part{Fleet: l.fleet, Host: h.Name, Leader: l.By}}
		if r.Kind == api.FleetDeploy {
			d := r.Draft(h)
			s.Draft = &d
		} else {
			s.Move = &api.Move{Service: r.Service, Environment: r.Environment, Release: l.fleet.Release, By: l.By}
		}
		_, err := h.Client.Stage(ctx, s)
		return err
	})
	err := l.allOrLost(errs, l.fleet.Failures)
	if err == nil {
		l.announce()
		return nil
	}
	for i, e := range errs {
		if e == nil {
			l.decide(context.WithoutCancel(ctx), l.Hosts[i], api.DecidedOld) // nothing began: its answer says nothing
		}
	}
	return err
}

func (l *lead) announce() {
	var waves []string
	for _, w := range l.fleet.Waves {
		waves = append(waves, strings.Join(w, " "))
	}
	l.Events.Send(event.Event{Type: "plan", Service: l.fleet.Service, Release: int(l.fleet.Release), Steps: len(waves),
		Text: fmt.Sprintf("%s: release %d, on %d hosts in %d waves: %s", l.fleet.Service, l.fleet.Release, len(l.Hosts), len(waves), strings.Join(waves, " | ")), Data: l.fleet})
}

// run goes through the waves, from wherever the hosts are.
func (l *lead) run(ctx context.Context) (*Receipt, error) {
	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l.stayLeader(leading, stop)
	failed := 0
	var causes []error
	for n, wave := range l.fleet.Waves {
		hosts := l.named(wave)
		for i, err := range l.each(hosts, func(h *Host) error { return l.part(leading, h) }) {
			if fail.KindOf(err) == fail.Paused {
				stop(nil)
				l.leave(ctx)
				return l.receipt("paused"), on(hosts[i], err)
			}
			if err != nil {
				failed++
				causes = append(causes, on(hosts[i], err))
				l.ended(hosts[i], nil, err)
			}
		}
		if leading.Err() == nil && failed <= l.fleet.Failures && n < len(l.fleet.Waves)-1 {
			wait.For(leading, l.pause) //nolint:errcheck // its end is looked at next
		}
		if err := context.Cause(leading); err != nil {
			if fail.KindOf(err) == fail.Busy {
				return l.receipt("left"), err // to who leads now
			}
			return l.back(ctx, fail.New(fail.Interrupted, "", "it was interrupted by its user"))
		}
		if failed > l.fleet.Failures {
			return l.back(ctx, errors.Join(causes...))
		}
	}
	for i, err := range l.each(l.Hosts, func(h *Host) error { _, err := l.decide(leading, h, api.DecidedNew); return err }) {
		if err != nil {
			l.told(l.Hosts[i], event.Warn, "does not know yet that the fleet is done: `fairlead heal --env %s` tells it (%v)", l.fleet.Environment, err)
		}
	}
	return l.receipt("done"), nil
}

// part has a host do its part and follows it to the end.
func (l *lead) part(ctx context.Context, h *Host) error {
	asking, cancel := context.WithTimeout(ctx, answerWait)
	s, err := h.Client.Begin(asking, l.turn(""))
	cancel()
	if err != nil {
		return err
	}
	return l.follow(ctx, h, s.Rollout)
}

// follow shows a host's rollout until its end.
func (l *lead) follow(ctx context.Context, h *Host, id int64) error {
	following, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	end, err := h.Client.Follow(following, id, func(e event.Event) {
		text := e.Text
		e.Text = h.Name + ": " + text
		l.Events.Send(e)
		if l.LeavePaused && (e.Type == event.Paused || e.Type == event.Waits) {
			leave(fail.New(fail.Paused, "", "release %d of %s is half way: %s", e.Release, e.Service, text).
				Hinted("`fairlead promote %s --host %s` says how it goes on there, then `fairlead resume --env %s`; `fairlead abort --env %s` makes every host go back",
					e.Service, h.Name, l.fleet.Environment, l.fleet.Environment))
		}
	})
	if err != nil {
		return err
	}
	if end.Error != nil {
		l.ended(h, end.Receipt, end.Error)
		return end.Error
	}
	l.ended(h, end.Receipt, nil)
	return nil
}

func (l *lead) turn(decided string) api.Turn {
	return api.Turn{Service: l.fleet.Service, Environment: l.fleet.Environment, Fleet: l.fleet.ID, By: l.By, Decided: decided}
}

func (l *lead) decide(ctx context.Context, h *Host, decided string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	s, err := h.Client.Decide(ctx, l.turn(decided))
	return s.Rollout, err
}

// back makes every host go back to what served before, and says why.
func (l *lead) back(ctx context.Context, cause error) (*Receipt, error) {
	ctx = context.WithoutCancel(ctx)
	l.Events.Send(event.Event{Type: "undo", Level: event.Warn, Service: l.fleet.Service, Text: "every host goes back: " + cause.Error()})
	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l.stayLeader(leading, stop)
	var stuck, gone []string
	for i, err := range l.each(l.Hosts, func(h *Host) error { return l.backOn(ctx, h) }) {
		switch {
		case err == nil:
		case lost(err):
			gone = append(gone, l.Hosts[i].Name)
		default:
			stuck = append(stuck, l.Hosts[i].Name+": "+err.Error())
		}
	}
	r := l.receipt("rolled back")
	e := *fail.As(cause)
	e.Kind = fail.RolledBack
	if k := fail.KindOf(cause); k == fail.Interrupted {
		e.Kind = k
	}
	if len(gone) > 0 {
		e.Hint = fmt.Sprintf("%s could not be told: `fairlead heal --env %s` does when it answers again", strings.Join(gone, ", "), l.fleet.Environment)
	}
	if len(stuck) > 0 {
		e.Kind = fail.Stuck
		e.Lines = append(e.Lines, stuck...)
		e.Hint = fmt.Sprintf("look at the hosts, then run `fairlead abort --env %s` again", l.fleet.Environment)
	}
	return r, &e
}

// turns bounds how often a host is told to go back: once for a rollout under way, once for one that was past its last point of return, and
// once to hear that nothing is left to do.
const turns = 4

// backOn makes one host go back. That a rollout which is cancelled ends with an error is what was asked for; one from which there was only
// forward ends well, and then the way back begins.
func (l *lead) backOn(ctx context.Context, h *Host) error {
	for range turns {
		id, err := l.decide(ctx, h, api.DecidedOld)
		if err != nil || id == 0 {
			return err
		}
		err = l.follow(ctx, h, id)
		if k := fail.KindOf(err); err != nil && k != fail.RolledBack && k != fail.Unhealthy && k != fail.Interrupted {
			return err
		}
	}
	return fail.New(fail.Stuck, "", "it was told %d times to go back, and does not", turns)
}

// leave lets somebody else lead at once.
func (l *lead) leave(ctx context.Context) {
	l.each(l.Hosts, func(h *Host) error {
		ctx, cancel := context.WithTimeout(ctx, answerWait)
		defer cancel()
		t := l.turn("")
		t.Leaves = true
		return h.Client.Lead(ctx, t)
	})
}

// stayLeader tells the hosts that their leader is alive, until ctx is done. Somebody else who leads ends it with his error.
func (l *lead) stayLeader(ctx context.Context, stop context.CancelCauseFunc) {
	for _, h := range l.Hosts {
		if h.Err != nil {
			continue
		}
		go func() {
			for {
				asking, cancel := context.WithTimeout(ctx, api.LeaderFor/2)
				err := h.Client.Lead(asking, l.turn(""))
				cancel()
				if fail.KindOf(err) == fail.Busy {
					stop(err)
				}
				if wait.For(ctx, api.LeaderFor/4) != nil {
					return
				}
			}
		}()
	}
}
