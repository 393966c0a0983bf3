// Package machine is the target that is a machine: instances under its supervisor, traffic through its edge.
//
// A [Machine] serves all services of one machine; [Machine.Target] is the view of one service that the engine works on.
package machine

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/steer"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Machine keeps the edge's table in step with what the supervisor says is ready. Make it with [New], then Run it.
type Machine struct {
	dirs  home.Dirs
	sup   *supervise.Client
	edge  *edge.Client
	stats *edge.Stats
	log   *slog.Logger

	mu       sync.Mutex
	steering steering
	table    edge.Table // in force, or about to be
	known    bool       // table was read from the edge
	snap     supervise.Snapshot
	draining map[instanceID]bool // ready, but gets nothing new
	changed  chan struct{}       // closed and replaced at each snapshot
}

// New makes the machine behind d's sockets. st is read for the requests under way.
func New(d home.Dirs, st *edge.Stats, log *slog.Logger) *Machine {
	return &Machine{dirs: d, sup: supervise.NewClient(d.Sock(home.Supervisor)), edge: edge.NewClient(d.Sock(home.Edge)), stats: st,
		log: log, draining: map[instanceID]bool{}, changed: make(chan struct{}),
		steering: steering{watched: map[string]int{}, owners: map[steer.Socket]instanceID{}}}
}

// Run follows the supervisor until ctx is done: every change of what is ready reaches the edge.
func (m *Machine) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.keepSteering(ctx) })
	var rev uint64
	for ctx.Err() == nil {
		snap, err := m.sup.Wait(ctx, rev)
		if err == nil {
			rev = snap.Revision
			err = m.follow(ctx, snap)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Info("following the supervisor", "error", err)
			rev = 0                            // ask for everything again, and let the edge have it
			wait.For(ctx, 50*time.Millisecond) // the loop looks at ctx
		}
	}
}

// follow takes a snapshot in and tells the edge when that changes anything.
func (m *Machine) follow(ctx context.Context, snap supervise.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snap = snap
	close(m.changed)
	m.changed = make(chan struct{})
	return m.push(ctx, nil)
}

// push computes the table, changed by f, and puts it in force when it differs. m.mu is held.
func (m *Machine) push(ctx context.Context, f func(*edge.Table)) error {
	if !m.known {
		t, err := m.edge.Table(ctx)
		if err != nil {
			return err
		}
		m.table, m.known = t, true
	}
	next := clone(m.table)
	if f != nil {
		f(&next)
	}
	for i := range next.Routes {
		r := &next.Routes[i]
		r.Direct = m.direct(*r)
		for b := range r.Backends {
			r.Backends[b].Endpoints = m.endpoints(r.Service, r.Environment, r.Backends[b].Release)
		}
	}
	if reflect.DeepEqual(next, m.table) {
		m.steer()
		return nil
	}
	gen, err := m.edge.Set(ctx, next)
	if err != nil {
		m.known = false // the edge may have it or not: ask before the next change
		return err
	}
	next.Generation = gen
	m.table = next
	m.steer()
	return nil
}

func clone(t edge.Table) edge.Table {
	b, err := json.Marshal(t)
	if err != nil {
		panic(err) // a table holds nothing that JSON cannot
	}
	var out edge.Table
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// endpoints lists the ready instances of a release that take new requests. m.mu is held.
func (m *Machine) endpoints(service, env string, rel int) []edge.Endpoint {
	var out []edge.Endpoint
	for _, i := range m.snap.Instances {
		if i.Service == service && i.Environment == env && i.Release == rel && i.State == supervise.Ready && !m.draining[idOf(i)] {
			out = append(out, edge.Endpoint{Instance: i.Number, Addr: i.Addr()})
		}
	}
	sort.Slice(out, func(a, b int) bool { return out[a].Instance < out[b].Instance })
	return out
}

// instanceID names an instance over all of its lives.
type instanceID struct {
	service, env    string
	release, number int
}

func idOf(i supervise.Instance) instanceID {
	return instanceID{i.Service, i.Environment, i.Release, i.Number}
}

// Ready waits until the machine is informed.
func (m *Machine) Ready(ctx context.Context) error {
	return m.await(ctx, func() (bool, error) { return m.informed(), nil })
}

// Instances returns what the supervisor last said of a service's instances.
func (m *Machine) Instances(service, env string) []supervise.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(service, env, 0)
}

// Ask runs a command for an instance as the service's own; the error says how it ended, if not well.
func (m *Machine) Ask(ctx context.Context, i supervise.Instance, argv []string) error {
	p, err := m.Target(i.Service, i.Environment, "", nil).program(release.ID(i.Release))
	if err != nil {
		return err
	}
	return supervise.Ask(ctx, p, i.Number, i.Port, argv)
}

// All returns what the supervisor last said of every instance. Unlike [Machine.Supervised] it asks nobody.
func (m *Machine) All() []supervise.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.snap.Instances)
}

// of filters the snapshot; release 0 means all. m.mu is held.
func (m *Machine) of(service, env string, rel int) []supervise.Instance {
	var out []supervise.Instance
	for _, i := range m.snap.Instances {
		if i.Service == service && i.Environment == env && (rel == 0 || i.Release == rel) {
			out = append(out, i)
		}
	}
	return out
}

// Table returns the routing table in force.
func (m *Machine) Table(ctx context.Context) (edge.Table, error) { return m.edge.Table(ctx) }

// Certificates returns what the edge serves TLS with.
func (m *Machine) Certificates(ctx context.Context) (edge.Certificates, error) {
	return m.edge.Certificates(ctx)
}

// Supervised returns the supervisor's fresh snapshot, with what each instance takes.
func (m *Machine) Supervised(ctx context.Context) (supervise.Snapshot, error) {
	return m.sup.Snapshot(ctx)
}

// patience is how long a supervisor or an edge that died may take to be started again, before that counts as a failure.
const patience = 15 * time.Second

// patiently repeats f while the process behind it is away. f is idempotent, as every call of this package is.
func patiently(ctx context.Context, f func() error) error {
	for end := time.Now().Add(patience); ; {
		err := f()
		if fail.KindOf(err) != fail.Unavailable || time.Now().After(end) {
			return err
		}
		if err := wait.For(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// change is push for callers that do not hold m.mu.
func (m *Machine) change(ctx context.Context, f func(*edge.Table)) error {
	return patiently(ctx, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.push(ctx, f)
	})
}

// Remove takes a service out of the table, stops its instances and forgets its releases.
func (m *Machine) Remove(ctx context.Context, service, env string, releases []int) error {
	err := m.change(ctx, func(t *edge.Table) {
		for i := range t.Routes {
			if t.Routes[i].Service == service && t.Routes[i].Environment == env {
				t.Routes = append(t.Routes[:i], t.Routes[i+1:]...)
				return
			}
		}
	})
	if err != nil {
		return err
	}
	for _, r := range releases {
		if err := m.Forget(ctx, service, env, r); err != nil {
			return err
		}
	}
	return m.await(ctx, func() (bool, error) { return len(m.of(service, env, 0)) == 0, nil })
}

// Forget drops a release that has no instances any more.
func (m *Machine) Forget(ctx context.Context, service, env string, rel int) error {
	return patiently(ctx, func() error { return m.sup.Forget(ctx, supervise.GroupKey(service, env, rel)) })
}

// await waits until f says yes, looking at each new snapshot; f runs with m.mu held.
func (m *Machine) await(ctx context.Context, f func() (bool, error)) error {
	for {
		m.mu.Lock()
		ok, err := f()
		ch := m.changed
		m.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
