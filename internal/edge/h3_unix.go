//go:build unix

package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	// udpName begins the names of UDP sockets, which go from one generation to the next beside those for TCP.
	udpName = "udp:"
	// maxStreams is how many requests of one client may be under way on a connection.
	maxStreams = 100
	// maxUniStreams: a client needs three (RFC 9114, section 6.2).
	maxUniStreams = 8
	// quicHandshake bounds a handshake from packet to packet; twice that bounds it whole.
	quicHandshake = 5 * time.Second
	// quicIdle is how long nothing may come of a client. NATs forget a client's address sooner than a minute, and clients know that.
	quicIdle = 30 * time.Second
	// maxQUIC is how many connections there are at once: unlike those of TCP no limit of the system's bounds them. Each takes some 90 KiB.
	maxQUIC = 10000
	// maxKnocking is how many of them may be in their handshakes.
	maxKnocking = 1000
	// takers is how many wait for connections whose handshakes are done: the library has room for 32 more, and refuses all others.
	takers = 100
	// verifyAbove is from how many handshakes on clients prove that their address is theirs (RFC 9000, section 8.1.2). The library has room
	// for eight that are to be asked for it: when all clients come again at once, as after a crash, it is better not to ask.
	verifyAbove = 500
	// lateKnock is how long after it was replaced an edge goes on with handshakes that were begun with it.
	lateKnock = 2 * quicHandshake
	// lingerFor is how long an edge that is stopped waits after the last answer.
	lingerFor = time.Second
	// How much of bodies waits here, unread by an instance, of a request and of a connection.
	streamWindow, connWindow = 2 << 20, 4 << 20
)

// h3 is what an edge answers HTTP/3 with. s.mu guards its fields.
type h3 struct {
	s         *Server
	keys      *quicKeys
	others    *others
	listeners map[string]*quicListener
	conns     sync.Map // of listeners, by address: another generation's packets wait for no lock

	open     atomic.Int64 // connections, in their handshakes or after it
	knocking atomic.Int64 // those in their handshakes
}

// quicListener takes the QUIC connections of an address.
type quicListener struct {
	h      *h3
	addr   string
	conn   *packetConn
	tr     *quic.Transport // nil until it serves
	ln     *quic.Listener
	held   atomic.Int64 // connections
	unused bool         // no route wants it; it is kept for connections that there are

	mu    sync.Mutex
	conns map[*quicConn]bool
	left  time.Time // when clients were told to go elsewhere; zero for not
	group sync.WaitGroup
}

// start makes this generation ready for QUIC. s.mu is held.
func (h *h3) start() error {
	if h.others != nil {
		return nil
	}
	var err error
	if h.keys, err = openKeys(h.s.dirs.QUICKey()); err != nil {
		return err
	}
	h.others, err = openOthers(h.s.dirs, generation(rand.Uint32()), h.keys, h.s.log, h.put)
	return err
}

// put gives a packet that another generation passed on to whom it is for.
func (h *h3) put(p packet) {
	if c, ok := h.conns.Load(p.addr); ok {
		c.(*packetConn).put(p)
	}
}

// listen opens the UDP port of an address, or takes it over. Packets wait until serve is called. s.mu is held.
func (h *h3) listen(addr string) error {
	if l := h.listeners[addr]; l != nil {
		l.unused = false
		l.stay()
		return nil
	}
	if err := h.start(); err != nil {
		return err
	}
	var c net.PacketConn
	var err error
	if f := h.s.given[udpName+addr]; f != nil {
		c, err = net.FilePacketConn(f)
	} else {
		at := addr
		if tl := h.s.listeners[addr]; tl != nil { // the same port, also where the kernel chose that
			host, _, _ := net.SplitHostPort(addr)
			_, port, _ := net.SplitHostPort(tl.Addr().String())
			at = net.JoinHostPort(host, port)
		}
		c, err = net.ListenPacket("udp", at)
	}
	if err != nil {
		return err
	}
	uc, ok := c.(*net.UDPConn)
	if !ok || len(addr) > 255 {
		c.Close()
		return fmt.Errorf("%s is not a UDP address", addr)
	}
	l := &quicListener{h: h, addr: addr, conn: newPacketConn(uc, addr, h.others), conns: map[*quicConn]bool{}}
	h.listeners[addr] = l
	h.conns.Store(addr, l.conn)
	return nil
}

