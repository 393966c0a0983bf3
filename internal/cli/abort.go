package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/fail"
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
			c, m, err := a.target(args)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context(), m.Service, m.Environment)
			if err != nil {
				return err
			}
			if len(st.Services) != 1 || st.Services[0].Rollout == nil {
				return fail.New(fail.NotFound, "", "no rollout of %s is under way", m.Service).Hinted("run `fairlead history %s`", m.Service)
			}
			if err := c.Cancel(cmd.Context(), st.Services[0].Rollout.ID); err != nil {
				return err
			}
			end, err := c.Follow(cmd.Context(), st.Services[0].Rollout.ID, a.ui.event)
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
