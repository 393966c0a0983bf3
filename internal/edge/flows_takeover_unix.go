//go:build unix

package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/keeper"
)

const (
	// flowsName is the name under which the connection travels with the sockets over which flows go from one generation to the next. A
	// generation that knows nothing of flows closes it, and is given none.
	flowsName = "flows"
	// flowsChunk is how many flows go in a message, which must go through a unix socket in one piece.
	flowsChunk = 32
	// freezeTime bounds how long a generation waits for the other one's next word.
	freezeTime = 10 * time.Second
)

// flowState is a flow as it goes from one generation to the next, beside its socket.
type flowState struct {
	Listen   string         `json:"l"`
	Client   netip.AddrPort `json:"c"` // as the socket writes it
	Local    netip.Addr     `json:"a,omitzero"`
	Route    string         `json:"k"`
	Release  int            `json:"r"`
	Instance int            `json:"i"`
	Addr     string         `json:"e"`
	Start    int64          `json:"t"` // ns since 1970
	First    time.Duration  `json:"f"`
	Silent   int64          `json:"s"`           // since when, in ns
	Absent   int64          `json:"n,omitempty"` // so long its instance has got no new flows
	Sent     int64          `json:"o"`
	Received int64          `json:"b"`
	Repeated int            `json:"y,omitempty"`
	Rank     rank           `json:"p"`
	Answers  bool           `json:"h,omitempty"`
	Queued   bool           `json:"q,omitempty"` // it has a place among those that route.concurrency allows
}

// freeze is the moment in which flows go from one generation to the next.
type freeze struct {
	parking sync.WaitGroup
	parked  []*flow // that read nothing until they are told what became of them
	mu      sync.Mutex
	handed  bool
	told    chan struct{}
}

// park waits until the flow is handed on, or not.
func (f *flow) park() (handed bool) {
	f.mu.Lock()
	z := f.frozen
	f.mu.Unlock()
	z.mu.Lock()
	z.parked = append(z.parked, f)
	z.mu.Unlock()
	z.parking.Done()
	<-z.told
	f.mu.Lock()
	f.frozen = nil
	f.mu.Unlock()
	return z.handed
}

// thaw takes the flow out of the moment that it did not come to: it is not handed on.
func (f *flow) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen != nil {
		f.frozen.parking.Done()
		f.frozen = nil
	}
}

// tell ends the moment.
func (z *freeze) tell(handed bool) {
	z.handed = handed
	close(z.told)
}

// freeze stops all that is read, here and now. What comes waits in the sockets. fl.still and s.mu are held.
func (fl *flows) freeze() *freeze {
	for _, l := range fl.listeners {
		l.pause()
	}
	z := &freeze{told: make(chan struct{})}
	fl.mu.Lock()
	for f := range fl.all {
		f.mu.Lock()
		if f.up != nil && !f.over && f.rank != rankNone {
			z.parking.Add(1)
			f.frozen = z
			f.up.SetReadDeadline(time.Unix(1, 0))
		}
		f.mu.Unlock()
	}
	fl.mu.Unlock()
	z.parking.Wait()
	return z
}

// offer makes the connection over which flows are handed on; the other end goes to the new generation.
func (fl *flows) offer() (mine *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	theirs = os.NewFile(uintptr(fds[1]), flowsName)
	c, err := unixConn(os.NewFile(uintptr(fds[0]), flowsName))
	if err != nil {
		theirs.Close()
	}
	return c, theirs, err
}

// unixConn makes a connection of a file, which it closes.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("it is no unix socket")
	}
	return u, nil
}

// hand gives all flows to the generation at the other end of c, which serves from then on. With an error it has none, and things are as they
// were. s.mu is held.
func (fl *flows) hand(c *net.UnixConn) error {
	if _, _, err := keeper.ReceiveFilesWithin(c, time.Second); err != nil {
		return nil //nolint:nilerr // it knows nothing of flows, which begin anew there
	}
	fl.still.Lock()
	defer fl.still.Unlock()
	z := fl.freeze()
	err := fl.giveAll(c, z.parked)
	z.tell(err == nil)
	if err != nil {
		fl.serve()
	}
	return err
}

func (fl *flows) giveAll(c *net.UnixConn, all []*flow) error {
	for len(all) > 0 {
		n := min(flowsChunk, len(all))
		var names []string
		var conns []syscall.Conn
		for _, f := range all[:n] {
			b, err := json.Marshal(f.state())
			if err != nil {
				return err
			}
			names, conns = append(names, string(b)), append(conns, f.conn)
		}
		if err := keeper.SendFiles(c, "flows", names, conns); err != nil {
			return fmt.Errorf("flows of UDP: %w", err)
		}
		if _, _, err := keeper.ReceiveFilesWithin(c, freezeTime); err != nil {
			return fmt.Errorf("flows of UDP: %w", err)
		}
		all = all[n:]
	}
	return keeper.SendFiles(c, "end", nil, nil)
}

