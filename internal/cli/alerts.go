package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/alert"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) alertsCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "alerts",
		Short: "Show what is wrong on this machine, and say who is told",
		Long: "alerts lists the alerts that hold now: of the built-in rules (a service or instance is down, a crash loop, errors, latency, memory,\n" +
			"the disk, certificates) and of the rule files that the alerts file names.\n" + exitCodes,
		Example: "  fairlead alerts\n  fairlead alerts config alerts.yaml\n  fairlead alerts silence service=shop --for 2h --reason \"moving house\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			s, err := c.Alerts(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { writeAlerts(w, s) })
		},
	}
	c.AddCommand(a.alertsConfigCmd(), a.silenceCmd(), a.unsilenceCmd(), a.sentCmd(), a.alertsTestCmd())
	return c
}

func writeAlerts(w io.Writer, s api.Alerts) {
	if len(s.Active) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
	for _, x := range s.Active {
		state := "firing"
		if !x.Firing {
			state = "pending"
		}
		if len(x.SilencedBy) > 0 {
			state += ", silenced"
		}
		text := x.Annotations["summary"]
		if text == "" {
			text = labels(x.Labels)
		}
		fmt.Fprintf(w, "%s  %s since %s: %s\n", state, x.Name, x.Since.Local().Format(time.DateTime), text)
	}
	for _, x := range s.Silences {
		var m []string
		for _, y := range x.Matchers {
			m = append(m, y.String())
		}
		fmt.Fprintf(w, "silence %s until %s: %s (%s: %s)\n", x.ID, x.Until.Local().Format(time.DateTime), strings.Join(m, " "), x.By, x.Why)
	}
	if len(s.Receivers) == 0 {
		fmt.Fprintln(w, "nobody is told; `fairlead alerts config FILE` says who is")
		return
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(s.Receivers)) {
		names = append(names, n+" ("+s.Receivers[n]+")")
	}
	fmt.Fprintln(w, "told:", strings.Join(names, ", "))
}

func labels(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}

func (a *app) alertsConfigCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "config FILE",
		Short: "Say who is told of alerts, and add rules",
		Long: "config replaces who is told and which Prometheus rule files hold beside the built-in rules. Secrets may be written as env://NAME\n" +
			"or file://PATH; they are read now, and kept where only the agent's user reads.\n" + exitCodes,
		Example: "  fairlead alerts config alerts.yaml && fairlead alerts test chat",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := alert.ReadConfig(args[0], a.Getenv)
			if err != nil {
				return err
			}
			c, err := a.running(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.SetAlerts(cmd.Context(), conf); err != nil {
				return err
			}
			s, err := c.Alerts(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) { writeAlerts(w, s) })
		},
	}
}

func (a *app) silenceCmd() *cobra.Command {
	s := alert.Silence{}
	d := time.Hour
	c := &cobra.Command{
		Use:     "silence MATCHER...",
		Short:   "Keep alerts from being told for a while",
		Long:    "silence keeps alerts that all matchers fit from being told: LABEL=VALUE, LABEL!=VALUE, LABEL=~REGEXP or LABEL!~REGEXP.\n" + exitCodes,
		Example: "  fairlead alerts silence service=shop --for 2h --reason \"moving house\"\n  fairlead alerts silence 'alertname=~Disk.*' --for 30m --reason \"growing it\"",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, text := range args {
				m, err := alert.ParseMatcher(text)
				if err != nil {
					return err
				}
				s.Matchers = append(s.Matchers, m)
			}
			if s.Why == "" || d <= 0 {
				return fail.New(fail.Usage, "silence", "a silence has a reason and an end").Hinted("add --reason \"...\" and --for 2h")
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			s.By, s.Until = who(), time.Now().Add(d)
			made, err := c.Silence(cmd.Context(), s)
			if err != nil {
				return err
			}
			return a.print(made, func(w io.Writer) {
				fmt.Fprintf(w, "silent until %s; `fairlead alerts unsilence %s` ends it\n", made.Until.Local().Format(time.DateTime), made.ID)
			})
		},
	}
	c.Flags().DurationVar(&d, "for", d, "how long")
	c.Flags().StringVar(&s.Why, "reason", "", "why")
	return c
}

func (a *app) unsilenceCmd() *cobra.Command {
	return &cobra.Command{
		Use: "unsilence ID", Short: "End a silence", Long: "unsilence ends a silence; what it kept back and still holds is told.\n" + exitCodes,
		Example: "  fairlead alerts unsilence 3f2a", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return c.Unsilence(cmd.Context(), args[0])
		},
	}
}

func (a *app) sentCmd() *cobra.Command {
	return &cobra.Command{
		Use: "sent", Short: "Show what was sent to whom", Long: "sent shows the last 1,000 messages, and how their delivery ended.\n" + exitCodes,
		Example: "  fairlead alerts sent", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			all, err := c.Sent(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "WHEN\tTO\tOUTCOME\tATTEMPTS\tALERTS")
				for _, s := range all {
					var names []string
					for _, x := range s.Alerts {
						if !x.Firing {
							x.Name += " (over)"
						}
						names = append(names, x.Name)
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s %s\n", s.At.Local().Format(time.DateTime), s.Receiver, s.Outcome, s.Attempts, strings.Join(names, ", "), s.Error)
				}
				t.Flush()
			})
		},
	}
}

func (a *app) alertsTestCmd() *cobra.Command {
	return &cobra.Command{
		Use: "test RECEIVER", Short: "Send a made-up alert to a receiver", Long: "test sends one alert to a receiver and says whether it was delivered.\n" + exitCodes,
		Example: "  fairlead alerts test chat", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.TestAlert(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.print(map[string]any{"type": "delivered", "receiver": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s: delivered\n", args[0]) })
		},
	}
}
