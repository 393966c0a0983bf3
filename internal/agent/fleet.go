package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// A machine's part in a rollout over several of them is kept in a file: with it whoever leads the others may die, and the next one finds
// what was staged, whether it began and how it was decided. The machine never decides for the fleet by itself.

// staged is what the file holds. The draft has the values of secrets in it, so only the agent's user reads it, and it goes
// when it was used.
type staged struct {
	Part  api.Part   `json:"part"`
	Draft *api.Draft `json:"draft,omitempty"`
	Move  *api.Move  `json:"move,omitempty"`
}

func (a *Agent) handleFleet(mux *http.ServeMux) {
	rpc.Handle(mux, "GET /v1/fleet", func(r *http.Request) (any, error) {
		return a.seat(r.Context(), r.FormValue("service"), r.FormValue("environment"))
	})
	rpc.Handle(mux, "PUT /v1/fleet", func(r *http.Request) (any, error) {
		s, err := rpc.Decode[api.Staging](r)
		if err != nil {
			return nil, err
		}
		return a.stage(r.Context(), s)
	})
	for path, f := range map[string]func(context.Context, *staged, api.Turn) (int64, error){
		"POST /v1/fleet/begin":  a.beginPart,
		"POST /v1/fleet/lead":   a.lead,
		"POST /v1/fleet/decide": a.decide,
	} {
		rpc.Handle(mux, path, func(r *http.Request) (any, error) { return a.turn(r, f) })
	}
}

// turn calls f for the part that a request is about, one at a time.
func (a *Agent) turn(r *http.Request, f func(context.Context, *staged, api.Turn) (int64, error)) (any, error) {
	t, err := rpc.Decode[api.Turn](r)
	if err != nil {
		return nil, err
	}
	a.fleet.Lock()
	defer a.fleet.Unlock()
	s, err := a.part(t.Service, t.Environment)
	if err != nil {
		return nil, err
	}
	if s == nil || s.Part.ID != t.Fleet {
		return nil, fail.New(fail.NotFound, "", "this machine has no part in rollout %s of %s", t.Fleet, t.Service)
	}
	id, err := f(r.Context(), s, t)
	return api.Started{Rollout: id}, err
}

// part reads what is staged; nil where nothing ever was.
func (a *Agent) part(service, env string) (*staged, error) {
	var s staged
	err := home.ReadJSON(a.dirs.Fleet(service, env), &s)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	return &s, err
}

func (a *Agent) keepPart(s *staged) error {
	return home.WriteJSON(a.dirs.Fleet(s.Part.Service, s.Part.Environment), s, 0o600)
}

func (a *Agent) seat(ctx context.Context, service, env string) (api.Seat, error) {
	var out api.Seat
	s, err := a.part(service, env)
	if err != nil {
		return out, err
	}
	if s != nil {
		out.Part = &s.Part
	}
	if out.Next, err = a.journal.NextRelease(ctx, service, env); err != nil {
		return out, err
	}
	out.Current, err = a.serves(ctx, service, env)
	if err != nil || out.Current == 0 {
		return out, err
	}
	e, err := a.journal.Environment(ctx, service, env)
	if err != nil {
		return out, err
	}
	out.Previous = e.Previous
	return out, nil
}

// serves is the release that does; 0 for none.
func (a *Agent) serves(ctx context.Context, service, env string) (release.ID, error) {
	e, err := a.journal.Environment(ctx, service, env)
	if notFound(err) || err == nil && e.Stopped {
		return 0, nil
	}
	return e.Current, err
}

// free reports a fleet rollout that s would come between, as a [fail.Busy].
func (s *staged) free() error {
	if s == nil || s.Part.Decided != "" {
		return nil
	}
	p := &s.Part
	if time.Now().Before(p.Until) {
		return fail.New(fail.Busy, "begin a rollout of "+p.Service, "a %s over %d hosts is under way since %s, led by %s", p.Kind, hosts(p.Fleet), p.Started.Local().Format(time.DateTime), p.Leader).
			Hinted("wait for it")
	}
	return fail.New(fail.Busy, "begin a rollout of "+p.Service, "a %s over %d hosts by %s of %s is half way, and nobody leads it", p.Kind, hosts(p.Fleet), p.By, p.Started.Local().Format(time.DateTime)).
		Hinted("`fairlead resume --env %s` goes on with it, `fairlead abort --env %s` makes every host go back", p.Environment, p.Environment)
}

func hosts(f api.Fleet) (n int) {
	for _, w := range f.Waves {
		n += len(w)
	}
	return n
}

