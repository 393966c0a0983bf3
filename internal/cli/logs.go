package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/logs"
)

func (a *app) logsCmd() *cobra.Command {
	var q api.LogQuery
	var since string
	c := &cobra.Command{
		Use:   "logs [SERVICE]",
		Short: "Read a service's log",
		Long: "logs prints what the instances printed, as records in the order of time. JSON lines of slog, zap, logrus and zerolog are\n" +
			"understood, other lines are wrapped, stack traces are kept together.\n\n" +
			"With --access it prints the requests that the edge wrote down (route.access_log), a line each: warn are those that were refused,\n" +
			"slow or whose client went away, error those that failed. The last column of one that stands for others says for how many.\n" + exitCodes,
		Example: "  fairlead logs -f\n  fairlead logs shop --since 10m --level warn\n  fairlead logs --grep 'order=42' --release 7 --json\n" +
			"  fairlead logs shop --access -f --level error",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			q.Service, q.Environment = m.Service, m.Environment
			if q.Level != "" && !slices.Contains(logs.Levels, q.Level) {
				return fail.New(fail.Usage, "", "--level: %q is none of %s", q.Level, strings.Join(logs.Levels, ", ")).Hinted("write --level warn")
			}
			if q.Since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			s := newStyles(isTerminal(a.Stdout), a.Getenv)
			enc := json.NewEncoder(a.Stdout)
			err = c.Logs(cmd.Context(), q, func(r logs.Record) error {
				if a.json {
					return enc.Encode(r)
				}
				line := recordLine
				if r.Stream == logs.Access {
					line = accessLine
				}
				_, err := fmt.Fprintln(a.Stdout, line(r, s))
				return err
			})
			if cmd.Context().Err() != nil && q.Follow {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with what comes")
	f.BoolVar(&q.Access, "access", false, "the requests of its access log, and not what it printed")
	f.StringVar(&since, "since", "", "from then on: 10m, 2h, or 2026-01-31T12:00:00Z")
	f.StringVar(&q.Level, "level", "", "this level and worse: "+strings.Join(logs.Levels, ", "))
	f.StringVar(&q.Grep, "grep", "", "only records that match a regular expression")
	f.IntVar(&q.Release, "release", 0, "only this release")
	f.IntVar(&q.Instance, "instance", 0, "only this instance")
	f.IntVarP(&q.Tail, "tail", "n", 0, "only the last so many (0: all)")
	return a.withEnv(c)
}

func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fail.New(fail.Usage, "", "--since: %q is neither a duration nor a time", s).Hinted("write 10m, 2h, or 2026-01-31T12:00:00Z")
}

func recordLine(r logs.Record, s styles) string {
	level := fmt.Sprintf("%-5s", strings.ToUpper(r.Level))
	switch r.Level {
	case "warn":
		level = s.warn(level)
	case "error", "fatal":
		level = s.bad(level)
	case "debug":
		level = s.dim(level)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s", s.dim(r.Time.Local().Format("2006-01-02 15:04:05.000")), level, s.dim(fmt.Sprintf("%d.%d", r.Release, r.Instance)), printable(r.Message))
	for _, f := range r.Fields {
		fmt.Fprintf(&b, " %s=%s", s.dim(printable(f.Key)), printable(strings.Trim(string(f.Value), `"`)))
	}
	if r.TraceID != "" {
		fmt.Fprintf(&b, " %s=%s", s.dim("trace_id"), printable(r.TraceID))
	}
	return b.String()
}
