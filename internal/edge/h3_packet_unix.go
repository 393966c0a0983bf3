//go:build unix

package edge

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

// waitingPackets is how many packets from other generations wait at most for one of ours; what comes then is lost, as the network
// loses packets, and sent again.
const waitingPackets = 1024

// packetConn is a UDP socket that several generations of the edge have. Each reads from it what it can, and passes on what is for
// another one; one that was replaced reads only what is passed on to it. All write to it. It is still a [quic.OOBCapablePacketConn]:
// packets go in batches and by segmentation offload, and their ECN marks and addresses are kept.
type packetConn struct {
	*net.UDPConn
	batch  *ipv4.PacketConn
	others *others
	addr   string // as it is listened on

	away  atomic.Bool // another generation reads the socket
	ended atomic.Bool
	in    chan packet // from other generations
	woken chan struct{}
	room  [markLength]byte
}

// packet is one that was passed on.
type packet struct {
	addr      string // of the listener
	from      netip.AddrPort
	oob, data []byte
}

func newPacketConn(c *net.UDPConn, addr string, o *others) *packetConn {
	return &packetConn{UDPConn: c, batch: ipv4.NewPacketConn(c), others: o, addr: addr, in: make(chan packet, waitingPackets), woken: make(chan struct{}, 1)}
}

// ReadBatch returns packets that are for this generation.
func (c *packetConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		switch {
		case c.ended.Load():
			return 0, os.ErrDeadlineExceeded
		case c.away.Load():
			select {
			case p := <-c.in:
				p.fill(&ms[0])
				return 1 + c.takeIn(ms[1:]), nil
			case <-c.woken:
			}
			continue
		}
		n, err := c.batch.ReadBatch(ms, flags)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // somebody woke us
			c.UDPConn.SetReadDeadline(time.Time{})
			n = c.takeIn(ms)
		case err != nil:
			return 0, err
		default:
			n = c.passOn(ms[:n])
		}
		if n > 0 {
			return n, nil
		}
	}
}

// passOn hands packets to the generations that they are for, and returns how many are left, which then come first.
func (c *packetConn) passOn(ms []ipv4.Message) (left int) {
	for i := range ms {
		m := &ms[i]
		if c.pass(m) {
			continue
		}
		if o := &ms[left]; i != left { // the buffers stay where they are: their owner counts on it
			o.N, o.NN, o.Flags, o.Addr = copy(o.Buffers[0], m.Buffers[0][:m.N]), copy(o.OOB, m.OOB[:m.NN]), m.Flags, m.Addr
		}
		left++
	}
	return left
}

// pass hands on a packet that is for another generation that lives.
func (c *packetConn) pass(m *ipv4.Message) bool {
	data := m.Buffers[0][:m.N]
	gen, ok := c.others.keys.of(destination(data), &c.room)
	if !ok || gen == c.others.own {
		return false
	}
	o := c.others.find(gen)
	from, is := m.Addr.(*net.UDPAddr)
	if o == nil || !is {
		return false // who is no more cannot say so: this one resets the connection
	}
	o.give(packet{addr: c.addr, from: from.AddrPort(), oob: m.OOB[:m.NN], data: data})
	return true
}

// takeIn fills ms with what was passed on to this generation.
func (c *packetConn) takeIn(ms []ipv4.Message) (n int) {
	for n < len(ms) {
		select {
		case p := <-c.in:
			p.fill(&ms[n])
			n++
		default:
			return n
		}
	}
	return n
}

// put takes a packet of another generation.
func (c *packetConn) put(p packet) {
	select {
	case c.in <- p:
		if !c.away.Load() {
			c.wake()
		}
	default:
	}
}

// wake makes ReadBatch look at everything anew.
func (c *packetConn) wake() {
	signal(c.woken)
	c.UDPConn.SetReadDeadline(time.Unix(1, 0))
}

// leave ends the reading of the socket: another generation does that.
func (c *packetConn) leave() {
	c.away.Store(true)
	c.wake()
}

// SetReadDeadline ends ReadBatch. A [quic.Transport] calls it for nothing else.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		c.ended.Store(true)
		c.wake()
	}
	return nil
}

func (p packet) fill(m *ipv4.Message) {
	m.N, m.NN = copy(m.Buffers[0], p.data), copy(m.OOB, p.oob)
	m.Flags, m.Addr = 0, net.UDPAddrFromAddrPort(p.from)
}

// append writes p as it goes from one generation to another: its length, then its parts, each but the last with its own length.
func (p packet) append(b []byte) []byte {
	from, _ := p.from.MarshalBinary() // it never fails
	start := len(b)
	b = append(b, 0, 0)
	for _, part := range [][]byte{[]byte(p.addr), from, p.oob} {
		b = append(append(b, byte(len(part))), part...)
	}
	b = append(b, p.data...)
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	return b
}

// errPacket says that what another generation sent is not understood.
var errPacket = errors.New("no packet")

// readPacket reads what append wrote.
func readPacket(r *bufio.Reader) (p packet, err error) {
	var size [2]byte
	if _, err = io.ReadFull(r, size[:]); err != nil {
		return p, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err = io.ReadFull(r, b); err != nil {
		return p, err
	}
	var parts [3][]byte
	for i := range parts {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return p, errPacket
		}
		n := 1 + int(b[0])
		parts[i], b = b[1:n], b[n:]
	}
	p.addr, p.oob, p.data = string(parts[0]), parts[2], b
	if p.from.UnmarshalBinary(parts[1]) != nil || !p.from.IsValid() {
		return p, errPacket
	}
	return p, nil
}