// serve begins to take what came. s.mu is held.
func (h *h3) serve() {
	for _, l := range h.listeners {
		if l.tr != nil {
			continue
		}
		if err := l.serve(); err != nil {
			h.s.log.Error("cannot serve HTTP/3", "address", l.addr, "error", err)
		}
	}
}

func (l *quicListener) serve() (err error) {
	h := l.h
	l.tr = &quic.Transport{Conn: l.conn, ConnectionIDGenerator: marker{h.keys, h.others.own}, StatelessResetKey: &h.keys.reset, TokenGeneratorKey: &h.keys.token,
		VerifySourceAddress: func(net.Addr) bool { return h.knocking.Load() > verifyAbove }, ConnContext: l.knock}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{http3.NextProtoH3}, // and it keeps the keys of tickets over all routes
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return h.s.quicHandshake(l.addr, hello) }}
	l.ln, err = l.tr.Listen(conf, &quic.Config{HandshakeIdleTimeout: quicHandshake, MaxIdleTimeout: quicIdle, MaxIncomingStreams: maxStreams,
		MaxIncomingUniStreams: maxUniStreams, MaxStreamReceiveWindow: streamWindow, MaxConnectionReceiveWindow: connWindow})
	if err != nil {
		return err
	}
	for range takers {
		l.group.Go(l.takeAll)
	}
	return nil
}

// quicHandshake is [Server.handshake] for a route that is answered over HTTP/3.
func (s *Server) quicHandshake(addr string, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	table := s.current()
	rt := table.ofHost(addr, hello.ServerName)
	if rt == nil || rt.tls == nil || !table.quick(addr, hello.ServerName) {
		return nil, fmt.Errorf("nobody answers to %q over HTTP/3 here", hello.ServerName)
	}
	c := rt.tls.Clone()
	c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{http3.NextProtoH3}
	return c, nil
}

// knockKey is the key of a connection's [knock] in its context.
type knockKey struct{}

// knock is a handshake that is under way.
type knock struct {
	h    *h3
	done atomic.Bool
}

func (k *knock) end() {
	if !k.done.Swap(true) {
		k.h.knocking.Add(-1)
	}
}

// errBusy refuses a connection: its client comes by TCP, or to another generation.
var errBusy = errors.New("no more connections here")

// knock is called for each client that wants a connection, before its handshake.
func (l *quicListener) knock(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	l.mu.Lock()
	late := !l.left.IsZero() && time.Since(l.left) > lateKnock
	l.mu.Unlock()
	h := l.h
	if late || h.open.Load() >= maxQUIC || h.knocking.Load() >= maxKnocking {
		return nil, errBusy
	}
	k := &knock{h: h}
	h.knocking.Add(1)
	h.open.Add(1)
	h.s.conns.Add(1)
	l.held.Add(1)
	context.AfterFunc(ctx, func() {
		k.end()
		l.held.Add(-1)
		h.open.Add(-1)
		h.s.conns.Add(-1)
	})
	return context.WithValue(ctx, knockKey{}, k), nil
}

// takeAll serves connections whose handshakes are done until the listener is closed.
func (l *quicListener) takeAll() {
	for {
		conn, err := l.ln.Accept(context.Background())
		if err != nil {
			return
		}
		if k, ok := conn.Context().Value(knockKey{}).(*knock); ok {
			k.end()
		}
		c := newQUICConn(l, conn)
		l.mu.Lock()
		l.conns[c] = true
		if !l.left.IsZero() {
			l.group.Go(c.leave)
		}
		l.mu.Unlock()
		l.group.Go(func() {
			c.serve()
			l.mu.Lock()
			delete(l.conns, c)
			l.mu.Unlock()
		})
	}
}

