package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/steer"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// steering keeps the kernel in step with the edge's table for the services whose route.mode asks for it. The edge has all of
// them in its table, too: what the kernel cannot place is served there.
type steering struct {
	kernel  *steer.Kernel
	lacks   error                       // why there is none
	tidied  bool                        // nothing of an earlier agent is left, or it is taken over
	ended   bool                        // there was one: what it did is the next agent's by now
	watched map[string]int              // by route: how many need to know what the instances answer
	owners  map[steer.Socket]instanceID // of what is counted
	ways    map[string]Way              // by route
}

// Way is how a service's new connections reach its instances.
type Way struct {
	Mode  string // kernel, or proxy
	Why   string // it is the proxy, where the kernel was asked for
	Lacks bool   // Why is something that is missing, and not only how things are now
}

// steer puts into the kernel what the table in force says. m.mu is held.
func (m *Machine) steer() {
	s := &m.steering
	asked := slices.ContainsFunc(m.table.Routes, func(r edge.Route) bool { return r.Mode != "" })
	if !asked && s.kernel == nil && s.lacks == nil {
		m.tidy()
		return
	}
	if s.kernel == nil && s.lacks == nil {
		s.kernel, s.lacks = steer.Open(m.pinned())
		s.tidied = s.kernel != nil
		if s.lacks != nil {
			m.log.Warn("the kernel cannot steer connections: they go through the edge", "error", s.lacks)
		}
	}
	ways := map[string]Way{}
	var services []steer.Service
	key := map[netip.AddrPort]string{}
	for _, r := range m.table.Routes {
		if r.Mode == "" {
			continue
		}
		svc, way := m.steered(r)
		if s.lacks != nil {
			way = Way{Why: s.lacks.Error(), Lacks: true}
		}
		if way.Mode = spec.ModeKernel; way.Why != "" {
			way.Mode = spec.ModeProxy
		}
		ways[r.Key()] = way
		if svc.Listen.IsValid() && s.lacks == nil {
			services, key[svc.Listen] = append(services, svc), r.Key()
		}
	}
	if s.kernel != nil {
		for at, err := range s.kernel.Set(services) {
			ways[key[at]] = Way{Mode: spec.ModeProxy, Why: err.Error(), Lacks: true}
		}
	}
	for k, w := range ways {
		if w != s.ways[k] {
			m.log.Info("how connections reach instances", "route", k, "way", w.Mode, "why", w.Why)
		}
	}
	s.ways = ways
}

// pinned is the name of what stays in the kernel when the agent is gone.
func (m *Machine) pinned() string { return "fairlead-" + home.Key(m.dirs.State) }

// tidy ends what an earlier agent left in the kernel, when nobody wants it any more. m.mu is held.
func (m *Machine) tidy() {
	if m.steering.tidied {
		return
	}
	if err := steer.Forget(m.pinned()); err != nil {
		m.log.Error("what an earlier agent left in the kernel", "error", err)
	}
	m.steering.tidied = true
}

// steered is a route as the kernel is to place its connections, without an address where there is nothing to place; way says
// why they go through the proxy, if they do. m.mu is held.
func (m *Machine) steered(r edge.Route) (svc steer.Service, way Way) {
	at, err := listenAddr(r.Listen)
	if err != nil {
		return svc, Way{Why: err.Error(), Lacks: true}
	}
	svc = steer.Service{Listen: at, Sticky: r.Sticky == "client"}
	weighted := 0
	for _, b := range r.Backends {
		share := steer.Share{Release: b.Release, Weight: b.Weight}
		for _, i := range m.of(r.Service, r.Environment, b.Release) {
			if !slices.ContainsFunc(b.Endpoints, func(e edge.Endpoint) bool { return e.Instance == i.Number }) {
				continue
			}
			sock := steer.Socket{Process: i.Process, Port: i.Port}
			share.Sockets = append(share.Sockets, sock)
			m.steering.owners[sock] = idOf(i)
		}
		if b.Weight > 0 && len(share.Sockets) > 0 {
			weighted++
		}
		svc.Shares = append(svc.Shares, share)
	}
	watched := m.steering.watched[r.Key()] > 0
	svc.Observe = watched
	switch {
	case weighted == 0:
		return steer.Service{}, Way{Why: "no instance is ready"}
	case r.Mode == spec.ModeKernel:
	case watched || weighted > 1:
		way.Why = "a rollout is under way"
		id, err := proc.Identify(keeper.PID(m.dirs, home.Edge))
		if err != nil {
			return steer.Service{}, way // the edge is being started again, and its socket lives on meanwhile
		}
		svc.Proxy = steer.Socket{Process: id, Port: int(at.Port())}
	}
	return svc, way
}

