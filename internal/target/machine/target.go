package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Target is one service in one environment on a machine. It implements [rollout.Target].
type Target struct {
	m       *Machine
	service string
	env     string
	listen  string // the public address chosen for the service
	tail    func(rel release.ID, instance int) []string
}

var _ rollout.Target = (*Target)(nil)

// Target returns the view of one service. listen is its public address; tail gives the last lines of an instance's log
// for errors.
func (m *Machine) Target(service, env, listen string, tail func(release.ID, int) []string) *Target {
	return &Target{m, service, env, listen, tail}
}

// Caps implements [rollout.Target].
func (t *Target) Caps() rollout.Caps { return rollout.Caps{WeightStep: 1, Surge: true} }

// Observe implements [rollout.Target]: it asks the supervisor and the edge, now.
func (t *Target) Observe(ctx context.Context) (rollout.State, error) {
	snap, err := t.m.sup.Snapshot(ctx)
	if err != nil {
		return rollout.State{}, err
	}
	table, err := t.m.edge.Table(ctx)
	if err != nil {
		return rollout.State{}, err
	}
	st := rollout.State{Releases: map[release.ID]rollout.Running{}}
	for _, i := range snap.Instances {
		if i.Service != t.service || i.Environment != t.env || i.Process.PID == 0 {
			continue
		}
		r := st.Releases[release.ID(i.Release)]
		r.Instances++
		if i.State == supervise.Ready {
			r.Ready++
		}
		st.Releases[release.ID(i.Release)] = r
	}
	if r := table.Find(t.service, t.env); r != nil {
		for _, b := range r.Backends {
			x := st.Releases[release.ID(b.Release)]
			x.Weight = b.Weight
			st.Releases[release.ID(b.Release)] = x
		}
	}
	return st, nil
}

const programFile = "program.json"

// Stage implements [rollout.Target]: the artifact is verified, whenever it came, and its programs are linked into the
// release's folder, beside the program that the supervisor will be given. Secrets were put there when the release was made.
func (t *Target) Stage(ctx context.Context, r release.Release) error {
	var s spec.Spec
	if err := json.Unmarshal(r.Config, &s); err != nil {
		return fmt.Errorf("release %d: %w", r.ID, err)
	}
	data, err := t.m.serviceDir(t.service, t.env)
	if err != nil {
		return err
	}
	dir := t.m.dirs.Release(t.service, t.env, int(r.ID))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	bin, err := t.m.programs(ctx, r.Artifact.Digest, dir)
	if err != nil {
		return fmt.Errorf("release %d: %w", r.ID, err)
	}
	for file, v := range map[string]any{routeFile: routingOf(&s), hooksFile: s.Release.Hooks} {
		if err := home.WriteJSON(filepath.Join(dir, file), v, 0o600); err != nil {
			return err
		}
	}
	p := supervise.Program{
		Service: t.service, Environment: t.env, Release: int(r.ID), Path: bin, Args: s.Run.Args, Env: s.Run.Env, Port: s.Run.Port, Dir: data,
		Limits: s.Run.Limits, Probes: s.Run.Probes, StartupTimeout: s.Run.StartupTimeout, Stop: s.Run.Stop, Logs: s.Run.Logs,
	}
	if s.Route.Mode != spec.ModeProxy {
		p.Env = withoutMultipath(p.Env)
	}
	if f := s.Run.Faults; f != (spec.InstanceFaults{}) {
		if err := t.m.burden(&p, f); err != nil {
			return err
		}
	}
	if len(s.Run.Secrets) > 0 {
		p.SecretsFile = SecretsPath(t.m.dirs, t.service, t.env, r.ID)
		if _, err := os.Stat(p.SecretsFile); err != nil {
			return fmt.Errorf("the secrets of release %d are not on this machine: deploy it again: %w", r.ID, err)
		}
	}
	return home.WriteJSON(filepath.Join(dir, programFile), p, 0o600)
}

// withoutMultipath has a Go service open plain TCP sockets, which the kernel can hand connections to. What the service says of
// it itself stays.
func withoutMultipath(env map[string]string) map[string]string {
	const setting = "multipathtcp"
	out := maps.Clone(env)
	switch old := env["GODEBUG"]; {
	case out == nil:
		out = map[string]string{"GODEBUG": setting + "=0"}
	case old == "":
		out["GODEBUG"] = setting + "=0"
	case !strings.Contains(old, setting):
		out["GODEBUG"] = old + "," + setting + "=0"
	}
	return out
}