// leave tells all clients to go elsewhere.
func (l *quicListener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.left.IsZero() {
		return
	}
	l.left = time.Now()
	for c := range l.conns {
		l.group.Go(c.leave)
	}
}

// stay takes leave back, for clients that come from now on.
func (l *quicListener) stay() {
	l.mu.Lock()
	l.left = time.Time{}
	l.mu.Unlock()
}

// close ends what is left.
func (l *quicListener) close() {
	if l.tr != nil {
		l.mu.Lock()
		for c := range l.conns {
			c.close()
		}
		l.mu.Unlock()
		if l.ln != nil {
			l.ln.Close()
		}
		l.tr.Close()
	}
	l.conn.Close()
	l.group.Wait()
}

// unlisten ends the taking of connections at an address that no route wants any more. Its clients are told, and its port is kept until
// they are gone. s.mu is held.
func (h *h3) unlisten(addr string) {
	l := h.listeners[addr]
	if l.unused {
		return
	}
	l.unused = true
	l.leave()
	go func() {
		t := time.NewTicker(50 * time.Millisecond)
		defer t.Stop()
		for range t.C {
			h.s.mu.Lock()
			mine := l.unused && h.listeners[addr] == l
			done := mine && l.held.Load() == 0
			if done {
				delete(h.listeners, addr)
				h.conns.CompareAndDelete(addr, l.conn)
			}
			h.s.mu.Unlock()
			if done {
				l.close()
			}
			if !mine || done {
				return
			}
		}
	}()
}

// unlistenUnused is what its namesake of [Server] does.
func (h *h3) unlistenUnused(used map[string]bool) {
	for addr := range h.listeners {
		if !used[udpName+addr] {
			h.unlisten(addr)
		}
	}
}

// files adds the names and sockets of h to those for TCP. s.mu is held.
func (h *h3) files(names []string, conns []syscall.Conn) ([]string, []syscall.Conn) {
	for addr, l := range h.listeners {
		if !l.unused {
			names, conns = append(names, udpName+addr), append(conns, l.conn.UDPConn)
		}
	}
	return names, conns
}

// leave tells all clients to go elsewhere; a successor reads their packets from now on, if there is one. s.mu is held.
func (h *h3) leave(succeeded bool) {
	for _, l := range h.listeners {
		l.leave()
		if succeeded && !l.unused {
			l.conn.leave()
		}
	}
}

// linger waits, at most until end, for the ends of the last answers to reach their clients: what was lost of them is sent again.
func (h *h3) linger(end time.Time) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for time.Now().Before(end) && time.Since(h.lastAnswer()) < lingerFor {
		<-t.C
	}
}

// lastAnswer is when the last answer ended that may still be on its way.
func (h *h3) lastAnswer() (at time.Time) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, l := range h.listeners {
		l.mu.Lock()
		for c := range l.conns {
			if ended := time.Unix(0, c.last.Load()); c.asked.Load() && ended.After(at) {
				at = ended
			}
		}
		l.mu.Unlock()
	}
	return at
}

// close ends everything of h.
func (h *h3) close() {
	h.s.mu.Lock()
	all, o := h.listeners, h.others
	h.listeners = map[string]*quicListener{}
	h.s.mu.Unlock()
	for _, l := range all {
		l.close()
	}
	if o != nil {
		o.close()
	}
}

// sockets are the names of all that a route listens on.
func (r Route) sockets() []string {
	out := r.addresses()
	if r.HTTP3 {
		out = append(out, udpName+r.Listen)
	}
	return out
}

// udpAddress is the address in the name of a UDP socket.
func udpAddress(name string) (addr string, ok bool) { return strings.CutPrefix(name, udpName) }
