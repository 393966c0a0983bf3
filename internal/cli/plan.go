package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
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
			p, url, err := d.Plan(cmd.Context())
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) {
				from := ""
				if p.Old != 0 {
					from = fmt.Sprintf(" from release %d", p.Old)
				}
				fmt.Fprintf(w, "%s (%s), %s%s to release %d, at %s\n", p.Service, p.Environment, p.Strategy, from, p.New, url)
				for i, s := range p.Steps {
					note := ""
					if i == p.NoReturn {
						note = "   (from here on there is only forward)"
					}
					fmt.Fprintf(w, "%3d. %s%s\n", i+1, s, note)
				}
			})
		},
	}
	c.Flags().StringVar(&a.strategy, "strategy", "", "in place of release.strategy: recreate, rolling, blue-green or canary")
	return a.withEnv(c)
}
