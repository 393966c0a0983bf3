package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent"
	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

func (a *app) agentCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "agent",
		Short: "Start, stop, upgrade and install fairlead's own processes",
		Long: "A machine has three processes of fairlead: the supervisor keeps the instances running, the edge takes the traffic, the agent\n" +
			"holds the state. They hold each other up, and each may be killed at any instant.\n" + exitCodes,
	}
	sub := func(use, short, long string, f func(context.Context, home.Dirs) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Long: long + "\n" + exitCodes, Args: cobra.NoArgs, Example: "  fairlead agent " + use,
			RunE: func(cmd *cobra.Command, _ []string) error {
				d, err := a.dirs()
				if err != nil {
					return err
				}
				return f(cmd.Context(), d)
			}}
	}
	c.AddCommand(
		sub("start", "Start what does not run", "start starts the three processes and everything that ran when they were stopped.", a.agentStart),
		sub("stop", "Stop the three processes and every instance", "stop ends the agent, then the edge, then every instance in order. It all comes back with `agent start`.", a.agentStop),
		sub("status", "Show which processes run", "status shows the three processes.", a.agentStatus),
		sub("upgrade", "Replace the three processes by this program's version", "upgrade loses no request: the edge hands its sockets on, the supervisor's instances are adopted.", a.agentUpgrade),
		a.agentInstallCmd(), a.agentPolicyCmd(), a.agentConnectCmd(), a.agentPatchCmd(),
	)
	return c
}

func (a *app) agentStart(ctx context.Context, d home.Dirs) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	c, err := agent.Up(ctx, d, exe)
	if err != nil {
		return err
	}
	i, err := c.Info(ctx)
	if err != nil {
		return err
	}
	return a.print(i, func(w io.Writer) { fmt.Fprintf(w, "the agent runs: version %s, pid %d\n", i.Version, i.PID) })
}

func (a *app) agentStop(ctx context.Context, d home.Dirs) error {
	if err := agent.Down(ctx, d); err != nil {
		return fail.New(fail.Internal, "stop the machine's processes", "%w", err)
	}
	return a.print(map[string]string{"type": "stopped"}, func(w io.Writer) {
		fmt.Fprintln(w, "everything is stopped; `fairlead agent start` brings it back")
	})
}

func (a *app) agentUpgrade(ctx context.Context, d home.Dirs) error {
	if !keeper.Running(d, home.Agent) {
		return fail.New(fail.NotFound, "", "no agent runs here").Hinted("run `fairlead agent start`")
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := agent.Upgrade(ctx, d, exe); err != nil {
		return err
	}
	i, err := api.Dial(d).Info(ctx)
	if err != nil {
		return err
	}
	return a.print(i, func(w io.Writer) { fmt.Fprintf(w, "supervisor, edge and agent run version %s\n", i.Version) })
}

func (a *app) agentStatus(ctx context.Context, d home.Dirs) error {
	type process struct {
		Role    string `json:"role"`
		Running bool   `json:"running"`
		PID     int    `json:"pid,omitempty"`
	}
	var all []process
	for _, role := range home.Roles {
		p := process{Role: role, Running: keeper.Running(d, role)}
		if p.Running {
			p.PID = keeper.PID(d, role)
		}
		all = append(all, p)
	}
	version := ""
	if i, err := api.Dial(d).Info(ctx); err == nil {
		version = i.Version
	}
	return a.print(map[string]any{"processes": all, "version": version, "state": d.State, "run": d.Run}, func(w io.Writer) {
		for _, p := range all {
			text := "does not run"
			if p.Running {
				text = fmt.Sprintf("runs, pid %d", p.PID)
			}
			fmt.Fprintf(w, "%-10s  %s\n", p.Role, text)
		}
		if version != "" {
			fmt.Fprintf(w, "version     %s\n", version)
		}
		fmt.Fprintf(w, "state       %s\nsockets     %s\n", d.State, d.Run)
	})
}

// agentConnectCmd is how another machine reaches this one's agent: through the command's own input and output.
func (a *app) agentConnectCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "connect",
		Short:  "Pass what is said on this command's input and output on to the agent",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.dirs()
			if err != nil {
				return err
			}
			c, err := (&net.Dialer{}).DialContext(cmd.Context(), "unix", d.Sock(home.Agent))
			if err != nil {
				return fail.New(fail.Unavailable, "", "the agent does not answer: %w", err).Hinted("`fairlead host add` starts it")
			}
			defer c.Close()
			go func() {
				io.Copy(c, os.Stdin)
				c.(*net.UnixConn).CloseWrite() //nolint:errcheck // who is gone needs not be told
			}()
			_, err = io.Copy(a.Stdout, c)
			return err
		},
	}
}

