package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/steer"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Daemon is what one of the machine's three processes runs with.
type Daemon struct {
	Dirs     home.Dirs
	Version  string
	Log      *slog.Logger
	TakeOver bool   // the edge only: replace the living one
	Hook     string // of [machine.HookRole]: the record's file
}

// Run is the life of the process of role, until ctx is done. It returns [keeper.ErrHeld] when another one lives.
func (d Daemon) Run(ctx context.Context, role string) error {
	if err := d.Dirs.Make(); err != nil {
		return err
	}
	if role == machine.HookRole {
		return machine.RunHook(ctx, d.Dirs, d.Hook)
	}
	if role == home.Edge && d.TakeOver {
		return d.replaceEdge(ctx)
	}
	lock, err := keeper.Hold(d.Dirs, role)
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	defer lock.Close()
	d.watchOthers(ctx, role)
	switch role {
	case home.Supervisor:
		err = d.runSupervisor(ctx)
	case home.Edge:
		return d.runEdge(ctx, lock)
	case home.Agent:
		err = d.runAgent(ctx)
	default:
		return fail.New(fail.Usage, "", "there is no role %q", role)
	}
	if err == nil {
		err = keeper.SignOff(lock)
	}
	return err
}

// watchOthers makes this process start the two others again when they die.
func (d Daemon) watchOthers(ctx context.Context, role string) {
	for _, other := range home.Roles {
		if other != role {
			go keeper.Watch(ctx, d.Dirs, other, d.Log)
		}
	}
}

func (d Daemon) runSupervisor(ctx context.Context) error {
	if err := keeper.ServeStore(d.Dirs, home.Supervisor); err != nil {
		return err
	}
	s, err := supervise.New(supervise.Options{Dirs: d.Dirs, Version: d.Version, Log: d.Log, Record: d.record, GivePort: steer.GivePort})
	if err != nil {
		return err
	}
	if err := d.serve(home.Supervisor, s.Handler()); err != nil {
		return err
	}
	<-ctx.Done()
	if keeper.Stopping(d.Dirs) {
		s.Shutdown()
	} else {
		s.Close()
	}
	return nil
}

// record opens an instance's log.
func (d Daemon) record(i supervise.Instance, p supervise.Program, hide []string) (supervise.Recorder, error) {
	return logs.NewWriter(d.Dirs.Logs(), logs.Meta{Service: i.Service, Env: i.Environment, Release: i.Release, Instance: i.Number,
		Size: int64(p.Logs.Size), Age: p.Logs.Age.D(), Hide: hide})
}

func (d Daemon) runAgent(ctx context.Context) error {
	a, err := Open(ctx, d.Dirs, d.Version, d.Log)
	if err != nil {
		return err
	}
	if err := d.serve(home.Agent, a.Handler()); err != nil {
		return err
	}
	a.Run()
	// The journal is not closed: rollouts still write to it until the process is gone, and SQLite recovers by itself.
	return nil
}

// serve opens the role's socket and answers on it for the life of the process.
func (d Daemon) serve(role string, h http.Handler) error {
	l, err := home.Listen(d.Dirs.Sock(role))
	if err != nil {
		return err
	}
	go (&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
	return nil
}

// Up makes sure that the machine's processes run, with exe as their program where none runs yet, and returns when the
// agent answers.
func Up(ctx context.Context, d home.Dirs, exe string) (*api.Client, error) {
	if err := d.Make(); err != nil {
		return nil, fail.New(fail.Preflight, "prepare the machine", "%w", err)
	}
	c := api.Dial(d)
	if _, err := c.Info(ctx); err == nil && !keeper.Stopping(d) {
		return c, nil
	}
	if !keeper.Running(d, home.Agent) {
		if _, err := keeper.Install(d, exe); err != nil {
			return nil, err
		}
	}
	if err := keeper.Start(d); err != nil {
		return nil, err
	}
	return c, answers(ctx, c, d)
}

// startWait bounds how long the agent may take to answer.
const startWait = 20 * time.Second

// answers waits until all three processes do.
func answers(ctx context.Context, c *api.Client, d home.Dirs) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		_, err := c.Status(ctx, "", "") // it needs all three processes
		if err == nil {
			return nil
		}
		if wait.For(ctx, 10*time.Millisecond) != nil {
			e := fail.New(fail.Unavailable, "start the agent", "it does not answer: %w", err).Hinted("its own log is %s", d.DaemonLog(home.Agent))
			for _, role := range home.Roles {
				e.Lines = append(e.Lines, lastLines(d.DaemonLog(role), 5)...)
			}
			return e
		}
	}
}

