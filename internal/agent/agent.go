// Package agent is a machine's daemon: its API, its durable state and its rollouts. It wires the mechanisms together and
// takes no traffic itself: it may die at any instant.
package agent

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/alert"
	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
)

// Agent is the daemon's state. Everything that must survive is in the journal and on the data plane.
type Agent struct {
	dirs    home.Dirs
	info    api.Info
	log     *slog.Logger
	journal *journal.Journal
	depot   depot.Depot
	machine *machine.Machine
	stats   *edge.Stats
	samples sampler
	metrics *metrics.DB     // nil where none are kept
	promAPI http.Handler    // of metrics
	ctx     context.Context // the daemon's life

	alertsApply sync.Mutex // held while receivers and rules are replaced
	alertsMu    sync.Mutex
	alerts      *alert.Dispatcher // nil where none work

	fleet sync.Mutex // held while a part in a fleet rollout is read and written

	mu   sync.Mutex
	runs map[int64]*run // rollouts under way
}

// Open opens the agent's state. Close it at the end.
func Open(ctx context.Context, d home.Dirs, version string, log *slog.Logger) (*Agent, error) {
	j, err := journal.Open(ctx, d.DB())
	if err != nil {
		return nil, err
	}
	st, err := edge.OpenStats(d.Stats(), false)
	if err != nil {
		j.Close()
		return nil, err
	}
	return &Agent{dirs: d, log: log, journal: j, stats: st, depot: depot.At(d), machine: machine.New(d, st, log), ctx: ctx, runs: map[int64]*run{},
		info: api.Info{Version: version, Protocol: api.Protocol, PID: os.Getpid(), Started: time.Now()}}, nil
}

// Run follows the machine and goes on with what was interrupted, until the context given to Open is done.
func (a *Agent) Run() {
	var wg sync.WaitGroup
	a.openMetrics()
	a.openAlerts()
	for _, f := range []func(){func() { a.machine.Run(a.ctx) }, a.resume, a.scrape, a.sample, a.housekeep} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f()
		}()
	}
	wg.Wait()
	if a.metrics != nil {
		if err := a.metrics.Close(); err != nil {
			a.log.Error("close the metrics", "error", err)
		}
	}
	a.closeAlerts() // after what raises them
}

// Close closes the agent's state.
func (a *Agent) Close() error {
	if err := a.stats.Close(); err != nil {
		a.log.Error("close the counters", "error", err)
	}
	return a.journal.Close()
}

// target is the view of one service that the engine works on.
func (a *Agent) target(service, env, listen string) *machine.Target {
	return a.machine.Target(service, env, listen, func(rel release.ID, instance int) []string {
		return a.tail(service, env, int(rel), instance)
	})
}

// tailLines is how much of a failing release's log stands in the error.
const tailLines = 20

// tail returns an instance's last log lines as a person reads them.
func (a *Agent) tail(service, env string, rel, instance int) []string {
	var out []string
	for _, r := range logs.Tail(a.dirs.Logs(), logs.Query{Service: service, Env: env, Release: rel, Instance: instance}, tailLines) {
		out = append(out, r.Time.Local().Format("15:04:05.000")+" "+r.Level+" "+r.Message)
	}
	return out
}

// every calls f at an interval until the agent ends.
func (a *Agent) every(d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}

// housekeep stops what stayed warm long enough.
func (a *Agent) housekeep() {
	a.every(time.Second, func() {
		all, err := a.journal.Environments(a.ctx)
		if err != nil {
			a.log.Error("housekeeping", "error", err)
			return
		}
		for _, e := range all {
			if e.WarmRelease == 0 || time.Now().Before(e.WarmUntil) || a.busy(e.Service, e.Environment) {
				continue
			}
			if err := a.cool(e); err != nil {
				a.log.Error("cannot stop what was kept warm", "service", e.Service, "release", e.WarmRelease, "error", err)
			}
		}
	})
}

func (a *Agent) cool(e journal.Environment) error {
	if err := a.target(e.Service, e.Environment, e.Listen).Scale(a.ctx, e.WarmRelease, 0); err != nil {
		return err
	}
	return a.journal.Cooled(a.ctx, e.Service, e.Environment)
}

// busy reports whether a rollout of the service runs.
func (a *Agent) busy(service, env string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.runs {
		if r.plan.Service == service && r.plan.Environment == env {
			return true
		}
	}
	return false
}

// prune removes the files of releases that nobody will go back to. It is best effort: what fails is tried at the next end.
func (a *Agent) prune(service, env string, keep int) {
	e, err := a.journal.Environment(a.ctx, service, env)
	if err != nil {
		return
	}
	all, err := a.journal.Releases(a.ctx, service, env)
	if err != nil {
		return
	}
	kept := 0
	for _, r := range all { // newest first
		if r.ID == e.Current || r.ID == e.Previous || r.ID == e.WarmRelease {
			continue
		}
		if kept++; kept <= keep {
			continue
		}
		err := a.machine.Forget(a.ctx, service, env, int(r.ID))
		if err == nil {
			err = os.RemoveAll(a.dirs.Release(service, env, int(r.ID)))
		}
		if err == nil {
			err = a.journal.Pruned(a.ctx, service, env, r.ID)
		}
		if err != nil {
			a.log.Error("cannot prune", "service", service, "release", r.ID, "error", err)
		}
	}
	a.pruneArtifacts()
}

func notFound(err error) bool { return fail.KindOf(err) == fail.NotFound }
