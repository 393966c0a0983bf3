//go:build unix

package edge

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// maxDatagram is more than any datagram of UDP has: its length is a number of 16 bits.
	maxDatagram = 64 << 10
	// datagramBatch is how many datagrams are read and written at once.
	datagramBatch = 16
	// datagramRoom is how much of what clients send the kernel keeps, where it may, while nobody reads: as while the edge is replaced.
	datagramRoom = 4 << 20
	// answerRoom is that for what an instance sends to one client.
	answerRoom = 1 << 20
)

// flows are what clients of UDP services have with instances. s.mu guards the listeners, mu all else that is not of one flow.
type flows struct {
	s         *Server
	listeners map[string]*datagramListener
	start     time.Time // of the clock that silence is measured by
	kept      atomic.Int64
	movers    chan *mover
	running   sync.WaitGroup
	sweeping  sync.Once
	stop      chan struct{}
	stopped   sync.Once
	still     sync.Mutex // held while nothing may end by itself
	side      *os.File   // over which the generation before gives its flows, and the same as a connection
	from      *net.UnixConn
	inherited []*flow

	mu      sync.Mutex
	bounds  flowBounds
	all     map[*flow]bool // also those that clients do not reach any more
	byKey   map[flowKey]*flow
	clients map[netip.Prefix]*flowClient
	fresh   list.List // of *flow: no instance has answered; the oldest first
	heard   list.List // one has, and the client has said nothing since
	seen    uint64    // the table by which absences were found last
}

// flowKey is how a flow is found.
type flowKey struct {
	l      *datagramListener
	client netip.AddrPort
	local  netip.Addr // to which the client sends, where the listener has more than one
}

func newFlows(s *Server) *flows {
	fl := &flows{s: s, listeners: map[string]*datagramListener{}, start: time.Now(), movers: make(chan *mover, maxMovers), stop: make(chan struct{}),
		bounds: boundsOf(openFilesLimit()), all: map[*flow]bool{}, byKey: map[flowKey]*flow{}, clients: map[netip.Prefix]*flowClient{}}
	for range maxMovers {
		fl.movers <- &mover{}
	}
	return fl
}

// now is the time on the flows' clock.
func (fl *flows) now() int64 { return int64(time.Since(fl.start)) }

// datagramListener is a UDP socket that clients send to.
type datagramListener struct {
	fl    *flows
	addr  string // as its route says it
	conn  *net.UDPConn
	batch *ipv4.PacketConn
	many  bool // it has more than one of the machine's addresses

	unused bool          // no route wants it; it is kept for answers that are under way
	paused atomic.Bool   // nobody reads it now
	reader chan struct{} // closed when its reader has ended; nil for none
}

// listen opens the UDP port of an address, or takes it over. Datagrams wait until serve is called. s.mu is held.
func (fl *flows) listen(addr string) error {
	if l := fl.listeners[addr]; l != nil {
		l.unused = false
		return nil
	}
	var c net.PacketConn
	var err error
	if f := fl.s.given[datagramName+addr]; f != nil {
		c, err = net.FilePacketConn(f)
	} else {
		c, err = net.ListenPacket("udp", addr)
	}
	if err != nil {
		return err
	}
	uc, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return fmt.Errorf("%s is not a UDP address", addr)
	}
	l := &datagramListener{fl: fl, addr: addr, conn: uc, batch: ipv4.NewPacketConn(uc)}
	roomFor(uc, datagramRoom)
	if at, ok := uc.LocalAddr().(*net.UDPAddr); ok && at.IP.IsUnspecified() {
		l.many = true
		if err := tellLocal(uc); err != nil {
			uc.Close()
			return fmt.Errorf("the system does not say to which of its addresses a datagram came: %w", err)
		}
	}
	fl.listeners[addr] = l
	return nil
}

// serve begins to read what came, and goes on with the flows of the generation before. s.mu is held.
func (fl *flows) serve() {
	if len(fl.listeners) > 0 {
		fl.sweeping.Do(func() { go fl.sweepAll() })
	}
	for _, f := range fl.inherited {
		fl.run(f)
	}
	fl.inherited = nil
	for _, l := range fl.listeners {
		if l.reader == nil && !l.unused {
			l.resume()
		}
	}
}

// resume begins to read. s.mu is held, as for pause.
func (l *datagramListener) resume() {
	l.paused.Store(false)
	l.conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	l.reader = done
	l.fl.s.accepts.Go(func() {
		defer close(done)
		l.read()
	})
}

// pause ends the reading: what comes from now on waits in the socket.
func (l *datagramListener) pause() {
	if l.reader == nil {
		return
	}
	l.paused.Store(true)
	l.conn.SetReadDeadline(time.Unix(1, 0))
	<-l.reader
	l.reader = nil
}

