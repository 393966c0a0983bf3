package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
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

// found makes a leader of the newest rollout that the hosts know, and says how it ended; nil where there was none.
func (f *Fleet) found(ctx context.Context, service, env string) (l *lead, parts []*api.Part, err error) {
	seats, errs := f.seats(ctx, service, env)
	if !slices.Contains(errs, nil) {
		return nil, nil, f.unreachable(errs, len(errs))
	}
	newest, parts := last(seats)
	if newest == nil {
		return nil, nil, nil
	}
	for i, err := range errs {
		if err != nil {
			f.told(f.Hosts[i], event.Warn, "%v", err)
			f.Hosts[i].Err = err
		}
	}
	return &lead{Fleet: f, fleet: newest.Fleet, began: time.Now(), ends: map[*Host]*HostReceipt{}}, parts, nil
}

// Resume goes on with the rollout that nobody leads any more; with back, every host goes back instead. A [fail.NotFound] says that there
// is none, a [fail.Busy] that somebody leads it.
func (f *Fleet) Resume(ctx context.Context, service, env string, back bool) (*Receipt, error) {
	l, parts, err := f.found(ctx, service, env)
	if err != nil {
		return nil, err
	}
	if l == nil || decided(parts) != "" {
		return nil, fail.New(fail.NotFound, "", "no rollout of %s over these hosts is half way", service).Hinted("`fairlead status --env %s` shows what serves", env)
	}
	for i, err := range f.each(f.Hosts, func(h *Host) error { return h.Client.Lead(ctx, l.turn("")) }) {
		if k := fail.KindOf(err); k == fail.Busy {
			return nil, on(f.Hosts[i], err)
		}
	}
	if back {
		return l.back(ctx, fail.New(fail.RolledBack, "", "%s said so", f.By))
	}
	l.announce()
	return l.run(ctx)
}

// Heal makes hosts that were lost in the last rollout what the others are: it tells them how it was decided, and those that have what they need do
// their part now. A host that has no part in it needs a deploy.
func (f *Fleet) Heal(ctx context.Context, service, env string) (*Receipt, error) {
	l, parts, err := f.found(ctx, service, env)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, fail.New(fail.NotFound, "", "there was no rollout of %s over these hosts", service).Hinted("deploy it: `fairlead up --env %s`", env)
	}
	end := decided(parts)
	if end == "" {
		return nil, fail.New(fail.Usage, "", "the rollout of %s was not decided: it is half way", service).Hinted("`fairlead resume --env %s` goes on with it", env)
	}
	var lines []string
	for i, err := range f.each(f.Hosts, func(h *Host) error { return l.heal(ctx, h, parts[slices.Index(f.Hosts, h)], end) }) {
		if err != nil {
			l.ended(f.Hosts[i], nil, err)
			lines = append(lines, fmt.Sprintf("%s: %v", f.Hosts[i].Name, err))
		}
	}
	if len(lines) > 0 {
		return l.receipt("not healed"), fail.New(fail.Unavailable, "", "%d of %d hosts are not what the others are", len(lines), len(f.Hosts)).WithLines(lines).
			Hinted("run it again when they answer; `fairlead up --env %s` gives them all the same release", env)
	}
	return l.receipt("done"), nil
}

func (l *lead) heal(ctx context.Context, h *Host, p *api.Part, end string) error {
	if p == nil {
		return fail.New(fail.Unavailable, "", "it has no part in the last rollout").Hinted("`fairlead up --env %s`", l.fleet.Environment)
	}
	if p.Decided == end && (end == api.DecidedOld || p.Rollout != 0) {
		return nil
	}
	if end == api.DecidedOld {
		return l.backOn(ctx, h)
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