// programs verifies an artifact and links its programs into dir. It returns the path of the one that is started.
func (m *Machine) programs(ctx context.Context, digest, dir string) (string, error) {
	store := depot.At(m.dirs)
	_, policy, err := store.Policy()
	if err != nil {
		return "", err
	}
	p, err := store.Program(ctx, digest, policy)
	if err != nil {
		return "", err
	}
	files, err := os.ReadDir(p.Dir)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if err := os.Link(filepath.Join(p.Dir, f.Name()), filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	return filepath.Join(dir, p.Start), nil
}

// SecretsPath is where a release's secrets lie on a machine.
func SecretsPath(d home.Dirs, service, env string, id release.ID) string {
	return filepath.Join(d.Release(service, env, int(id)), "secrets.json")
}

func (t *Target) program(id release.ID) (supervise.Program, error) {
	var p supervise.Program
	err := home.ReadJSON(filepath.Join(t.m.dirs.Release(t.service, t.env, int(id)), programFile), &p)
	return p, err
}

// Scale implements [rollout.Target].
func (t *Target) Scale(ctx context.Context, id release.ID, n int) error {
	if err := t.m.Ready(ctx); err != nil {
		return err
	}
	if n == 0 {
		for _, name := range []string{rollout.HookBefore, rollout.HookAfter} {
			endHook(ctx, t.hookFile(id, name))
		}
	}
	p, err := t.program(id)
	if errors.Is(err, os.ErrNotExist) && n == 0 {
		return nil // never staged, so nothing of it runs
	}
	if err != nil {
		return fmt.Errorf("release %d is not staged: %w", id, err)
	}
	if err := t.drain(ctx, id, n, p.Stop.Drain.D()); err != nil {
		return err
	}
	if err := patiently(ctx, func() error { return t.m.sup.Set(ctx, supervise.Group{Program: p, Want: n}) }); err != nil {
		return err
	}
	return t.settle(ctx, id, n, p)
}

// drain takes the instances above n out of the traffic and waits for their open requests, at most as long as the release
// allows.
func (t *Target) drain(ctx context.Context, id release.ID, n int, limit time.Duration) error {
	m := t.m
	m.mu.Lock()
	var leaving []supervise.Instance
	for k := 1; k <= n; k++ {
		delete(m.draining, instanceID{t.service, t.env, int(id), k})
	}
	for _, i := range m.of(t.service, t.env, int(id)) {
		if i.Number > n {
			leaving = append(leaving, i)
			m.draining[idOf(i)] = true
		}
	}
	m.mu.Unlock()
	if err := m.change(ctx, nil); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, i := range leaving {
		for m.stats.Open(t.service, t.env, int(id), i.Number) > 0 && wait.For(within, 5*time.Millisecond) == nil {
			continue
		}
	}
	t.freeOf(within, leaving)
	return context.Cause(ctx)
}

// giveUpAfter is how many ends before its first readiness an instance of a new release has. One that was merely too slow
// gets no second chance: its user has waited long enough.
const giveUpAfter = 3

// settle waits until exactly n instances are there and ready.
func (t *Target) settle(ctx context.Context, id release.ID, n int, p supervise.Program) error {
	// The supervisor judges who is late; this bound is for a supervisor that does not.
	ctx, cancel := context.WithTimeoutCause(ctx, 2*p.StartupTimeout.D()+p.Stop.Timeout.D()+30*time.Second, errLate)
	defer cancel()
	err := t.m.await(ctx, func() (bool, error) {
		ready := 0
		all := t.m.of(t.service, t.env, int(id))
		for _, i := range all {
			switch {
			case i.Number > n:
			case i.State == supervise.Ready:
				ready++
			case i.Exits > 0 && i.Last.Late:
				return false, t.failed(i, i.Last.Reason)
			case i.Exits >= giveUpAfter:
				return false, t.failed(i, fmt.Sprintf("ended %d times before it was ready; the last time it %s", i.Exits, i.Last.Reason))
			}
		}
		return ready == n && len(all) == n, nil
	})
	if err != nil {
		return err
	}
	return t.m.change(ctx, nil) // ready ones get traffic before this returns, where their release has a weight
}

var errLate = errors.New("the supervisor did not say how the instances are")

// failed says why an instance did not come up, with its last words.
func (t *Target) failed(i supervise.Instance, why string) error {
	e := fail.New(fail.Unhealthy, "", "instance %d of release %d %s", i.Number, i.Release, why)
	e.Lines = t.tail(release.ID(i.Release), i.Number)
	e.Hint = fmt.Sprintf("run `fairlead logs %s --release %d%s`", t.service, i.Release, spec.EnvFlag(t.env))
	if i.Last.Hint != "" {
		e.Hint = i.Last.Hint
	}
	return e
}

// Route implements [rollout.Target].
func (t *Target) Route(ctx context.Context, w rollout.Weights) error {
	m := t.m
	if err := m.Ready(ctx); err != nil {
		return err
	}
	top, newest := release.ID(0), release.ID(0)
	says := map[release.ID]routing{}
	for id, n := range w {
		newest = max(newest, id)
		m.mu.Lock()
		ready := len(m.endpoints(t.service, t.env, int(id)))
		m.mu.Unlock()
		if n > 0 && ready == 0 {
			return fail.New(fail.Unhealthy, "", "no instance of release %d is ready to take %d %% of the traffic", id, n)
		}
		if n > w[top] || n == w[top] && id > top {
			top = id
		}
		var err error
		if says[id], err = t.routing(id); err != nil {
			return err
		}
	}
	return m.change(ctx, func(table *edge.Table) {
		r := table.Find(t.service, t.env)
		if r == nil {
			if len(w) == 0 {
				return // nothing had traffic, and nothing shall
			}
			table.Routes = append(table.Routes, edge.Route{Service: t.service, Environment: t.env})
			r = &table.Routes[len(table.Routes)-1]
		}
		if top != 0 { // as the release that most clients see was made for, but for who sees the newest one
			*r = says[top].at(t.service, t.env, t.listen)
			r.Sticky, r.Preview, r.Mirror = says[newest].Sticky, says[newest].Preview, says[newest].Mirror
		}
		r.Stopped, r.Backends = false, nil
		for id, n := range w {
			r.Backends = append(r.Backends, edge.Backend{Release: int(id), Weight: n, Faults: says[id].Faults})
		}
		slices.SortFunc(r.Backends, func(a, b edge.Backend) int { return a.Release - b.Release })
	})
}

// Stop ends all instances of a service in order; requests are refused at once from then on.
func (t *Target) Stop(ctx context.Context, releases []release.ID) error {
	err := t.m.change(ctx, func(table *edge.Table) {
		if r := table.Find(t.service, t.env); r != nil {
			r.Stopped, r.Backends = true, nil
		}
	})
	if err != nil {
		return err
	}
	for _, id := range releases {
		if err := t.Scale(ctx, id, 0); err != nil {
			return err
		}
	}
	return nil
}
