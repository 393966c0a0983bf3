// Package cli is the command line: one file a command, from flags to a call to text or JSON. It is the only package that
// prints, and the only one that knows exit codes.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/agent"
	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Env is the world outside.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        Version
}

// app is what the commands share.
type app struct {
	Env
	json     bool
	yes      bool
	env      string
	delta    string
	strategy string
	wait     bool
	plain    bool // registries: --plain-http
	loose    bool // registries: --insecure-tls

	host      string // another machine, over SSH; "" for this one
	sshConfig string
	acceptNew bool
	atEnd     []func()
	ui        *progress
	usage     bool // the command line itself was wrong
}

// Main runs one command and returns the process's exit code.
func Main(ctx context.Context, args []string, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	a.usage = true // until a command's own code runs, every error is one of usage
	err := root.ExecuteContext(ctx)
	if a.ui != nil {
		a.ui.close()
	}
	for _, f := range a.atEnd {
		f()
	}
	if err == nil {
		return fail.ExitDone
	}
	if a.usage {
		a.json = slices.Contains(args, "--json") // the flags may not have been read so far
		err = &fail.Error{Kind: fail.Usage, Err: err, Hint: "run `fairlead --help`, or `fairlead COMMAND --help`"}
	}
	if ctx.Err() != nil {
		f := *fail.As(err)
		f.Kind = fail.Interrupted
		err = &f
	}
	a.printError(err)
	return fail.ExitCode(err)
}

const exitCodes = `
Exit codes:
  0    done
  1    failed, and nothing changed
  2    the command line or fairlead.yaml is wrong
  3    rolled back: the old release serves as before
  4    paused: waits for a person
  5    refused by preflight or policy
  130  interrupted`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fairlead",
		Short: "From Go source to served traffic, and back",
		Long: "fairlead takes a Go service from source to production traffic, and back again when the new version is worse:\n" +
			"preflight checks, a static build, a rollout that loses no request, and a receipt that says so.\n" + exitCodes,
		Example: "  fairlead init          # in a Go module\n  fairlead up            # build it and put it in service\n" +
			"  fairlead status\n  fairlead rollback",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON: one event or object a line")
	root.PersistentFlags().StringVar(&a.host, "host", "", "work on that machine, over SSH: `[USER@]HOST`, or a Host of ssh's configuration")
	root.PersistentFlags().StringVar(&a.sshConfig, "ssh-config", "", "ssh's configuration `FILE`, in place of ~/.ssh/config")
	root.PersistentFlags().BoolVar(&a.acceptNew, "accept-new", false, "take and write down the keys of hosts that are not known yet")
	root.PersistentPreRun = func(*cobra.Command, []string) {
		a.usage = false
		a.ui = newProgress(a.Stderr, a.Stdout, a.json, a.Getenv)
	}
	root.AddGroup(&cobra.Group{ID: "deploy", Title: "Deploy:"}, &cobra.Group{ID: "build", Title: "The artifact:"}, &cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "spec", Title: "The spec:"}, &cobra.Group{ID: "machine", Title: "The machine:"})
	for group, cmds := range map[string][]*cobra.Command{
		"deploy":  append(a.orderCmds(), a.upCmd(), a.planCmd(), a.rollbackCmd(), a.restartCmd(), a.watchCmd(), a.healCmd(), a.drillCmd(), a.abortCmd(), a.stopCmd(), a.rmCmd()),
		"look":    {a.statusCmd(), a.historyCmd(), a.logsCmd(), a.metricsCmd(), a.alertsCmd()},
		"build":   {a.buildCmd(), a.inspectCmd(), a.verifyCmd(), a.pushCmd(), a.pullCmd(), a.exportCmd(), a.keysCmd()},
		"spec":    {a.initCmd(), a.checkCmd(), a.configCmd(), a.schemaCmd()},
		"machine": {a.hostCmd(), a.agentCmd(), a.certsCmd(), a.daemonCmd(), a.burnCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCmd())
	return root
}

// withEnv adds --env to a command.
func (a *app) withEnv(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&a.env, "env", "", "environment (default \""+spec.DefaultEnvironment+"\")")
	return c
}

func (a *app) environment() string {
	if a.env == "" {
		return spec.DefaultEnvironment
	}
	return a.env
}

func (a *app) dirs() (home.Dirs, error) {
	d, err := home.Find(a.Getenv)
	if err != nil {
		return d, fail.New(fail.Preflight, "find the machine's folders", "%w", err)
	}
	return d, nil
}

// deploy makes the story's subject for a service folder.
func (a *app) deploy(dir string) (deploy.Deploy, error) {
	d, err := a.dirs()
	if err != nil {
		return deploy.Deploy{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return deploy.Deploy{}, err
	}
	return deploy.Deploy{Dir: dir, Env: a.env, Dirs: d, Exe: exe, Version: a.Version.resolve().Version, By: who(), Getenv: a.Getenv, Events: a.ui.event,
		Passphrase: a.passphrase, Registry: a.registry(), SSH: a.ssh(), Delta: a.delta, Strategy: a.strategy, LeavePaused: !a.wait && !isTerminal(a.Stderr)}, nil
}

// client reaches the agent that a command is about: this machine's, or with --host another one's.
func (a *app) client(ctx context.Context) (*api.Client, error) {
	if a.host != "" {
		return a.onHost(ctx)
	}
	d, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return api.Dial(d), nil
}

// running is client for commands that start the agent where none runs.
func (a *app) running(ctx context.Context) (*api.Client, error) {
	if a.host != "" {
		return a.onHost(ctx)
	}
	d, err := a.dirs()
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return agent.Up(ctx, d, exe)
}

// who names the person for leases and the history.
func who() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s@%s (pid %d)", name, host, os.Getpid())
}

// service is the one named on the command line, or that of the fairlead.yaml in this folder.
func (a *app) service(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	s, err := spec.Load(".", a.env)
	if err != nil {
		f := *fail.As(err)
		if _, e := os.Stat(spec.FileName); errors.Is(e, os.ErrNotExist) {
			f.Hint = "name the service (`fairlead status` lists them), or go to its folder"
		}
		return "", &f
	}
	return s.Service, nil
}

// print writes v as JSON, or lets text write it for people.
func (a *app) print(v any, text func(io.Writer)) error {
	if a.json {
		return json.NewEncoder(a.Stdout).Encode(v)
	}
	text(a.Stdout)
	return nil
}

// printError lays an error out: what, the last lines, what to type.
func (a *app) printError(err error) {
	f := fail.As(err)
	if a.json {
		json.NewEncoder(a.Stdout).Encode(map[string]any{"type": "error", "error": f, "exit_code": fail.ExitCode(err)})
		return
	}
	s := newStyles(isTerminal(a.Stderr), a.Getenv)
	text := f.Error()
	if f.Err != nil && f.Op == "" && f.Place == "" {
		text = f.Err.Error()
	}
	fmt.Fprintln(a.Stderr, s.bad("error: ")+printable(strings.TrimSpace(text)))
	for _, l := range f.Lines {
		for part := range strings.Lines(l) {
			fmt.Fprintln(a.Stderr, s.dim("  | ")+printable(strings.TrimRight(part, "\n")))
		}
	}
	if f.Hint != "" {
		fmt.Fprintln(a.Stderr, s.good("hint: ")+f.Hint)
	}
}