// unlistenUnused is what its namesake of [Server] does. Answers that are under way still leave from where they were asked for.
func (fl *flows) unlistenUnused(used map[string]bool) {
	for addr, l := range fl.listeners {
		if used[datagramName+addr] || l.unused {
			continue
		}
		l.unused = true
		l.pause()
		fl.detachAll(l, lingerFor)
	}
}

// files adds the names and sockets of UDP services to those for TCP. s.mu is held.
func (fl *flows) files(names []string, conns []syscall.Conn) ([]string, []syscall.Conn) {
	for addr, l := range fl.listeners {
		if !l.unused {
			names, conns = append(names, datagramName+addr), append(conns, l.conn)
		}
	}
	return names, conns
}

// leave ends the reading for good. What clients are being answered they still get. s.mu is held.
func (fl *flows) leave() {
	for _, l := range fl.listeners {
		l.pause()
	}
	fl.detachAll(nil, lingerFor)
}

// close ends everything.
func (fl *flows) close() {
	fl.stopped.Do(func() { close(fl.stop) })
	fl.mu.Lock()
	for f := range fl.all {
		f.end("")
	}
	fl.mu.Unlock()
	fl.s.mu.Lock()
	for addr, l := range fl.listeners {
		l.pause()
		l.conn.Close()
		delete(fl.listeners, addr)
	}
	fl.s.mu.Unlock()
	fl.running.Wait() // they are counted, and written down
}

// read takes datagrams until pause is called.
func (l *datagramListener) read() {
	ms := make([]ipv4.Message, datagramBatch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, maxDatagram)}
		if l.many {
			ms[i].OOB = make([]byte, localRoom)
		}
	}
	var all [datagramBatch][]byte
	for !l.paused.Load() {
		n, err := l.batch.ReadBatch(ms, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) { // what it says of one datagram it does not say of the next
				l.fl.s.log.Debug("cannot read datagrams", "address", l.addr, "error", err)
			}
			continue
		}
		now := time.Now()
		for i := 0; i < n; {
			key, to := l.keyOf(&ms[i])
			j := i
			for ; j < n; j++ {
				if next, _ := l.keyOf(&ms[j]); j > i && next != key {
					break
				}
				all[j-i] = ms[j].Buffers[0][:ms[j].N]
			}
			if to.IsValid() {
				l.fl.take(key, to, all[:j-i], now)
			}
			i = j
		}
	}
}

// keyOf finds out whose a datagram is, and where the answers to it go.
func (l *datagramListener) keyOf(m *ipv4.Message) (key flowKey, to netip.AddrPort) {
	a, ok := m.Addr.(*net.UDPAddr)
	if !ok {
		return key, to
	}
	to = a.AddrPort()
	key = flowKey{l: l, client: netip.AddrPortFrom(to.Addr().Unmap(), to.Port())}
	if l.many {
		key.local = localOf(m.OOB[:m.NN])
	}
	return key, to
}

// take gives what came of a client to its flow, which may begin with it.
func (fl *flows) take(key flowKey, to netip.AddrPort, all [][]byte, now time.Time) {
	f := fl.find(key)
	if f == nil || !f.deliver(all) {
		fl.begin(key, to, all, now)
	}
}

// find returns a client's flow, nil where there is none. One whose client speaks on after an answer is one that somebody has.
func (fl *flows) find(key flowKey) *flow {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	f := fl.byKey[key]
	if f != nil && f.rank == rankHeard {
		fl.rise(f, rankKnown)
	}
	return f
}

// begin makes a flow of what came from a client that has none, unless a limit or a bound is against it: that is then lost, as datagrams
// may be, and the client's next one is looked at anew.
func (fl *flows) begin(key flowKey, to netip.AddrPort, all [][]byte, now time.Time) {
	p := fl.s.proxy
	rt := p.current().datagrams(key.l.addr)
	if rt == nil {
		return
	}
	f := newFlow(fl, key, to)
	f.renew(rt, now)
	if g := rt.Guard; g != nil {
		if r := p.admit(f.ex, asked{client: key.client.Addr(), header: http.Header(nil)}); r != nil {
			f.refuse(r.why)
			return
		}
	}
	for _, b := range all {
		f.received.Add(int64(len(b)))
	}
	f.hold(all)
	if why := fl.add(f); why != "" {
		f.free()
		f.refuse(why)
		return
	}
	fl.run(f)
}

func (fl *flows) run(f *flow) {
	fl.s.serving.Add(1)
	fl.running.Go(f.run)
}
