package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

func (a *app) hostCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "host",
		Short: "Look at and prepare machines that are reached over SSH",
		Long: "The machines of an environment stand in fairlead.yaml, as `target: {ssh: [deploy@web1.example.com]}`. Nothing but sshd and a user who\n" +
			"may become root (`sudo` without a password) is needed there. docs/guide/ssh.md tells how they are found and trusted.\n" + exitCodes,
		Example: "  fairlead host list --env staging\n  fairlead host add deploy@web3.example.com --accept-new\n  fairlead host exec --env staging -- uptime",
	}
	c.AddCommand(a.hostListCmd(), a.hostAddCmd(), a.hostExecCmd())
	return c
}

// hosts connects to the hosts named, or to those of the environment. What they are is known, except of those that do not answer.
func (a *app) hosts(ctx context.Context, names []string) (*fleet.Fleet, error) {
	if len(names) == 0 {
		s, err := spec.Load(".", a.env)
		if err != nil {
			return nil, err
		}
		if names = s.Target.SSH; len(names) == 0 {
			return nil, fail.New(fail.Usage, "", "the target of environment %s is this machine", a.environment()).
				Hinted("name hosts, or an environment that has them: --env staging, with `target: {ssh: [deploy@web1.example.com]}` in fairlead.yaml")
		}
	}
	f := fleet.Open(ctx, fleet.Options{SSH: a.ssh(), Hosts: names, By: who(), Events: a.ui.event})
	a.atEnd = append(a.atEnd, f.Close)
	return f, f.Look(ctx)
}

func (a *app) hostListCmd() *cobra.Command {
	type host struct {
		Name string `json:"name"`
		fleet.Facts
		Version  string      `json:"version,omitempty"`
		Services int         `json:"services"`
		Error    *fail.Error `json:"error,omitempty"`
	}
	return a.withEnv(&cobra.Command{
		Use:     "list [HOST...]",
		Short:   "Show which hosts answer, and what runs there",
		Long:    "list connects to the hosts named, or to those of the environment, and shows what they are.\n" + exitCodes,
		Example: "  fairlead host list --env staging\n  fairlead host list deploy@web1.example.com --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			all := make([]host, len(f.Hosts))
			var wg sync.WaitGroup
			for i, h := range f.Hosts {
				wg.Go(func() {
					all[i] = host{Name: h.Name, Facts: h.Facts, Error: fail.As(h.Err)}
					if h.Err != nil || !h.Facts.Runs {
						return
					}
					st, err := h.Client.Status(cmd.Context(), "", "")
					all[i].Version, all[i].Services, all[i].Error = st.Agent.Version, len(st.Services), fail.As(err)
				})
			}
			wg.Wait()
			return a.print(all, func(w io.Writer) {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "HOST\tPLATFORM\tSYSTEMD\tFAIRLEAD\tSERVICES\t")
				for _, h := range all {
					version, systemd := h.Version, "no"
					if !h.Runs {
						version = "-"
					}
					if h.Systemd {
						systemd = "yes"
					}
					if h.Error != nil {
						fmt.Fprintf(t, "%s\t%s\n", h.Name, printable(h.Error.Error()))
						continue
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t\n", h.Name, h.Platform, systemd, version, h.Services)
				}
				t.Flush()
			})
		},
	})
}

func (a *app) hostAddCmd() *cobra.Command {
	return a.withEnv(&cobra.Command{
		Use:   "add [HOST...]",
		Short: "Put fairlead on hosts and start it there",
		Long: "add brings this version of fairlead to the hosts named, or to those of the environment, and has their systemd start it, now and after a\n" +
			"reboot. Where another version runs it is replaced without touching what it serves. `up` does the same by itself.\n" + exitCodes,
		Example: "  fairlead host add deploy@web3.example.com --accept-new\n  fairlead host add --env staging",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			for _, h := range f.Hosts {
				if h.Err != nil {
					return h.Err
				}
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			if err := f.Prepare(cmd.Context(), exe); err != nil {
				return err
			}
			return a.print(map[string]any{"type": "added", "hosts": len(f.Hosts)}, func(w io.Writer) {
				fmt.Fprintf(w, "fairlead runs on %d hosts; name them in fairlead.yaml: target: {ssh: [...]}\n", len(f.Hosts))
			})
		},
	})
}

