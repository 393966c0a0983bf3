package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) drillCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse what must work when something is wrong",
		Long: "drill does on purpose what nobody wants to do for the first time at night, within bounds that it states first. It always puts\n" +
			"everything back, also when it is killed. What it measured is kept in the history, and a gate can ask for it:\n" +
			"`{check: \"drill(rollback) <= 30d\"}`.\n" + exitCodes,
		Example: "  fairlead drill rollback\n  fairlead drill rollback shop --share 20 --for 30s --yes",
	}
	c.AddCommand(a.drillRollbackCmd())
	return c
}

func (a *app) drillRollbackCmd() *cobra.Command {
	d := api.Drill{What: api.DrillRollback}
	c := &cobra.Command{
		Use:   "rollback [SERVICE]",
		Short: "Give a second run of what serves a share of the traffic, then go back",
		Long: "drill rollback starts a second run of the release that serves, gives it a share of the traffic, decides that it is bad, and goes\n" +
			"back as any rollout does. It measures how long the way back takes and what the clients see. It has worked when no request failed.\n" + exitCodes,
		Example: "  fairlead drill rollback --yes\n  fairlead drill rollback shop --share 20 --for 30s --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(args)
			if err != nil {
				return err
			}
			d.Move = m
			if err := a.confirm(fmt.Sprintf("A second run of what serves %s will get %d %% of its traffic for %s; then everything goes back. Go on?", m.Service, d.Share, d.For)); err != nil {
				return err
			}
			s, err := c.Drill(cmd.Context(), d)
			if err != nil {
				return err
			}
			end, err := c.Follow(cmd.Context(), s.Rollout, a.ui.event)
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.proof(end)
		},
	}
	c.Flags().IntVar(&d.Share, "share", 50, "how much of the traffic takes part, in percent")
	c.Flags().DurationVar(&d.For, "for", 5*time.Second, "how long")
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return a.withEnv(c)
}

// proof prints what a drill has shown. That the rollout was rolled back is what it is for.
func (a *app) proof(end api.End) error {
	r := end.Receipt
	if r == nil || end.Outcome != string(fail.RolledBack) {
		if end.Error != nil {
			return end.Error
		}
		return fail.New(fail.Unhealthy, "drill", "it ended as %q: nothing was rehearsed", end.Outcome)
	}
	if r.Failed > 0 {
		return fail.New(fail.Unhealthy, "drill", "%d of %d requests failed on the way back", r.Failed, r.Requests).Hinted("run `fairlead history %s %d`", r.Service, r.To)
	}
	return a.print(map[string]any{"type": "drill", "receipt": r}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: release %d had all traffic again %s after the decision; %d requests meanwhile, 0 failed\n", r.Service, r.From, short(r.Recovered), r.Requests)
	})
}
