//go:build unix

package edge

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// firstRetry is how soon an instance is asked again that took no datagram, where there is no other; it doubles up to lastRetry. A
	// change of the table is heard of at once.
	firstRetry, lastRetry = 5 * time.Millisecond, 250 * time.Millisecond
	// parkBatches bounds what a flow still reads that is about to be handed on: who never stops answers the next generation.
	parkBatches = 64
)

// flow is what goes to and fro between one port of a client and an instance. To the counters and the log it is one request, or several
// in a row where its instances go.
type flow struct {
	fl   *flows
	key  flowKey
	to   netip.AddrPort // the client, as the listener's socket writes it
	oob  []byte         // from where answers leave
	born int64          // on the flows' clock

	// Of the goroutine that runs it:
	ex      *exchange
	answers bool // the instance has answered
	queue   *queue
	conn    *net.UDPConn
	raw     syscall.RawConn
	read    func(fd uintptr) bool
	m       *mover
	err     error

	last           atomic.Int64 // when something last went over, on the flows' clock
	sent, received atomic.Int64 // bytes to the client, and of it
	gone           chan struct{}

	mu      sync.Mutex
	up      *net.UDPConn // where datagrams go; nil while there is no instance
	batch   *ipv4.PacketConn
	at      *endpoint // whose it is
	waiting [][]byte  // for an instance
	kept    []byte    // what was sent last; nil for nothing
	held    int       // bytes that were asked room for
	over    bool
	why     string
	frozen  *freeze

	// fl.mu guards:
	rank       rank
	place, own *list.Element
	client     *flowClient
	absent     int64 // since when its instance gets no new flows, on the flows' clock; 0 for not
	linger     int64 // how long it is kept after the last answer, once no client reaches it
}

func newFlow(fl *flows, key flowKey, to netip.AddrPort) *flow {
	f := &flow{fl: fl, key: key, to: to, born: fl.now(), gone: make(chan struct{})}
	if key.l.many {
		f.oob = leaveFrom(key.local)
	}
	f.read = f.try
	f.last.Store(f.born)
	return f
}

// renew begins what counts as a request.
func (f *flow) renew(rt *route, now time.Time) {
	p, client := f.fl.s.proxy, f.key.client.Addr()
	f.ex = &exchange{route: rt, start: now, point: anywhere, preview: allowed(rt.Preview.Clients, client)}
	if rt.Sticky == "client" {
		f.ex.point = pointOf(client.String())
	}
	f.answers = false
	f.sent.Store(0)
	f.received.Store(0)
	p.stats.arrive(rt.stats, now)
	p.recall(rt).budget.tick(now, rt.stats)
}

// refuse ends a flow that does not come to be.
func (f *flow) refuse(why string) {
	f.ex.refused = true
	f.count(why, true)
}

// count ends what counts as a request. It took as long as something went over: nobody says when a flow ends, so that the silence at its
// end is no part of it.
func (f *flow) count(why string, broken bool) {
	ex := f.ex
	ex.why = cmp.Or(why, ex.why)
	o := outcome{bytes: f.sent.Load(), took: time.Since(ex.start)}
	if !broken {
		silent := min(max(time.Duration(f.fl.now()-f.last.Load()), 0), o.took)
		o.took -= silent
		ex.start = ex.start.Add(silent) // so that its line says when it was written
	}
	f.fl.s.proxy.ended(ex, o, f, broken, false)
}

// run is a flow's life: it finds an instance and passes answers on, until nothing goes over any more.
func (f *flow) run() {
	defer f.fl.left(f)
	defer f.thaw()
	why, broken, handed := f.serve()
	f.end("")
	f.close()
	if f.queue != nil {
		f.queue.leave()
	}
	st := f.fl.s.stats
	if handed { // it goes on in another process, which counts it
		st.end(f.ex.end.slot)
		st.end(f.ex.route.stats)
		return
	}
	f.count(why, broken)
}