// agentPatchCmd is how another machine brings this one a newer fairlead.
func (a *app) agentPatchCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "patch NAME",
		Short:  "Make another version of this program from a patch, and write it to standard output",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			return fleet.ApplyPatch(exe, args[0], os.Stdin, a.Stdout)
		},
	}
}

func (a *app) agentInstallCmd() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Bring everything back after a reboot of the machine",
		Long: "install writes and enables a systemd unit where there is systemd, and otherwise prints the crontab line that does the same.\n" +
			"With --print it only prints the unit.\n" + exitCodes,
		Example: "  sudo fairlead agent install\n  fairlead agent install --print",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.dirs()
			if err != nil {
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			if dry {
				_, err := io.WriteString(a.Stdout, agent.Unit(d, os.Geteuid() == 0))
				return err
			}
			if err := d.Make(); err != nil {
				return err
			}
			if !keeper.Running(d, home.Agent) {
				if _, err := keeper.Install(d, exe); err != nil {
					return err
				}
			}
			return a.install(cmd.Context(), d)
		},
	}
	c.Flags().BoolVar(&dry, "print", false, "print the unit, change nothing")
	return c
}

// install writes the unit for this user's systemd, or prints the crontab line.
func (a *app) install(ctx context.Context, d home.Dirs) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return a.print(map[string]string{"crontab": agent.Crontab(d)}, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n", agent.Crontab(d))
			a.ui.event(event.Event{Type: "note", Text: "there is no systemd here; add this line with `crontab -e`"})
		})
	}
	path, ctl := "/etc/systemd/system/fairlead.service", []string{"systemctl"}
	if os.Geteuid() != 0 {
		conf, err := os.UserConfigDir()
		if err != nil {
			return err
		}
		path, ctl = filepath.Join(conf, "systemd", "user", "fairlead.service"), []string{"systemctl", "--user"}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	if err := home.WriteFile(path, []byte(agent.Unit(d, os.Geteuid() == 0)), 0o644); err != nil {
		return fail.New(fail.Preflight, "write the unit", "%w", err)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "fairlead.service"}} {
		cmd := exec.CommandContext(ctx, ctl[0], append(ctl[1:], args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fail.New(fail.Preflight, cmd.String(), "%w: %s", err, out)
		}
	}
	return a.print(map[string]string{"unit": path}, func(w io.Writer) { fmt.Fprintf(w, "%s is enabled\n", path) })
}

// daemonCmd is how the processes are started; people use `agent start`.
func (a *app) daemonCmd() *cobra.Command {
	var takeover bool
	c := &cobra.Command{
		Use:    "daemon ROLE [FILE]",
		Short:  "Run one of the three processes in the foreground, or a hook of a release",
		Args:   cobra.RangeArgs(1, 2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.dirs()
			if err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(a.Stderr, nil)).With("role", args[0], "pid", os.Getpid())
			err = agent.Daemon{Dirs: d, Version: a.Version.resolve().Version, Log: log, TakeOver: takeover, Hook: strings.Join(args[1:], "")}.Run(cmd.Context(), args[0])
			if err != nil && !errors.Is(err, keeper.ErrHeld) {
				log.Error("ends", "error", err)
			}
			return err
		},
	}
	c.Flags().BoolVar(&takeover, "takeover", false, "the edge: replace the living one")
	return c
}
