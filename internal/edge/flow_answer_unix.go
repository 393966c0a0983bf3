//go:build unix

package edge

import (
	"net"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
)

// batches: only there several datagrams are written by one system call.
const batches = runtime.GOOS == "linux"

// maxMovers is how many flows pass answers on at once, each up to half a mebibyte. What comes for others waits in their sockets.
const maxMovers = 64

// moverBatch is how many answers of a flow are read before they are written.
const moverBatch = 8

// mover is what answers are read into.
type mover struct {
	bufs [moverBatch][]byte
	ms   [moverBatch]ipv4.Message
	n    int
}

// try reads what has come of the instance; false is nothing. It is called with the socket, which does not block. That the instance refused
// what was sent last the kernel says once, to who reads or to who writes next: so only one of them may do so at a time.
func (f *flow) try(fd uintptr) bool {
	m := <-f.fl.movers
	m.n, f.err = 0, nil
	f.mu.Lock()
	defer f.mu.Unlock()
	for m.n < moverBatch {
		if m.bufs[m.n] == nil {
			m.bufs[m.n] = make([]byte, maxDatagram)
		}
		b := m.bufs[m.n][:maxDatagram]
		n, err := syscall.Read(int(fd), b)
		if err == syscall.EINTR { //nolint:errorlint // it is a plain errno
			continue
		}
		if err != nil {
			if err != syscall.EAGAIN { //nolint:errorlint // it is a plain errno
				f.err = err
			}
			if err == syscall.ECONNREFUSED && f.up == f.conn { //nolint:errorlint // it is a plain errno
				f.unplace()
			}
			break
		}
		m.bufs[m.n] = b[:n]
		m.n++
	}
	if m.n == 0 && f.err == nil {
		f.fl.movers <- m
		return false
	}
	f.m = m
	return true
}

// forward sends the client what was read.
func (f *flow) forward() {
	m := f.m
	if m == nil {
		return
	}
	f.m = nil
	if m.n > 0 {
		f.heard(m)
		f.send(m)
	}
	f.fl.movers <- m
}

// heard notes that the instance answered.
func (f *flow) heard(m *mover) {
	f.last.Store(f.fl.now())
	for _, b := range m.bufs[:m.n] {
		f.sent.Add(int64(len(b)))
	}
	if f.answers {
		return
	}
	f.answers = true
	f.fl.answered(f)
}

// send sends the client answers. One that cannot be sent is lost: it is too long for the way to the client, or there is none.
func (f *flow) send(m *mover) {
	l := f.key.l
	if m.n == 1 || !batches {
		for _, b := range m.bufs[:m.n] {
			if _, _, err := l.conn.WriteMsgUDPAddrPort(b, f.oob, f.to); err != nil {
				f.unsent(err)
			}
		}
		return
	}
	to := net.UDPAddrFromAddrPort(f.to)
	for i := range m.n {
		m.ms[i].Buffers, m.ms[i].OOB, m.ms[i].Addr = m.bufs[i:i+1], f.oob, to
	}
	for i := 0; i < m.n; {
		n, err := l.batch.WriteBatch(m.ms[i:m.n], 0)
		if i += max(n, 0); err != nil {
			f.unsent(err)
			i++
		}
	}
}

func (f *flow) unsent(err error) {
	f.fl.s.log.Debug("an answer was not sent", "service", f.ex.route.key, "client", f.key.client.String(), "error", err)
}

// told implements [teller].
func (f *flow) told(*exchange) told { return told{client: f.key.client.Addr()} }

// header implements [teller].
func (f *flow) header(string, int) (string, bool) { return "", false }

// line implements [liner].
func (f *flow) line(b []byte, ex *exchange, o outcome) []byte {
	b = append(b, `,"network.transport":"udp"`...)
	b = strconv.AppendInt(append(b, `,"bytes_sent":`...), o.bytes, 10)
	b = strconv.AppendInt(append(b, `,"bytes_received":`...), f.received.Load(), 10)
	b = appendSeconds(append(b, `,"duration":`...), o.took)
	if ex.gotHead {
		b = appendSeconds(append(b, `,"connected":`...), ex.first)
	}
	if ex.repeated > 0 {
		b = strconv.AppendInt(append(b, `,"retries":`...), int64(ex.repeated), 10)
	}
	if ex.preview {
		b = append(b, `,"preview":true`...)
	}
	return b
}