func (f *flow) serve() (why string, broken, handed bool) {
	p := f.fl.s.proxy
	if f.ex.route.Guard != nil && f.queue == nil && f.conn == nil {
		q, r, err := p.wait(waiter{f}, f.ex)
		switch {
		case r != nil:
			f.ex.refused = true
			return r.why, true, false
		case err != nil:
			return f.leaving(err)
		}
		f.queue = q
	}
	deadline := time.Now().Add(p.hold)
	for {
		if f.conn == nil {
			if err := f.find(deadline); err != nil {
				return f.leaving(err)
			}
			if !f.ex.gotHead {
				p.begun(f.ex, 0, time.Now())
			}
		}
		switch f.carry() {
		case carryHanded:
			return "", false, true
		case carryEnded:
			return f.leaving(nil)
		}
		deadline = time.Now().Add(p.hold)
		if err := f.refused(deadline); err != nil {
			return f.leaving(err)
		}
	}
}

// leaving is how a flow ends that somebody ended, or that found no instance.
func (f *flow) leaving(err error) (why string, broken, handed bool) {
	f.mu.Lock()
	over, why := f.over, f.why
	f.mu.Unlock()
	switch {
	case over && why == "crowded":
		f.ex.refused = !f.answers
		return why, f.ex.refused, false
	case over:
		return why, !f.ex.gotHead, false
	}
	if f.ex.end != nil {
		f.fl.s.log.Warn("no instance took the datagrams", "service", f.ex.route.key, "instance", f.ex.end.addr, "error", err)
	}
	return cmp.Or(f.ex.why, whyUnplaced(err), "no_instance"), true, false
}

// refused decides what follows when an instance takes no more datagrams. If it has answered, that was one request; otherwise it is tried
// again elsewhere. What it refused nobody has seen, so that anybody may get it.
func (f *flow) refused(deadline time.Time) error {
	p, ex := f.fl.s.proxy, f.ex
	f.thaw()
	if !f.answers {
		return p.again(ex, &dialError{syscall.ECONNREFUSED}, false, deadline)
	}
	ex.end.state.avoid(time.Now().Add(avoidFor))
	key, rt := ex.route.key, ex.route
	if now := p.current().byKey[key]; now != nil {
		rt = now
	}
	n := f.bytesWaiting()
	f.received.Add(-n)
	f.count("broken_off", false)
	f.renew(rt, time.Now())
	f.received.Add(n)
	return nil
}

// bytesWaiting is how much waits for an instance.
func (f *flow) bytesWaiting() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.waiting {
		n += int64(len(b))
	}
	return n
}

// find finds an instance that takes what waits.
func (f *flow) find(deadline time.Time) error {
	p, ex := f.fl.s.proxy, f.ex
	pause := firstRetry
	for {
		if err := p.choose(waiter{f}, ex, deadline); err != nil {
			return err
		}
		if err := strikeStream(waiter{f}, ex.end.faults); err != nil {
			return err
		}
		err := f.connect(ex.end)
		if err == nil || waiter.Err(waiter{f}) != nil {
			return err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err // it is ours and no instance's doing
		}
		changed := p.changed()
		if err := p.again(ex, &dialError{err}, false, deadline); err != nil {
			return err
		}
		if ex.route.only(ex.end) {
			sleep(waiter{f}, changed, pause)
			pause = min(2*pause, lastRetry)
		}
	}
}

// connect sends what waits to an instance, whose the flow is if it takes it.
func (f *flow) connect(end *endpoint) error {
	at, err := net.ResolveUDPAddr("udp", end.addr)
	if err != nil {
		return err
	}
	c, err := net.DialUDP("udp", nil, at)
	if err != nil {
		return err
	}
	c.SetReadBuffer(answerRoom)
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		c.Close()
		return context.Canceled
	}
	n, err := f.sendWaiting(c, raw)
	if err != nil {
		f.waiting = f.waiting[n:]
		c.Close()
		return err
	}
	f.settle(c, raw, end)
	return nil
}

// settle makes a connected socket the flow's own. f.mu is held.
func (f *flow) settle(c *net.UDPConn, raw syscall.RawConn, end *endpoint) {
	if n := len(f.waiting); n > 0 {
		f.kept = f.waiting[n-1]
		for _, b := range f.waiting[:n-1] {
			f.give(cap(b))
		}
	}
	f.waiting = nil
	f.conn, f.raw, f.up, f.at, f.batch = c, raw, c, end, ipv4.NewPacketConn(c)
}