// listenAddr reads a public address; a host that is not there stands for all addresses.
func listenAddr(listen string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ip, err := netip.ParseAddr(cmp.Or(host, "0.0.0.0"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("route.listen names %q, and the kernel needs an address", host)
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// direct reports whether the kernel places a route's connections. m.mu is held.
func (m *Machine) direct(r edge.Route) bool { return m.steering.ways[r.Key()].Mode == spec.ModeKernel }

// Way says how a service's new connections reach its instances.
func (m *Machine) Way(service, env string) Way {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.steering.ways[edge.Route{Service: service, Environment: env}.Key()]; ok {
		return w
	}
	return Way{Mode: spec.ModeProxy}
}

// Watch begins to look at what a service's instances answer, request by request, as a rollout's gates need it; the edge sees
// that anyway. The returned function ends it.
func (m *Machine) Watch(service, env string) (end func()) {
	key := edge.Route{Service: service, Environment: env}.Key()
	add := func(n int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.steering.watched[key] += n; m.steering.watched[key] == 0 {
			delete(m.steering.watched, key)
		}
		m.count()
		if m.informed() {
			m.steer()
		}
	}
	add(1) // the edge is told with the next change, a second later at most
	return func() { add(-1) }
}

// Count adds what the kernel counted to the edge's counters: whoever reads those needs not know who counted.
func (m *Machine) Count() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count()
}

func (m *Machine) count() {
	if m.steering.kernel == nil {
		return
	}
	for sock, c := range m.steering.kernel.Take() {
		id, ok := m.steering.owners[sock]
		if !ok {
			continue
		}
		e := edge.Counts{Nanos: c.Nanos, Aborted: c.Aborted, Failed: c.Unanswered + c.Classes[5], Undone: c.Unanswered, Classes: c.Classes, Hist: c.Hist[:], Requests: c.Aborted}
		for _, n := range c.Classes {
			e.Requests += n
		}
		if err := m.stats.Merge(id.service, id.env, id.release, id.number, e); err != nil {
			m.log.Error("what the kernel counted is lost", "error", err)
		}
	}
}

// steerEvery is how often the kernel's state is compared with what it shall be, for what changes without a word: an instance
// that opens its socket anew, another edge.
const steerEvery = time.Second

// informed reports whether the supervisor and the edge have answered once: before that the machine only looks empty. m.mu is
// held.
func (m *Machine) informed() bool { return m.known && m.snap.Revision != 0 }

// keepSteering runs until ctx is done.
func (m *Machine) keepSteering(ctx context.Context) {
	for wait.For(ctx, steerEvery) == nil {
		m.mu.Lock()
		if m.informed() {
			m.steer()
			if slices.ContainsFunc(m.table.Routes, func(r edge.Route) bool { return r.Direct != m.direct(r) }) {
				if err := m.push(ctx, nil); err != nil {
					m.log.Debug("steering", "error", err) // whoever follows the supervisor tries again, and says so
				}
			}
		}
		var gone []steer.Socket // before counting: the end of a process is counted, too
		for sock := range m.steering.owners {
			if !sock.Process.Alive() {
				gone = append(gone, sock)
			}
		}
		m.count()
		for _, sock := range gone {
			delete(m.steering.owners, sock)
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if keeper.Stopping(m.dirs) {
		m.tidy() // it may be too early for us to have a kernel of our own
	}
	if k := m.steering.kernel; k != nil {
		m.steering.ended = true
		if keeper.Stopping(m.dirs) {
			k.Set(nil) // the instances end, too: nothing shall be left in the kernel
		}
		if err := k.Close(); err != nil {
			m.log.Error("leave steering to the kernel", "error", err)
		}
		m.steering.kernel, m.steering.lacks = nil, errors.New("the agent ends")
	}
}

// freeOf makes instances free of the connections that the kernel gave them. m.mu is not held.
func (t *Target) freeOf(ctx context.Context, leaving []supervise.Instance) {
	t.m.mu.Lock()
	k, ended := t.m.steering.kernel, t.m.steering.ended
	t.m.mu.Unlock()
	if ended {
		<-ctx.Done() // or our process does
		return
	}
	at, err := listenAddr(t.listen)
	if k == nil || err != nil {
		return
	}
	done := make(chan struct{})
	for _, i := range leaving {
		go func() {
			defer func() { done <- struct{}{} }()
			if err := k.Drain(ctx, at, steer.Socket{Process: i.Process, Port: i.Port}); err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrNotExist) {
				t.m.log.Warn("connections were not drained", "service", t.service, "release", i.Release, "instance", i.Number, "error", err)
			}
		}()
	}
	for range leaving {
		<-done
	}
}
