package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
)

// last is the newest rollout that a host has a part in, with the part of each that has one in it.
func last(seats []api.Seat) (newest *api.Part, parts []*api.Part) {
	for _, s := range seats {
		if s.Part != nil && (newest == nil || s.Part.Started.After(newest.Started)) {
			newest = s.Part
		}
	}
	for _, s := range seats {
		if s.Part != nil && newest != nil && s.Part.ID == newest.ID {
			parts = append(parts, s.Part)
		} else {
			parts = append(parts, nil)
		}
	}
	return newest, parts
}

// decided is what any of the hosts knows of the end.
func decided(parts []*api.Part) string {
	for _, p := range parts {
		if p != nil && p.Decided != "" {
			return p.Decided
		}
	}
	return ""
}

// known is what the hosts know of the newest rollout. The parts and seats are in the hosts' order; a part is nil where a host has none.
type known struct {
	*lead
	parts []*api.Part
	seats []api.Seat
}

// found makes a leader of the newest rollout that the hosts know. A [fail.NotFound] says that there was none.
func (f *Fleet) found(ctx context.Context, service, env string) (k known, err error) {
	seats, errs := f.seats(ctx, service, env)
	if !slices.Contains(errs, nil) {
		return k, f.unreachable(errs, len(errs))
	}
	newest, parts := last(seats)
	if newest == nil {
		return k, fail.New(fail.NotFound, "", "there was no rollout of %s over these hosts", service).Hinted("deploy it: `fairlead up --env %s`", env)
	}
	for i, err := range errs {
		if err != nil {
			f.told(f.Hosts[i], event.Warn, "%v", err)
			f.Hosts[i].Err = err
		}
	}
	return known{&lead{Fleet: f, fleet: newest.Fleet, began: time.Now(), ends: map[*Host]*HostReceipt{}}, parts, seats}, nil
}

// Resume goes on with the rollout that nobody leads any more; with back, every host goes back instead. A [fail.NotFound] says that there
// is none, a [fail.Busy] that somebody leads it.
func (f *Fleet) Resume(ctx context.Context, service, env string, back bool) (*Receipt, error) {
	k, err := f.found(ctx, service, env)
	if err != nil {
		return nil, err
	}
	if decided(k.parts) != "" {
		return nil, fail.New(fail.NotFound, "", "no rollout of %s over these hosts is half way", service).
			Hinted("`fairlead status --env %s` shows what serves, and `fairlead heal --env %s` tells hosts that were lost how it was decided", env, env)
	}
	for i, err := range f.each(f.Hosts, func(h *Host) error { return h.Client.Lead(ctx, k.turn("")) }) {
		if fail.KindOf(err) == fail.Busy {
			return nil, on(f.Hosts[i], err)
		}
	}
	if back {
		return k.back(ctx, fail.New(fail.RolledBack, "", "%s said so", f.By))
	}
	k.announce()
	return k.run(ctx)
}

// Heal makes hosts that were lost in the last rollout what the others are: it tells them how it was decided, and those that have what they need do
// their part now. A host that has no part in it, or failed in it, needs a deploy.
func (f *Fleet) Heal(ctx context.Context, service, env string) (*Receipt, error) {
	k, err := f.found(ctx, service, env)
	if err != nil {
		return nil, err
	}
	end := decided(k.parts)
	if end == "" {
		return nil, fail.New(fail.Usage, "", "the rollout of %s was not decided: it is half way", service).Hinted("`fairlead resume --env %s` goes on with it", env)
	}
	var lines []string
	for i, err := range f.each(f.Hosts, func(h *Host) error {
		n := slices.Index(f.Hosts, h)
		return k.heal(ctx, h, k.parts[n], k.seats[n].Current, end)
	}) {
		if err != nil {
			k.ended(f.Hosts[i], nil, err)
			lines = append(lines, fmt.Sprintf("%s: %v", f.Hosts[i].Name, err))
		}
	}
	if len(lines) > 0 {
		return k.receipt("not healed"), fail.New(fail.Unavailable, "", "%d of %d hosts are not what the others are", len(lines), len(f.Hosts)).WithLines(lines).
			Hinted("run it again when they answer; `fairlead up --env %s` gives them all the same release", env)
	}
	return k.receipt("done"), nil
}

// heal has a host that serves a release do what was decided in the end.
func (l *lead) heal(ctx context.Context, h *Host, p *api.Part, serves release.ID, end string) error {
	wanted := release.ID(0)
	if p != nil {
		if wanted = p.To; end == api.DecidedOld {
			wanted = p.Old
		}
	}
	switch {
	case p == nil:
		return fail.New(fail.Unavailable, "", "it has no part in the last rollout").Hinted("`fairlead up --env %s`", l.fleet.Environment)
	case p.Decided == end && serves == wanted:
		l.ended(h, nil, nil)
		return nil
	case end == api.DecidedOld:
		return l.backOn(ctx, h)
	case p.Rollout != 0 && p.Decided == end:
		return fail.New(fail.Unavailable, "", "release %d failed there, and release %d serves", p.To, serves).Hinted("`fairlead up --env %s`", l.fleet.Environment)
	}
	if _, err := l.decide(ctx, h, end); err != nil {
		return err
	}
	s, err := h.Client.Begin(ctx, l.turn(end))
	if err != nil {
		return err
	}
	return l.follow(ctx, h, s.Rollout)
}
