package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// rehearsal is a subcommand of drill.
type rehearsal struct {
	what, short, long string
	example           string
	share             int
	length            time.Duration
	flags             func(*pflag.FlagSet, *api.Drill)
	does              func(api.Drill) string // what happens to the second run, for the question
}

const drillLong = "drill does on purpose what nobody wants to do for the first time at night, within bounds that it states first. A second run of the\n" +
	"release that serves gets a share of the traffic, something is done to it, and everything goes back as from a bad release, also when\n" +
	"fairlead is killed meanwhile. What it measured is kept in the history, and a gate can ask for it:\n" +
	"`{check: \"drill(rollback) <= 30d\"}`.\n\n" +
	"rollback and switch have worked when no request failed. In the others a gate of the service has to notice: when none does, the drill\n" +
	"fails, and tells that a bad release would have gone on.\n"

func (a *app) drillCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "drill",
		Short:   "Rehearse what must work when something is wrong",
		Long:    drillLong + exitCodes,
		Example: "  fairlead drill rollback\n  fairlead drill errors shop --hit 5 --share 20 --for 1m --yes",
	}
	nothing := func(api.Drill) string { return "" }
	for _, r := range []rehearsal{
		{what: api.DrillRollback, short: "Give a second run of what serves a share of the traffic, then go back", share: 50, length: 5 * time.Second, does: nothing,
			long:    "drill rollback decides that the second run is bad, and goes back as any rollout does. It measures how long the way back takes and what\nthe clients see.\n",
			example: "  fairlead drill rollback --yes\n  fairlead drill rollback shop --share 20 --for 30s --yes"},
		{what: api.DrillSwitch, short: "Move all traffic to a second run of what serves, then go back", length: 5 * time.Second, does: nothing,
			long:    "drill switch moves all traffic at once, as a blue-green rollout does, and back again.\n",
			example: "  fairlead drill switch shop --yes"},
		{what: api.DrillCrash, short: "Kill an instance of a second run of what serves", share: 20, length: 30 * time.Second,
			long:    "drill crash kills an instance (SIGKILL) that has traffic. Its requests under way fail.\n",
			example: "  fairlead drill crash shop --share 10 --yes",
			does:    func(api.Drill) string { return "; one of its instances is killed" }},
		{what: api.DrillErrors, short: "Let a second run of what serves answer errors", share: 20, length: time.Minute,
			long:    "drill errors lets the edge answer a share of the second run's requests with an error.\n",
			example: "  fairlead drill errors shop --hit 5 --status 500 --for 2m --yes",
			flags: func(f *pflag.FlagSet, d *api.Drill) {
				f.Float64Var(&d.Hit, "hit", 10, "how many of its requests, in percent")
				f.IntVar(&d.Status, "status", 503, "what is answered")
			},
			does: func(d api.Drill) string {
				return fmt.Sprintf("; %g %% of its requests are answered %d", d.Hit, d.Status)
			}},
		{what: api.DrillLatency, short: "Make a second run of what serves slow", share: 20, length: time.Minute,
			long:    "drill latency lets the edge hold a share of the second run's requests back.\n",
			example: "  fairlead drill latency shop --delay 300ms --hit 50 --yes",
			flags: func(f *pflag.FlagSet, d *api.Drill) {
				f.Float64Var(&d.Hit, "hit", 100, "how many of its requests, in percent")
				f.DurationVar(&d.Delay, "delay", 300*time.Millisecond, "by how much")
			},
			does: func(d api.Drill) string { return fmt.Sprintf("; %g %% of its requests take %s longer", d.Hit, d.Delay) }},
		{what: api.DrillCPU, short: "Use processors in vain in a second run of what serves", share: 20, length: time.Minute,
			long:    "drill cpu uses processor time in every instance of the second run, within run.limits.cpu, which must be set.\n",
			example: "  fairlead drill cpu shop --cpu 1.5 --yes",
			flags:   func(f *pflag.FlagSet, d *api.Drill) { f.Float64Var(&d.CPU, "cpu", 1, "cores for each instance") },
			does:    func(d api.Drill) string { return fmt.Sprintf("; each of its instances uses %g cores in vain", d.CPU) }},
		{what: api.DrillMemory, short: "Use memory in vain in a second run of what serves", share: 20, length: time.Minute,
			long:    "drill memory takes memory in every instance of the second run, within run.limits.memory, which must be set.\n",
			example: "  fairlead drill memory shop --memory 200MiB --yes",
			flags: func(f *pflag.FlagSet, d *api.Drill) {
				f.Var((*spec.Bytes)(&d.Memory), "memory", "for each instance, as 200MiB")
			},
			does: func(d api.Drill) string {
				return fmt.Sprintf("; each of its instances uses %s in vain", spec.Bytes(d.Memory))
			}},
	} {
		c.AddCommand(a.rehearse(r))
	}
	return c
}

func (a *app) rehearse(r rehearsal) *cobra.Command {
	d := api.Drill{What: r.what}
	c := &cobra.Command{
		Use: r.what + " [SERVICE]", Short: r.short, Long: r.long + exitCodes, Example: r.example, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			d.Move = m
			share := fmt.Sprintf("%d %% of its traffic", d.Share)
			if d.What == api.DrillSwitch {
				share = "all of its traffic"
			}
			if err := a.confirm(fmt.Sprintf("A second run of what serves %s will get %s for at most %s%s. Then everything goes back. Go on?", m.Service, share, d.For, r.does(d))); err != nil {
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
	if r.share > 0 {
		c.Flags().IntVar(&d.Share, "share", r.share, "how much of the traffic takes part, in percent")
	}
	c.Flags().DurationVar(&d.For, "for", r.length, "how long at most")
	if r.flags != nil {
		r.flags(c.Flags(), &d)
	}
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
	history := fmt.Sprintf("run `fairlead history %s %d`", r.Service, r.To)
	switch {
	case r.Noticed != nil && r.Noticed.By == "":
		return fail.New(fail.Unhealthy, "drill", "%s", r.Noticed.Reason).Hinted("a release like that would have gone on: add a gate that sees it, as {compare: [errors, latency]}; or give it more --share, --for or traffic. %s", history)
	case r.Noticed == nil && r.Failed > 0: // nothing was broken on purpose
		return fail.New(fail.Unhealthy, "drill", "%d of %d requests failed on the way back", r.Failed, r.Requests).Hinted("%s", history)
	}
	return a.print(map[string]any{"type": "drill", "receipt": r}, func(w io.Writer) {
		if n := r.Noticed; n != nil {
			fmt.Fprintf(w, "%s: noticed after %s by %s: %s\n", r.Service, short(n.Detected), n.By, n.Reason)
		}
		fmt.Fprintf(w, "%s: release %d had all traffic again %s after the decision; %d requests meanwhile, %d failed\n", r.Service, r.From, short(r.Recovered), r.Requests, r.Failed)
	})
}
