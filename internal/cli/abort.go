package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) abortCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:   "abort [SERVICE]",
		Short: "Make a rollout that is under way go back",
		Long: "abort ends a rollout that somebody, or a terminal that is gone, began: the old release serves as before.\n" +
			"From a rollout's last step on, when the new release serves everything, there is only forward.\n" + exitCodes,
		Example: "  fairlead abort\n  fairlead abort shop --env staging",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s := a.elsewhere(strings.Join(args, "")); s != nil {
				return a.resumeFleet(cmd.Context(), true)
			}
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			id, err := a.underWay(cmd, c, m)
			if err != nil {
				return err
			}
			if err := c.Cancel(cmd.Context(), id); err != nil {
				return err
			}
			end, err := c.Follow(cmd.Context(), id, a.ui.event)
			a.ui.end(err)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"type": "aborted", "service": m.Service, "outcome": end.Outcome}, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s; `fairlead status %s` shows what serves\n", m.Service, end.Outcome, m.Service)
			})
		},
	})
}
