package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
)

func (a *app) historyCmd() *cobra.Command {
	n := 20
	c := &cobra.Command{
		Use:     "history [SERVICE]",
		Short:   "Show a service's rollouts, newest first",
		Long:    "history shows every rollout with its outcome and its receipt.\n" + exitCodes,
		Example: "  fairlead history\n  fairlead history shop -n 50 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(args)
			if err != nil {
				return err
			}
			h, err := c.History(cmd.Context(), m.Service, m.Environment, n)
			if err != nil {
				return err
			}
			return a.print(h, func(w io.Writer) { writeHistory(w, h) })
		},
	}
	c.Flags().IntVarP(&n, "number", "n", n, "how many")
	return a.withEnv(c)
}

func writeHistory(w io.Writer, h []api.Entry) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHEN\tWHAT\tRELEASE\tVERSION\tOUTCOME\tTOOK\tREQUESTS\tFAILED\tGAP\tBY")
	for _, e := range h {
		move := fmt.Sprint(e.To)
		if e.From != 0 {
			move = fmt.Sprintf("%d → %d", e.From, e.To)
		}
		took, requests, failed, gap := "-", "-", "-", "-"
		if !e.Ended.IsZero() {
			took = short(e.Ended.Sub(e.Started))
		}
		if r := e.Receipt; r != nil {
			requests, failed, gap = fmt.Sprint(r.Requests), fmt.Sprint(r.Failed), short(r.Gap)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Started.Local().Format(time.DateTime), e.Kind, move, e.Version, e.Outcome, took,
			requests, failed, gap, e.By)
	}
	t.Flush()
	for _, e := range h {
		if e.Error != nil {
			fmt.Fprintf(w, "%s: %s\n", e.Started.Local().Format(time.DateTime), e.Error.Error())
			break
		}
	}
}