// stage takes a part and plans it.
func (a *Agent) stage(ctx context.Context, in api.Staging) (api.Planned, error) {
	a.fleet.Lock()
	defer a.fleet.Unlock()
	p := in.Part
	had, err := a.part(p.Service, p.Environment)
	if err != nil {
		return api.Planned{}, err
	}
	if had != nil && had.Part.ID != p.ID {
		if err := had.free(); err != nil {
			return api.Planned{}, err
		}
	}
	s := &staged{Part: p, Draft: in.Draft, Move: in.Move}
	i, err := a.intended(ctx, s)
	if err != nil {
		return api.Planned{}, err
	}
	if a.busy(p.Service, p.Environment) {
		return api.Planned{}, fail.New(fail.Busy, "begin a rollout of "+p.Service, "one is under way on this host").Hinted("wait for it")
	}
	if s.Part.Old, err = a.serves(ctx, p.Service, p.Environment); err != nil {
		return api.Planned{}, err
	}
	s.Part.To, s.Part.Rollout, s.Part.Decided = i.release.ID, 0, ""
	s.Part.Staged = time.Now()
	s.Part.Until = s.Part.Staged.Add(api.LeaderFor)
	if err := a.keepPart(s); err != nil {
		return api.Planned{}, err
	}
	return a.planned(i)
}

// intended plans what is staged.
func (a *Agent) intended(ctx context.Context, s *staged) (intent, error) {
	switch {
	case s.Draft != nil && s.Move == nil:
		d := *s.Draft
		d.Release = s.Part.Release
		return a.deploy(ctx, d)
	case s.Move != nil && s.Draft == nil:
		return a.rollback(ctx, *s.Move)
	}
	return intent{}, fail.New(fail.Usage, "stage", "one of draft and move must be there")
}

// beginPart starts the machine's own rollout. An agent that died between that and noting its number finds it in the history.
func (a *Agent) beginPart(ctx context.Context, s *staged, t api.Turn) (int64, error) {
	p := &s.Part
	if p.Decided != "" && p.Decided != t.Decided {
		return 0, fail.New(fail.Busy, "begin a rollout of "+p.Service, "it was decided that every host goes back")
	}
	if p.Rollout != 0 {
		return p.Rollout, nil
	}
	begun, err := a.begun(ctx, p)
	if err != nil {
		return 0, err
	}
	if p.Rollout = begun; begun == 0 {
		if p.Rollout, err = a.begin(ctx, func() (intent, error) { return a.intended(ctx, s) }); err != nil {
			p.Rollout = 0
			return 0, err
		}
	}
	s.Draft = nil // the release has it from here on
	return p.Rollout, a.keepPart(s)
}

// begun is the rollout that was begun for a part; 0 for none.
func (a *Agent) begun(ctx context.Context, p *api.Part) (int64, error) {
	last, err := a.journal.History(ctx, p.Service, p.Environment, 1)
	if err != nil || len(last) == 0 || last[0].Plan.New != p.To || last[0].Started.Before(p.Staged) {
		return 0, err
	}
	return last[0].ID, nil
}

// lead notes who leads.
func (a *Agent) lead(_ context.Context, s *staged, t api.Turn) (int64, error) {
	p := &s.Part
	if p.Leader != t.By && time.Now().Before(p.Until) {
		return 0, fail.New(fail.Busy, "lead the rollout of "+p.Service, "%s does", p.Leader).Hinted("wait for it")
	}
	p.Leader, p.Until = t.By, time.Now()
	if !t.Leaves {
		p.Until = p.Until.Add(api.LeaderFor)
	}
	return p.Rollout, a.keepPart(s)
}

// decide ends a part: with the new release nothing more is to do, with the old one the machine goes back from wherever it is.
func (a *Agent) decide(ctx context.Context, s *staged, t api.Turn) (int64, error) {
	p := &s.Part
	if t.Decided != api.DecidedNew && t.Decided != api.DecidedOld {
		return 0, fail.New(fail.Usage, "decide", "%q is neither %s nor %s", t.Decided, api.DecidedNew, api.DecidedOld)
	}
	p.Decided = t.Decided
	if t.Decided == api.DecidedOld || p.Rollout != 0 {
		s.Draft = nil // otherwise the host still lacks the release, and heals with it
	}
	if err := a.keepPart(s); err != nil || t.Decided == api.DecidedNew {
		return 0, err
	}
	begun := p.Rollout
	if begun == 0 {
		var err error
		if begun, err = a.begun(ctx, p); err != nil || begun == 0 {
			return 0, err
		}
	}
	a.mu.Lock()
	r := a.runs[begun]
	a.mu.Unlock()
	if r != nil && !a.awaitEnding(ctx, r.plan) {
		r.cancel(fail.New(fail.RolledBack, "", "every host of the fleet goes back"))
		return begun, nil
	}
	return a.back(ctx, p, t.By)
}

// back leads from the release of a part, where it serves, to what served before.
func (a *Agent) back(ctx context.Context, p *api.Part, by string) (int64, error) {
	now, err := a.serves(ctx, p.Service, p.Environment)
	if err != nil || now != p.To || now == p.Old {
		return 0, err
	}
	m := api.Move{Service: p.Service, Environment: p.Environment, Release: p.Old, By: by}
	if p.Old == 0 {
		return 0, a.stop(ctx, m)
	}
	return a.begin(ctx, func() (intent, error) {
		i, err := a.rollback(ctx, m)
		i.kind = journal.KindUndo
		return i, err
	})
}

// alone refuses what would come between a fleet rollout and this machine.
func (a *Agent) alone(service, env string) error {
	a.fleet.Lock()
	defer a.fleet.Unlock()
	s, err := a.part(service, env)
	if err != nil {
		return err
	}
	return s.free()
}
