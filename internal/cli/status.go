package cli

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

func (a *app) statusCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:     "status [SERVICE]",
		Short:   "Show services, releases, instances and traffic",
		Long:    "status shows what really runs and really gets traffic: on this machine, or on the hosts of the\nenvironment in this folder's fairlead.yaml.\n" + exitCodes,
		Example: "  fairlead status\n  fairlead status shop --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if s := a.elsewhere(name); s != nil {
				return a.fleetStatus(cmd.Context(), s, s.Service)
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context(), name, a.env)
			if err != nil {
				return err
			}
			return a.print(st, func(w io.Writer) { writeStatus(w, st, newStyles(isTerminal(w), a.Getenv)) })
		},
	})
}

func writeStatus(w io.Writer, st api.Status, s styles) {
	if len(st.Services) == 0 {
		fmt.Fprintln(w, "no services yet; `fairlead up` in a service's folder deploys one")
		return
	}
	for n, svc := range st.Services {
		if n > 0 {
			fmt.Fprintln(w)
		}
		state := s.good("serving")
		switch {
		case svc.Stopped:
			state = s.warn("stopped")
		case svc.Current == 0:
			state = s.warn("never served")
		case ready(svc) == 0:
			state = s.bad("no instance ready")
		}
		traffic := fmt.Sprintf("%.1f req/s  p95 %s", svc.RPS, short(svc.P95))
		if svc.Mode == spec.ModeKernel && svc.Rollout == nil {
			traffic = "by the kernel" // which counts no requests while nobody needs to know
		}
		fmt.Fprintf(w, "%s  %s  release %d %s  %s  %s\n", s.bold(title(svc)), state, svc.Current, svc.Version, svc.URL, traffic)
		if u := svc.Rollout; u != nil {
			verb := "going to"
			if u.Undoing {
				verb = "going back from"
			}
			fmt.Fprintf(w, "  %s\n", s.warn(fmt.Sprintf("%s: %s release %d, step %d of %d, by %s", u.Kind, verb, u.To, u.Step, u.Steps, u.Holder)))
			fmt.Fprintf(w, "  %s\n", u.Doing)
			if u.Paused != "" {
				fmt.Fprintf(w, "  %s\n", s.warn("paused "+u.Paused))
			}
		}
		if len(svc.Instances) > 0 {
			fmt.Fprintln(w, instanceTable(svc, s))
		}
		for _, line := range remarks(svc) {
			fmt.Fprintln(w, "  "+s.warn("! ")+line)
		}
	}
}

func title(s api.Service) string {
	if s.Environment == "default" {
		return s.Service
	}
	return s.Service + " (" + s.Environment + ")"
}

func ready(s api.Service) (n int) {
	for _, i := range s.Instances {
		if i.State == supervise.Ready {
			n++
		}
	}
	return n
}

func instanceTable(svc api.Service, s styles) string {
	t := table.New().Border(lipgloss.HiddenBorder()).BorderTop(false).BorderBottom(false).BorderLeft(false).BorderHeader(false).
		Headers("  RELEASE", "INSTANCE", "STATE", "TRAFFIC", "UP", "RESTARTS", "MEMORY", "PID", "PORT")
	for _, i := range svc.Instances {
		state := string(i.State)
		switch i.State {
		case supervise.Ready:
			state = s.good(state)
		case supervise.Starting, supervise.Stopping, supervise.Stopped:
			state = s.warn(state)
		default:
			state = s.bad(state)
		}
		up, mem := "-", "-"
		if i.Process.PID != 0 && !i.Started.IsZero() {
			up = time.Since(i.Started).Round(time.Second).String()
		}
		if i.Usage != nil {
			mem = fmt.Sprintf("%.1f MB", float64(i.Usage.Memory)/1e6)
		}
		t.Row(fmt.Sprintf("  %d", i.Release), fmt.Sprint(i.Number), state, fmt.Sprintf("%d %%", svc.Weights[i.Release]), up, fmt.Sprint(i.Restarts), mem,
			fmt.Sprint(i.Process.PID), fmt.Sprint(i.Port))
	}
	lines := strings.Split(t.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// remarks are what a person should know and the table has no room for.
func remarks(svc api.Service) []string {
	seen := map[string]bool{}
	if svc.ModeWhy != "" {
		seen["connections go through the proxy, not the kernel: "+svc.ModeWhy] = true
	}
	for _, i := range svc.Instances {
		if i.State != supervise.Ready && i.Last != nil {
			seen[fmt.Sprintf("release %d instance %d %s (%s ago)", i.Release, i.Number, i.Last.Reason, time.Since(i.Last.At).Round(time.Second))] = true
		}
		if i.State == supervise.Unready && i.Probe != "" {
			seen[fmt.Sprintf("release %d instance %d: %s", i.Release, i.Number, i.Probe)] = true
		}
		for _, m := range i.Missing {
			seen["limit not in force: "+m] = true
		}
	}
	var out []string
	for l := range seen {
		out = append(out, l)
	}
	sort.Strings(out)
	return out
}
