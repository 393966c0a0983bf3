package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) upCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "up [FOLDER]",
		Short: "Build the service in a folder and put it in service",
		Long: "up checks the source and the machine, builds a static program, starts it beside what runs, moves the traffic once it is\n" +
			"ready, watches it, and prints a receipt of what the clients saw. When anything fails, the old release serves as before.\n" +
			"The first up on a machine starts fairlead's three processes; they outlive the terminal.\n" + exitCodes,
		Example: "  fairlead up\n  fairlead up examples/hello\n  fairlead up --env staging --json\n  fairlead up --env production   # on the hosts in its target.ssh",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(folder(args))
			if err != nil {
				return err
			}
			if !slices.Contains([]string{deploy.DeltaAuto, deploy.DeltaAlways, deploy.DeltaNever}, a.delta) {
				return fail.New(fail.Usage, "--delta", "%q is not one of auto, always, never", a.delta)
			}
			if a.host != "" {
				return fail.New(fail.Usage, "--host", "a deploy goes where the spec says").Hinted("write `target: {ssh: [%s]}` into fairlead.yaml, there or in an environment", a.host)
			}
			r, err := d.Up(cmd.Context())
			return a.receipts(r, err)
		},
	}
	c.Flags().StringVar(&a.strategy, "strategy", "", "in place of release.strategy: recreate, rolling, blue-green or canary")
	c.Flags().StringVar(&a.delta, "delta", "auto", "send only what changed to the machine: auto, always or never")
	c.Flags().BoolVar(&a.wait, "wait", false, "stay when a person must say how it goes on; without it, that ends with code 4 where there is no terminal")
	return a.withRegistry(a.withEnv(c))
}

func folder(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return "."
}

// receipts is receipt for a command that may be about a fleet.
func (a *app) receipts(r deploy.Receipt, err error) error {
	if r.Fleet != nil {
		return a.fleetReceipt(r.Fleet, err)
	}
	return a.receipt(r.Machine, err)
}

// receipt prints what a rollout cost and passes its error on.
func (a *app) receipt(r *api.Receipt, err error) error {
	a.ui.end(err)
	if r == nil {
		return err
	}
	if err != nil && !a.json {
		writeReceipt(a.Stderr, r, newStyles(isTerminal(a.Stderr), a.Getenv))
		return err
	}
	if e := a.print(map[string]any{"type": "receipt", "receipt": r}, func(w io.Writer) {
		writeReceipt(w, r, newStyles(isTerminal(w), a.Getenv))
	}); err == nil {
		err = e
	}
	return err
}

func writeReceipt(w io.Writer, r *api.Receipt, s styles) {
	head := fmt.Sprintf("%s: release %d serves", r.Service, r.To)
	if r.From != 0 {
		head += fmt.Sprintf(" (before: %d)", r.From)
	}
	if r.Outcome != "done" {
		head = fmt.Sprintf("%s: %s", r.Service, r.Outcome)
	}
	fmt.Fprintf(w, "%s, %s\n", s.bold(head), short(r.Took))
	fmt.Fprintf(w, "  requests  %d served meanwhile, %s, longest gap %s\n", r.Requests-r.Failed, failedText(r.Failed, r.Undelivered, s), short(r.Gap))
	if r.Recovered > 0 {
		fmt.Fprintf(w, "  recovered release %d had all traffic %s after the decision\n", r.From, short(r.Recovered))
	}
	for _, l := range []struct {
		name string
		l    api.Latency
	}{{"before", r.Before}, {"after", r.After}} {
		if l.l.Requests > 0 {
			fmt.Fprintf(w, "  %-9s p50 %s, p95 %s, p99 %s of %d requests\n", l.name, short(l.l.P50), short(l.l.P95), short(l.l.P99), l.l.Requests)
		}
	}
	if r.Outcome == "done" {
		fmt.Fprintf(w, "  %s\n", s.bold(r.URL))
	}
}

func failedText(failed, undelivered uint64, s styles) string {
	if failed == 0 {
		return s.good("0 failed")
	}
	text := s.bad(fmt.Sprintf("%d failed", failed))
	if undelivered > 0 {
		text += fmt.Sprintf(" (%d of them not answered by any instance)", undelivered)
	}
	return text
}

// short writes a duration with three digits at most.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "0 ms"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2g ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
