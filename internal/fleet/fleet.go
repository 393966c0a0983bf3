// Package fleet takes a service over several machines: in waves, under one lease, to the new release on all of them or to what served
// before on all of them. Each machine's own agent does its part and keeps how far the whole got, so that whoever leads may die at any
// instant and the next one goes on from what the machines know. What it does on a machine it has the
// machine's agent do; over SSH it brings the agent there and talks to it.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Host is one machine.
type Host struct {
	Name   string
	Client *api.Client
	Err    error // why it cannot be reached; Client may be nil then
	Facts  Facts // after Look

	link *link // nil where Client needs none
}

// Fleet is the machines of an environment.
type Fleet struct {
	Hosts  []*Host
	By     string // who leads: user@host, pid
	Events event.Sink

	// LeavePaused ends Roll and Resume with a [fail.Paused] when a host waits for a person. Everything stays as it is.
	LeavePaused bool
}

// each calls f for every host at once and returns what each came to, in their order. A host that cannot be reached has its own error.
func (f *Fleet) each(hosts []*Host, do func(*Host) error) []error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			if errs[i] = h.Err; h.Err == nil {
				errs[i] = do(h)
			}
		})
	}
	wg.Wait()
	return errs
}

// named returns the hosts of these names. A name that is no host's any more is left out.
func (f *Fleet) named(names []string) (out []*Host) {
	for _, n := range names {
		for _, h := range f.Hosts {
			if h.Name == n {
				out = append(out, h)
			}
		}
	}
	return out
}

// told sends an event about a host.
func (f *Fleet) told(h *Host, level event.Level, format string, args ...any) {
	f.Events.Send(event.Event{Type: "host", Level: level, Text: h.Name + ": " + fmt.Sprintf(format, args...), Data: map[string]any{"host": h.Name}})
}

// on names the host in an error that a person reads.
func on(h *Host, err error) error {
	if err == nil {
		return nil
	}
	e := *fail.As(err)
	e.Err = fmt.Errorf("%s: %w", h.Name, errors.New(e.Error()))
	e.Op, e.Place = "", ""
	return &e
}

// lost reports whether a host does not answer, which says nothing about how its part goes on.
func lost(err error) bool { return fail.KindOf(err) == fail.Unavailable }

// seats asks every host what it knows. The answers are in the hosts' order; of one that does not answer it is the zero value.
func (f *Fleet) seats(ctx context.Context, service, env string) ([]api.Seat, []error) {
	seats := make([]api.Seat, len(f.Hosts))
	at := map[*Host]int{}
	for i, h := range f.Hosts {
		at[h] = i
	}
	errs := f.each(f.Hosts, func(h *Host) (err error) {
		seats[at[h]], err = h.Client.Seat(ctx, service, env)
		return err
	})
	return seats, errs
}
