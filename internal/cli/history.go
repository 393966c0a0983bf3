package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

func (a *app) historyCmd() *cobra.Command {
	n := 20
	c := &cobra.Command{
		Use:   "history [SERVICE [RELEASE]]",
		Short: "Show a service's rollouts, newest first, or how one was decided",
		Long: "history shows every rollout with its outcome and its receipt. With a release's number it shows the last rollout to it: what\n" +
			"each gate answered at each step, with its numbers, and what people ordered.\n" + exitCodes,
		Example: "  fairlead history\n  fairlead history shop -n 50 --json\n  fairlead history shop 7",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args[:min(len(args), 1)])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return a.record(cmd, c, m, args[1])
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

// maxHistory is how far back a release's rollout is looked for.
const maxHistory = 1000

// record prints how the last rollout to a release was decided.
func (a *app) record(cmd *cobra.Command, c *api.Client, m api.Move, number string) error {
	id, err := strconv.Atoi(number)
	if err != nil || id < 1 {
		return fail.New(fail.Usage, "", "%q is not the number of a release", number).Hinted("run `fairlead history %s`", m.Service)
	}
	h, err := c.History(cmd.Context(), m.Service, m.Environment, maxHistory)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(h, func(e api.Entry) bool { return int(e.To) == id })
	if i < 0 {
		return fail.New(fail.NotFound, "", "there was no rollout of %s to release %d", m.Service, id).Hinted("run `fairlead history %s`", m.Service)
	}
	raw, err := c.Record(cmd.Context(), h[i].ID)
	if err != nil {
		return err
	}
	decisions := make([]rollout.Decision, len(raw))
	for j, b := range raw {
		if err := json.Unmarshal(b, &decisions[j]); err != nil {
			return err
		}
	}
	return a.print(struct {
		api.Entry
		Decisions []json.RawMessage `json:"decisions"`
	}{h[i], raw}, func(w io.Writer) {
		writeHistory(w, h[i:i+1])
		writeDecisions(w, decisions)
	})
}

func writeDecisions(w io.Writer, all []rollout.Decision) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHEN\tSTEP\tGATE\tVERDICT\tWHY")
	for _, d := range all {
		verdict := string(d.Verdict)
		if d.Verdict == rollout.Breach {
			verdict += ", " + string(d.Else)
		}
		if d.Last {
			verdict += " (at the step's end)"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", d.Time.Local().Format(time.TimeOnly), d.Step+1, d.Gate, verdict, d.Reason)
	}
	t.Flush()
}