// sendWaiting sends what waits, and says from where on an instance refused it.
func (f *flow) sendWaiting(c *net.UDPConn, raw syscall.RawConn) (from int, err error) {
	for i, b := range f.waiting {
		if _, err := c.Write(b); err != nil {
			return max(i-1, 0), err // what this was told of is the one before
		}
	}
	// Where the instance is on this machine its refusal is here by now.
	return max(len(f.waiting)-1, 0), pendingError(raw)
}

// deliver takes what came of the client. It reports false where the flow has ended.
func (f *flow) deliver(all [][]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	f.last.Store(f.fl.now())
	for _, b := range all {
		f.received.Add(int64(len(b)))
	}
	if f.up == nil {
		f.hold(all)
		return true
	}
	n, err := f.write(all)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		f.keep(all[len(all)-1])
		return true
	}
	if n > 0 { // what is refused is what was sent last
		f.keep(all[n-1])
	}
	up := f.up
	f.unplace()
	f.hold(all[n:])
	up.SetReadDeadline(time.Unix(1, 0))
	return true
}

// write sends datagrams to the instance; n is how many. What cannot be sent for another reason than that nobody takes it is lost. f.mu
// is held.
func (f *flow) write(all [][]byte) (n int, err error) {
	if len(all) > 1 && batches {
		return f.writeBatch(all)
	}
	for n < len(all) {
		if _, err := f.up.Write(all[n]); errors.Is(err, syscall.ECONNREFUSED) {
			return n, err
		}
		n++
	}
	return n, nil
}

func (f *flow) writeBatch(all [][]byte) (n int, err error) {
	var ms [datagramBatch]ipv4.Message
	for i := range all {
		ms[i].Buffers = all[i : i+1]
	}
	for n < len(all) {
		sent, err := f.batch.WriteBatch(ms[n:len(all)], 0)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return n, err
		}
		if n += max(sent, 0); n == len(all) || err != nil {
			n = min(n+1, len(all))
			continue
		}
		// Of a datagram that it could not send behind others the kernel does not say why (sendmmsg(2)). By itself it does.
		if _, err := f.up.Write(all[n]); errors.Is(cmp.Or(err, pendingError(f.raw)), syscall.ECONNREFUSED) {
			return n, syscall.ECONNREFUSED
		}
		n++
	}
	return n, nil
}

// pendingError is what the kernel has to say of what was sent over a socket.
func pendingError(raw syscall.RawConn) (err error) {
	var code int
	if over := raw.Control(func(fd uintptr) { code, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) }); over != nil {
		return over
	}
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	return err
}

// unplace has what comes wait for another instance, behind what this one refused. f.mu is held.
func (f *flow) unplace() {
	f.up = nil
	if f.kept != nil {
		f.waiting, f.kept = [][]byte{f.kept}, nil
	}
}

// end ends the flow from without.
func (f *flow) end(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.over, f.why = true, why
	close(f.gone)
	if f.up != nil {
		f.up.SetReadDeadline(time.Unix(1, 0))
	}
}

// close gives the socket back.
func (f *flow) close() {
	f.mu.Lock()
	f.up = nil
	f.mu.Unlock()
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}

// carried is why answers are not passed on any more.
type carried int

const (
	carryEnded carried = iota
	carryRefused
	carryHanded
)

// carry passes answers on until the flow ends, or its instance is gone.
func (f *flow) carry() carried {
	for {
		err := f.raw.Read(f.read)
		f.forward()
		switch {
		case err == nil && errors.Is(f.err, syscall.ECONNREFUSED):
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return carryEnded
		default:
			continue // with a datagram, or an error that says something of one
		}
		f.rest()
		f.mu.Lock()
		over, away, frozen := f.over, f.up == nil, f.frozen != nil
		f.mu.Unlock()
		switch {
		case over:
			return carryEnded
		case away:
			f.close()
			return carryRefused
		}
		if frozen && f.park() {
			return carryHanded
		}
		f.goOn()
	}
}

// goOn has the flow read again after somebody woke it.
func (f *flow) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over && f.up != nil && f.frozen == nil {
		f.up.SetReadDeadline(time.Time{})
	}
}

// rest passes on what has come already.
func (f *flow) rest() {
	for range parkBatches {
		some := false
		if f.raw.Control(func(fd uintptr) { some = f.try(fd) }) != nil || !some {
			return
		}
		f.forward()
	}
}
