//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// line is the wire between a host's port and the bridge while it is slow: this process carries the frames, since not every
// kernel has netem.
type line struct {
	delay time.Duration
	loss  float64
	ends  [2]*os.File
	done  sync.WaitGroup
}

// Slow makes every frame to the host and every frame from it take that much longer, so that a round trip takes twice as
// much, and loses a share of them, from 0 to 1. It holds across reboots and replaces the last such call. A frame is what the
// sender's kernel hands down at once, which can be many packets of one connection.
func (h *Host) Slow(t testing.TB, delay time.Duration, loss float64) {
	t.Helper()
	must(t, "slow "+h.Name, h.slow(t.Context(), &line{delay: delay, loss: loss}))
}

// Fast ends a [Host.Slow].
func (h *Host) Fast(t testing.TB) {
	t.Helper()
	must(t, "fast "+h.Name, h.slow(t.Context(), nil))
}

// Delay gives every host a distance: a round trip between it and the client takes so much longer, one between two hosts
// twice that.
func (f *Fleet) Delay(t testing.TB, roundTrip time.Duration) {
	t.Helper()
	must(t, "delay", f.Each(func(h *Host) error { return h.slow(t.Context(), &line{delay: roundTrip / 2}) }))
}

const detour = `
ip -n net link set "$1" nomaster
ip -n net link add "$2" type veth peer name "$3"
ip -n net link set "$3" master br0 up
ip -n net link set "$2" up
`

const direct = `
ip -n net link delete "$2"
! ip -n net link show "$1" >/dev/null 2>&1 || ip -n net link set "$1" master br0
`

// slow puts a line in the place of the host's one, or none.
func (h *Host) slow(ctx context.Context, l *line) error {
	n := &h.fleet.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := h.straight(ctx); err != nil || l == nil {
		return err
	}
	n.lines[h.port] = l
	if !h.plugged {
		return nil // it comes into force when the host boots
	}
	return h.bend(ctx, l)
}

// straight takes a line out again. The caller holds the network's lock.
func (h *Host) straight(ctx context.Context) error {
	n := &h.fleet.network
	l := n.lines[h.port]
	if l == nil {
		return nil
	}
	delete(n.lines, h.port)
	if !l.close() {
		return nil
	}
	return h.fleet.keeper.sh(ctx, direct, h.port.String(), h.port.detour())
}

// bend makes a line carry frames. The caller holds the network's lock.
func (h *Host) bend(ctx context.Context, l *line) error {
	k := h.fleet.keeper
	if err := k.sh(ctx, detour, h.port.String(), h.port.detour(), h.port.slow()); err != nil {
		return err
	}
	var ends [2]*os.File
	err := k.within(bridgeNS, func() (err error) {
		if ends[0], err = packets(h.port.String()); err == nil {
			ends[1], err = packets(h.port.detour())
		}
		return err
	})
	if err != nil {
		return err
	}
	l.carry(ends)
	return nil
}

// packets opens a device for whole frames, with what its kernel still has to do to them written before each: checksums and
// segments are left to do on a veth, and would be missing on the other side.
func packets(device string) (*os.File, error) {
	d, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: d.Index}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packets of %s: %w", device, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// frame is on its way until it is due.
type frame struct {
	due   time.Time
	bytes []byte
}

// underWay bounds the frames that a line holds in one direction; more are lost, as in a full queue of a router.
const underWay = 1 << 14

func (l *line) carry(ends [2]*os.File) {
	l.ends = ends
	for i := range ends {
		queue := make(chan frame, underWay)
		l.done.Go(func() { l.take(ends[i], queue) })
		l.done.Go(func() { give(queue, ends[1-i]) })
	}
}

// take reads frames until the line is closed.
func (l *line) take(from *os.File, queue chan<- frame) {
	defer close(queue)
	buf := make([]byte, 128<<10)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) { // the cable is out
			continue
		}
		if err != nil {
			return
		}
		if rand.Float64() < l.loss {
			continue
		}
		select {
		case queue <- frame{time.Now().Add(l.delay), append([]byte(nil), buf[:n]...)}:
		default:
		}
	}
}

// give writes each frame when it is due. One that cannot be sent is lost, as on a wire.
func give(queue <-chan frame, to *os.File) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range queue {
		if wait := time.Until(f.due); wait > 0 {
			timer.Reset(wait)
			<-timer.C
		}
		_, _ = to.Write(f.bytes)
	}
}

// close ends the line's work; frames under way are lost when its ends are closed. It says whether the line was at work.
func (l *line) close() bool {
	if l.ends[0] == nil {
		return false
	}
	for _, end := range l.ends {
		end.Close()
	}
	l.done.Wait()
	l.ends = [2]*os.File{}
	return true
}