// Down stops the machine's processes and every instance in order: first the brain, then the traffic, then the services.
// What runs is remembered and comes back with [Up].
func Down(ctx context.Context, d home.Dirs) error {
	if _, err := os.Stat(d.Run); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever started here
	}
	if err := keeper.SetStopping(d); err != nil {
		return err
	}
	if err := end(ctx, d, home.Agent, keeper.PID(d, home.Agent)); err != nil {
		return err
	}
	for _, pid := range edge.Processes(d.Stats()) { // those that were replaced and still serve somebody, too
		if err := end(ctx, d, "", pid); err != nil {
			return err
		}
	}
	if err := end(ctx, d, home.Edge, keeper.PID(d, home.Edge)); err != nil {
		return err
	}
	return end(ctx, d, home.Supervisor, keeper.PID(d, home.Supervisor))
}

// Upgrade makes exe the machine's program and replaces the three processes one after the other. No connection is closed
// and no instance is stopped.
func Upgrade(ctx context.Context, d home.Dirs, exe string) error {
	if _, err := keeper.Install(d, exe); err != nil {
		return err
	}
	for _, role := range []string{home.Agent, home.Supervisor} {
		pid := keeper.PID(d, role)
		if err := terminate(pid); err != nil {
			return fmt.Errorf("replace the %s: %w", role, err)
		}
		if err := waitFor(ctx, func() bool { return keeper.PID(d, role) != pid && keeper.Running(d, role) }); err != nil {
			return fmt.Errorf("replace the %s: %w", role, err)
		}
	}
	if err := ReplaceEdge(ctx, d); err != nil {
		return err
	}
	return answers(ctx, api.Dial(d), d)
}

// ReplaceEdge starts a new edge that takes everything over from the living one.
func ReplaceEdge(ctx context.Context, d home.Dirs) error {
	pid := keeper.PID(d, home.Edge)
	if err := keeper.Spawn(d, home.Edge, "--takeover"); err != nil {
		return err
	}
	if err := waitFor(ctx, func() bool { return keeper.PID(d, home.Edge) != pid }); err != nil {
		return fmt.Errorf("replace the edge: %w; its log is %s", err, d.DaemonLog(home.Edge))
	}
	return nil
}

func waitFor(ctx context.Context, f func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, errors.New("the new process did not start"))
	defer cancel()
	return wait.Until(ctx, 10*time.Millisecond, f)
}

// Unit is the systemd unit that brings the machine's processes back after a reboot; system says for root, otherwise for
// the user's own manager.
func Unit(d home.Dirs, system bool) string {
	wanted := "default.target"
	if system {
		wanted = "multi-user.target"
	}
	q := strconv.Quote
	env := ""
	if dir := os.Getenv("FAIRLEAD_DIR"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			env = "Environment=FAIRLEAD_DIR=" + q(abs) + "\n"
		}
	}
	return `[Unit]
Description=fairlead: services, their supervisor, edge and agent
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
` + env + `ExecStart=` + q(d.Program()) + ` agent start
ExecStop=` + q(d.Program()) + ` agent stop
# The three processes hold each other up; systemd starts and stops them together.
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
TimeoutStopSec=90

[Install]
WantedBy=` + wanted + "\n"
}

// Crontab is the line that does the same where there is no systemd.
func Crontab(d home.Dirs) string {
	env := ""
	if dir := os.Getenv("FAIRLEAD_DIR"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			env = "FAIRLEAD_DIR=" + abs + " "
		}
	}
	return "@reboot " + env + d.Program() + " agent start"
}
