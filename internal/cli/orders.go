package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// order is a command that tells a rollout under way how to go on.
type order struct {
	do, short, long, done string
	needsWhy              bool
}

func (a *app) orderCmds() []*cobra.Command {
	all := []order{
		{do: api.OrderPause, short: "Hold a rollout at its step", done: "stays at this step; `fairlead resume` lets it go on",
			long: "pause keeps the traffic split as it is. The gates are still asked: what they would roll back for is rolled back."},
		{do: api.OrderFreeze, short: "Hold a rollout at its step, whatever the gates say", done: "is frozen; `fairlead resume` lets it go on",
			long: "freeze keeps the traffic split as it is and does not go back by itself either, as during a database migration.\nabort still does."},
		{do: api.OrderResume, short: "Let a paused or frozen rollout go on", done: "goes on",
			long: "resume ends a pause or a freeze. A gate that paused the rollout and still says no pauses it again: promote goes past it.\n" +
				"On the hosts of an environment it goes on with a rollout over them that nobody leads any more."},
		{do: api.OrderPromote, short: "End the step that a rollout is at, whatever the gates say of it", done: "goes to its next step",
			long: "promote goes on to the next step at once; --all goes through all of them. Who and why is in the rollout's record."},
		{do: api.OrderApprove, short: "Say yes to a rollout that waits for approval", done: "is approved", needsWhy: true,
			long: "approve answers the gate `approve` of the step that a rollout is at. Who and why is in the rollout's record."},
	}
	var out []*cobra.Command
	for _, o := range all {
		out = append(out, a.orderCmd(o))
	}
	return out
}

func (a *app) orderCmd(o order) *cobra.Command {
	why, every := "", false
	c := &cobra.Command{
		Use: o.do + " [SERVICE]", Short: o.short, Long: o.long + "\n" + exitCodes,
		Example: fmt.Sprintf("  fairlead %s\n  fairlead %s shop --env staging --reason \"seen by Ann\"", o.do, o.do),
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.needsWhy && why == "" {
				return fail.New(fail.Usage, o.do, "an approval has a reason").Hinted("add --reason \"...\"")
			}
			if o.do == api.OrderResume && a.elsewhere(strings.Join(args, "")) != nil {
				return a.resumeFleet(cmd.Context(), false)
			}
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			id, err := a.underWay(cmd, c, m)
			if err != nil {
				return err
			}
			do := o.do
			if every {
				do = api.OrderPromoteAll
			}
			if err := c.Order(cmd.Context(), id, api.Order{Do: do, By: m.By, Why: why}); err != nil {
				return err
			}
			return a.print(map[string]any{"type": do, "service": m.Service, "rollout": id}, func(w io.Writer) {
				fmt.Fprintf(w, "%s: the rollout %s; `fairlead watch %s` shows it\n", m.Service, o.done, m.Service)
			})
		},
	}
	c.Flags().StringVar(&why, "reason", "", "why; it is kept in the rollout's record")
	if o.do == api.OrderPromote {
		c.Flags().BoolVar(&every, "all", false, "go through all steps that follow, too")
	}
	return a.withEnv(c)
}

// underWay returns the number of the service's rollout that runs now.
func (a *app) underWay(cmd *cobra.Command, c *api.Client, m api.Move) (int64, error) {
	st, err := c.Status(cmd.Context(), m.Service, m.Environment)
	if err != nil {
		return 0, err
	}
	if len(st.Services) != 1 || st.Services[0].Rollout == nil {
		return 0, fail.New(fail.NotFound, "", "no rollout of %s is under way", m.Service).Hinted("run `fairlead history %s`", m.Service)
	}
	return st.Services[0].Rollout.ID, nil
}

func (a *app) watchCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:   "watch [SERVICE]",
		Short: "Follow a rollout that is under way, to its end",
		Long: "watch prints what a rollout has done so far and what it does, as `up` did in the terminal that began it, and ends with its\n" +
			"receipt and its exit code. Ending watch does not end the rollout.\n" + exitCodes,
		Example: "  fairlead watch\n  fairlead watch shop --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			id, err := a.underWay(cmd, c, m)
			if err != nil {
				return err
			}
			end, err := c.Follow(cmd.Context(), id, a.ui.event)
			if err != nil {
				a.ui.end(err)
				return err
			}
			var failed error
			if end.Error != nil {
				failed = end.Error
			}
			return a.receipt(end.Receipt, failed)
		},
	})
}
