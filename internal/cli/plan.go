package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

func (a *app) planCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan [FOLDER]",
		Short: "Say what up would do, step by step, and do nothing",
		Long: "plan checks and builds as up does and asks the machine which steps a rollout would have. Nothing that serves is changed;\n" +
			"fairlead's own processes are started when they do not run.\n" +
			exitCodes,
		Example: "  fairlead plan\n  fairlead plan --env staging --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(folder(args))
			if err != nil {
				return err
			}
			p, err := d.Plan(cmd.Context())
			a.ui.end(err)
			if err != nil {
				return err
			}
			if p.Fleet != nil {
				return a.print(p.Fleet, func(w io.Writer) { writeFleetPlan(w, p.Fleet) })
			}
			return a.print(p.Machine, func(w io.Writer) { writePlan(w, p.Machine, ", at "+p.URL) })
		},
	}
	c.Flags().StringVar(&a.strategy, "strategy", "", "in place of release.strategy: recreate, rolling, blue-green or canary")
	return a.withEnv(c)
}

func writePlan(w io.Writer, p rollout.Plan, where string) {
	from := ""
	if p.Old != 0 {
		from = fmt.Sprintf(" from release %d", p.Old)
	}
	fmt.Fprintf(w, "%s (%s), %s%s to release %d%s\n", p.Service, p.Environment, p.Strategy, from, p.New, where)
	for i, s := range p.Steps {
		note := ""
		if i == p.NoReturn {
			note = "   (from here on there is only forward)"
		}
		fmt.Fprintf(w, "%3d. %s%s\n", i+1, s, note)
	}
}

// writeFleetPlan writes each host's steps, wave by wave; those of several hosts that are the same stand there once.
func writeFleetPlan(w io.Writer, p *fleet.Plan) {
	fmt.Fprintf(w, "%s (%s), release %d, on %d hosts in %d waves\n", p.Service, p.Environment, p.Release, len(p.Hosts), len(p.Waves))
	said := ""
	for n, wave := range p.Waves {
		for _, h := range p.Hosts {
			if !slices.Contains(wave, h.Host) {
				continue
			}
			var b strings.Builder
			switch {
			case h.Error != nil:
				fmt.Fprintf(&b, "cannot say: %s\n", printable(h.Error.Error()))
			case h.Bare:
				b.WriteString("gets fairlead first\n")
			default:
				writePlan(&b, *h.Plan, "")
			}
			text := b.String()
			if text == said {
				text = "the same\n"
			} else {
				said = text
			}
			fmt.Fprintf(w, "wave %d, %s: %s", n+1, h.Host, text)
		}
	}
}
