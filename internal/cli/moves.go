package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
)

func (a *app) rollbackCmd() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:   "rollback [RELEASE]",
		Short: "Go back to the release before, or to a given one",
		Long: "rollback puts an older release in service, whole: binary, configuration, secrets, routes and limits. When its instances are\n" +
			"still up (release.warm), traffic moves at once; otherwise they are started first.\n" + exitCodes,
		Example: "  fairlead rollback\n  fairlead rollback 7\n  fairlead rollback --service shop --env staging",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := 0
			if len(args) == 1 {
				n, err := strconv.Atoi(args[0])
				if err != nil || n < 1 {
					return fail.New(fail.Usage, "", "%q is not the number of a release", args[0]).Hinted("run `fairlead history`; for another service use --service")
				}
				id = n
			}
			var named []string
			if service != "" {
				named = []string{service}
			}
			name, err := a.service(named)
			if err != nil {
				return err
			}
			d, err := a.deploy("")
			if err != nil {
				return err
			}
			if a.host != "" {
				if d.Agent, err = a.onHost(cmd.Context()); err != nil {
					return err
				}
			}
			r, err := d.Rollback(cmd.Context(), name, release.ID(id))
			return a.receipts(r, err)
		},
	}
	c.Flags().StringVar(&service, "service", "", "service (default: that of the fairlead.yaml in this folder)")
	return a.withEnv(c)
}

func (a *app) restartCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:   "restart [SERVICE]",
		Short: "Replace every instance by a new one, without a gap",
		Long: "restart rolls the current release out once more, under a new number. It also brings back a service that was stopped.\n" +
			exitCodes,
		Example: "  fairlead restart\n  fairlead restart shop --env staging",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := a.service(args)
			if err != nil {
				return err
			}
			if _, _, err := a.target(cmd.Context(), []string{name}); err != nil {
				return err
			}
			d, err := a.deploy("")
			if err != nil {
				return err
			}
			if a.host != "" {
				if d.Agent, err = a.onHost(cmd.Context()); err != nil {
					return err
				}
			}
			r, err := d.Restart(cmd.Context(), name)
			return a.receipt(r, err)
		},
	})
}

func (a *app) stopCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:     "stop [SERVICE]",
		Short:   "Stop a service's instances; its releases stay",
		Long:    "stop drains and ends every instance. Requests are answered with 503 until `fairlead restart` or `fairlead up`.\n" + exitCodes,
		Example: "  fairlead stop\n  fairlead stop shop --env staging",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := c.Stop(cmd.Context(), m); err != nil {
				return err
			}
			return a.print(map[string]any{"type": "stopped", "service": m.Service, "environment": m.Environment}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is stopped; `fairlead restart %s` brings it back\n", m.Service, m.Service)
			})
		},
	})
}

func (a *app) rmCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "rm [SERVICE]",
		Short: "Remove a service with its releases, data and logs",
		Long: "rm stops a service and removes everything fairlead keeps of it on this machine: releases, data folder, logs and history.\n" +
			"It asks first, unless --yes is given.\n" + exitCodes,
		Example: "  fairlead rm shop --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, m, err := a.target(cmd.Context(), args)
			if err != nil {
				return err
			}
			if _, err := c.Status(cmd.Context(), m.Service, m.Environment); err != nil {
				return err
			}
			if err := a.confirm(fmt.Sprintf("Remove %s (%s) with its releases, data and logs?", m.Service, m.Environment)); err != nil {
				return err
			}
			if err := c.Remove(cmd.Context(), m); err != nil {
				return err
			}
			return a.print(map[string]any{"type": "removed", "service": m.Service, "environment": m.Environment}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is removed\n", m.Service)
			})
		},
	}
	c.Flags().BoolVar(&a.yes, "yes", false, "do not ask")
	return a.withEnv(c)
}

// target names the service of a command that is about one machine, and makes the agent's client.
func (a *app) target(ctx context.Context, args []string) (*api.Client, api.Move, error) {
	name, err := a.service(args)
	if err != nil {
		return nil, api.Move{}, err
	}
	if s := a.elsewhere(name); s != nil {
		return nil, api.Move{}, fail.New(fail.Usage, "", "this is about one machine, and %s is on %d hosts in environment %s", name, len(s.Target.SSH), s.Environment).
			Hinted("say which: --host %s", s.Target.SSH[0])
	}
	c, err := a.client(ctx)
	return c, api.Move{Service: name, Environment: a.environment(), By: who()}, err
}

// confirm asks on a terminal; elsewhere only --yes counts.
func (a *app) confirm(question string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(os.Stdin) || a.json {
		return fail.New(fail.Usage, "", "this needs a yes").Hinted("add --yes")
	}
	fmt.Fprint(a.Stderr, question+" [y/N] ")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y") {
		return fail.New(fail.Interrupted, "", "nothing was changed")
	}
	return nil
}