func (a *app) hostExecCmd() *cobra.Command {
	root := false
	c := a.withEnv(&cobra.Command{
		Use:   "exec [HOST...] -- COMMAND [ARG...]",
		Short: "Run a command on every host",
		Long:  "exec runs a command on the hosts named, or on those of the environment, all at once, and prints what each said, host by host.\n" + exitCodes,
		Example: "  fairlead host exec --env staging -- uptime\n  fairlead host exec deploy@web1.example.com --root -- journalctl -u fairlead -n 20\n" +
			"  fairlead host exec --env staging --root -- fairlead agent status",
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 || dash == len(args) {
				return fail.New(fail.Usage, "", "which command?").Hinted("write it behind two dashes: fairlead host exec --env staging -- uptime")
			}
			f, err := a.hosts(cmd.Context(), args[:dash])
			if err != nil {
				return err
			}
			return a.exec(cmd.Context(), f, args[dash:], root)
		},
	})
	c.Flags().BoolVar(&root, "root", false, "as root")
	return c
}

// exec runs args on all hosts and prints what they said in the order of the hosts.
func (a *app) exec(ctx context.Context, f *fleet.Fleet, args []string, root bool) error {
	type said struct {
		Host   string      `json:"host"`
		Output string      `json:"output"`
		Error  *fail.Error `json:"error,omitempty"`
	}
	all := make([]said, len(f.Hosts))
	var wg sync.WaitGroup
	for i, h := range f.Hosts {
		wg.Go(func() {
			err := h.Err
			var out []byte
			if err == nil {
				out, err = h.Exec(ctx, args, root)
			}
			all[i] = said{h.Name, string(out), fail.As(err)}
		})
	}
	wg.Wait()
	failed := 0
	for _, s := range all {
		if s.Error != nil {
			failed++
		}
	}
	err := a.print(all, func(w io.Writer) {
		st := newStyles(isTerminal(w), a.Getenv)
		for _, s := range all {
			fmt.Fprintln(w, st.bold(s.Host))
			for l := range strings.Lines(s.Output) {
				fmt.Fprintln(w, "  "+printable(strings.TrimRight(l, "\n")))
			}
			if s.Error != nil {
				fmt.Fprintln(w, "  "+st.bad(printable(s.Error.Error())))
				for _, l := range s.Error.Lines {
					fmt.Fprintln(w, "  "+st.dim("| ")+printable(l))
				}
			}
		}
	})
	if err == nil && failed > 0 {
		err = fail.New(fail.Internal, "", "it failed on %d of %d hosts", failed, len(all))
	}
	return err
}

// ssh says how hosts are reached.
func (a *app) ssh() remote.Options {
	return remote.Options{Config: a.sshConfig, AcceptNew: a.acceptNew, Getenv: a.Getenv, Passphrase: a.passphrase, Ask: a.askHostKey()}
}

// askHostKey asks on a terminal; elsewhere nobody is there to ask.
func (a *app) askHostKey() func(string) (bool, error) {
	if !isTerminal(os.Stdin) || a.json {
		return nil
	}
	return func(question string) (bool, error) {
		err := a.confirm(question)
		if fail.KindOf(err) == fail.Interrupted {
			return false, nil
		}
		return err == nil, err
	}
}

// onHost reaches the agent of the machine that --host names.
func (a *app) onHost(ctx context.Context) (*api.Client, error) {
	f := fleet.Open(ctx, fleet.Options{SSH: a.ssh(), Hosts: []string{a.host}, By: who(), Events: a.ui.event})
	a.atEnd = append(a.atEnd, f.Close)
	return f.Hosts[0].Client, f.Hosts[0].Err
}