// state is a parked flow's.
func (f *flow) state() flowState {
	ex, end, now := f.ex, f.ex.end, f.fl.now()
	st := flowState{Listen: f.key.l.addr, Client: f.to, Local: f.key.local, Route: ex.route.key, Release: end.release.release, Instance: end.instance, Addr: end.addr,
		Start: ex.start.UnixNano(), First: ex.first, Silent: now - f.last.Load(), Sent: f.sent.Load(), Received: f.received.Load(), Repeated: ex.repeated,
		Rank: f.rank, Answers: f.answers, Queued: f.queue != nil}
	if f.absent != 0 {
		st.Absent = max(now-f.absent, 1)
	}
	return st
}

// greet tells the generation before that this one takes flows. It is said before this one says that it serves.
func (fl *flows) greet() error {
	if fl.side == nil {
		return nil
	}
	c, err := unixConn(fl.side)
	fl.side = nil
	if err != nil {
		return err
	}
	fl.from = c
	return keeper.SendFiles(c, "flows?", nil, nil)
}

// inherit takes the flows of the generation before, if there are any. An error is that it may serve on.
func (fl *flows) inherit() error {
	c := fl.from
	if c == nil {
		return nil
	}
	defer c.Close()
	for {
		op, files, err := keeper.ReceiveFilesWithin(c, 2*freezeTime)
		if err != nil {
			return fmt.Errorf("flows of UDP: %w", err)
		}
		if op == "end" {
			return nil
		}
		if err := keeper.SendFiles(c, "have", nil, nil); err != nil { // the next ones are put together meanwhile
			return fmt.Errorf("flows of UDP: %w", err)
		}
		for name, file := range files {
			if err := fl.adopt(name, file); err != nil {
				fl.s.log.Warn("a flow of UDP begins anew", "flow", name, "error", err)
			}
			file.Close()
		}
	}
}

// adopt goes on with a flow of the generation before.
func (fl *flows) adopt(text string, file *os.File) error {
	var st flowState
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		return err
	}
	fl.s.mu.Lock()
	defer fl.s.mu.Unlock()
	l, rt := fl.listeners[st.Listen], fl.s.table.Load().byKey[st.Route]
	if l == nil || rt == nil || rt.Datagrams == nil || !st.Client.IsValid() {
		return errors.New("its service is not here")
	}
	end, err := fl.s.endpointOf(rt, st.Release, Endpoint{st.Instance, st.Addr})
	if err != nil {
		return err
	}
	nc, err := net.FileConn(file)
	if err != nil {
		return err
	}
	c, ok := nc.(*net.UDPConn)
	if !ok {
		nc.Close()
		return errors.New("it is no UDP socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return err
	}
	f := newFlow(fl, flowKey{l, netip.AddrPortFrom(st.Client.Addr().Unmap(), st.Client.Port()), st.Local}, st.Client)
	p, client := fl.s.proxy, f.key.client.Addr()
	f.ex = &exchange{route: rt, end: end, start: time.Unix(0, st.Start), first: st.First, repeated: st.Repeated, gotHead: true, point: anywhere,
		preview: allowed(rt.Preview.Clients, client)}
	if rt.Sticky == "client" {
		f.ex.point = pointOf(client.String())
	}
	f.answers = st.Answers
	f.rank = min(max(st.Rank, rankFresh), rankKnown)
	f.sent.Store(st.Sent)
	f.received.Store(st.Received)
	now := fl.now()
	f.last.Store(now - st.Silent)
	if st.Absent > 0 {
		f.absent = now - st.Absent
	}
	f.settle(c, raw, end)
	if st.Queued {
		f.queue = p.recall(rt).queue.claim()
	}
	p.stats.begin(rt.stats)
	p.stats.begin(end.slot)
	fl.mu.Lock()
	fl.insert(f)
	fl.mu.Unlock()
	fl.inherited = append(fl.inherited, f)
	return nil
}

// claim gives somebody a place that he had in another process.
func (q *queue) claim() *queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy++
	return q
}

// endpointOf is a release's instance, also one that the table does not name any more. s.mu is held.
func (s *Server) endpointOf(rt *route, release int, e Endpoint) (*endpoint, error) {
	if end := rt.endpoint(release, e); end != nil {
		return end, nil
	}
	slot, err := s.stats.slot(slotKey{rt.Service, rt.Environment, release, e.Instance})
	if err != nil {
		return nil, err
	}
	b := &backend{release: release, route: rt.key}
	end := &endpoint{instance: e.Instance, addr: e.Addr, slot: slot, state: stateAt(s.states, stateKey(rt.Route, Backend{Release: release}, e)), release: b}
	b.endpoints = []*endpoint{end}
	return end, nil
}
