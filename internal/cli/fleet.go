package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// elsewhere is the spec in this folder where its environment is other machines and --host names none of them; nil otherwise.
func (a *app) elsewhere(service string) *spec.Spec {
	if a.host != "" {
		return nil
	}
	s, err := spec.Load(".", a.env)
	if err != nil || len(s.Target.SSH) == 0 || service != "" && s.Service != service {
		return nil
	}
	return s
}

func (a *app) healCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:   "heal",
		Short: "Make hosts that were lost in a rollout what the others are",
		Long: "heal tells hosts that did not answer at the end of the last rollout over several machines how it was decided: they go to its release, or\n" +
			"back to what they served before. A host that was not there at its beginning needs `up`.\n" + exitCodes,
		Example: "  fairlead heal --env staging",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.overFleet(cmd.Context(), func(ctx context.Context, f *fleet.Fleet, s *spec.Spec) (*fleet.Receipt, error) {
				return f.Heal(ctx, s.Service, s.Environment)
			})
		},
	})
}

// overFleet calls f with the machines of the environment and prints what it cost.
func (a *app) overFleet(ctx context.Context, do func(context.Context, *fleet.Fleet, *spec.Spec) (*fleet.Receipt, error)) error {
	d, err := a.deploy(".")
	if err != nil {
		return err
	}
	f, s, err := d.Fleet(ctx)
	if err != nil {
		return err
	}
	if f == nil {
		return fail.New(fail.Usage, "", "the target of environment %s is this machine", a.environment()).Hinted("this is about environments with `target: {ssh: [...]}`")
	}
	defer f.Close()
	r, err := do(ctx, f, s)
	return a.fleetReceipt(r, err)
}

// resumeFleet goes on with what nobody leads any more, or makes all hosts go back.
func (a *app) resumeFleet(ctx context.Context, back bool) error {
	return a.overFleet(ctx, func(ctx context.Context, f *fleet.Fleet, s *spec.Spec) (*fleet.Receipt, error) {
		return f.Resume(ctx, s.Service, s.Environment, back)
	})
}

// fleetReceipt prints what a rollout over several machines cost and passes its error on.
func (a *app) fleetReceipt(r *fleet.Receipt, err error) error {
	a.ui.end(err)
	if r == nil {
		return err
	}
	if err != nil && !a.json {
		writeFleetReceipt(a.Stderr, r, newStyles(isTerminal(a.Stderr), a.Getenv))
		return err
	}
	if e := a.print(map[string]any{"type": "receipt", "fleet": r}, func(w io.Writer) {
		writeFleetReceipt(w, r, newStyles(isTerminal(w), a.Getenv))
	}); err == nil {
		err = e
	}
	return err
}

func writeFleetReceipt(w io.Writer, r *fleet.Receipt, s styles) {
	head := fmt.Sprintf("%s: release %d serves on %d hosts", r.Service, r.To, len(r.Hosts))
	if r.Outcome != "done" {
		head = fmt.Sprintf("%s: %s", r.Service, r.Outcome)
	}
	fmt.Fprintf(w, "%s, %s\n", s.bold(head), short(r.Took))
	fmt.Fprintf(w, "  requests  %d served meanwhile, %s, longest gap %s\n", r.Requests-r.Failed, failedText(r.Failed, r.Undelivered, s), short(r.Gap))
	for _, h := range r.Hosts {
		text := s.good(h.Outcome)
		if h.Outcome != "done" {
			text = s.bad(h.Outcome)
		}
		if h.Error != nil {
			text += ": " + printable(h.Error.Error())
		}
		for _, one := range h.Receipts {
			if one.After.Requests > 0 {
				text += fmt.Sprintf("  release %d p50 %s, p99 %s of %d requests", one.To, short(one.After.P50), short(one.After.P99), one.After.Requests)
			}
		}
		fmt.Fprintf(w, "  %s  %s\n", h.Host, text)
	}
}

// fleetStatus shows a service on every host.
func (a *app) fleetStatus(ctx context.Context, s *spec.Spec, service string) error {
	type host struct {
		Host   string      `json:"host"`
		Status *api.Status `json:"status,omitempty"`
		Error  *fail.Error `json:"error,omitempty"`
	}
	f, err := a.hosts(ctx, s.Target.SSH)
	if err != nil {
		return err
	}
	all := make([]host, len(f.Hosts))
	var wg sync.WaitGroup
	for i, h := range f.Hosts {
		wg.Go(func() {
			all[i] = host{Host: h.Name, Error: fail.As(h.Err)}
			if h.Err != nil {
				return
			}
			st, err := h.Client.Status(ctx, service, s.Environment)
			all[i].Status, all[i].Error = &st, fail.As(err)
		})
	}
	wg.Wait()
	if err := a.print(map[string]any{"hosts": all}, func(w io.Writer) {
		st := newStyles(isTerminal(w), a.Getenv)
		for i, h := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintln(w, st.bold(h.Host))
			if h.Error != nil {
				fmt.Fprintln(w, st.bad(printable(h.Error.Error())))
				continue
			}
			writeStatus(w, *h.Status, st)
		}
	}); err != nil {
		return err
	}
	if n := slices.IndexFunc(all, func(h host) bool { return h.Error != nil }); n >= 0 {
		return fail.New(fail.Unavailable, "", "not every host could say how it is")
	}
	return nil
}
