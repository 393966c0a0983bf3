//go:build unix

package edge

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	upstreamIdle    = 90 * time.Second // how long a connection to an instance is kept unused
	upstreamPerAddr = 512              // and how many
	upstreamBuffer  = 16 << 10
)

// upstream is a connection to an instance.
type upstream struct {
	*socket
	r     *bufio.Reader // of what Read brings
	used  time.Time
	until time.Time // when a read ends in vain; zero for never
	head  head
	buf   []byte // of the head

	ask []byte // a request that the next read sends before it waits
}

// Read implements [io.Reader].
func (c *upstream) Read(p []byte) (int, error) {
	n, asked, err := c.converse(c.ask, p)
	if asked {
		c.ask = nil
	}
	return n, err
}

// readUntil bounds reads by a time; zero is never. The bound may come later by as much as slack: one that was set before and fits
// stays, as to set it costs as much as to read.
func (c *upstream) readUntil(t time.Time, slack time.Duration) {
	if !c.until.Before(t) && !c.until.After(t.Add(slack)) {
		return
	}
	if !t.IsZero() {
		t = t.Add(slack)
	}
	c.until = t
	c.SetReadDeadline(t)
}

// upstreams are those that wait to be used again: the one that was used last is used next, so that what is not needed grows old.
type upstreams struct {
	mu    sync.Mutex
	idle  map[string][]*upstream
	swept time.Time
}

// trustFor is how long after its last use a connection is used without a look at it, for a request that may be sent again.
const trustFor = 20 * time.Millisecond

// wanted is what a request needs of a connection.
type wanted struct {
	now   time.Time
	by    time.Time     // when a new one must be there; zero for any time
	fresh bool          // only a new one will do
	trust time.Duration // one that was used as lately as that is taken as it is
}

// get returns a connection to addr. An idle one that the instance has closed meanwhile, or on which it said something that
// nobody asked for, is not used.
func (u *upstreams) get(addr string, w wanted) (*upstream, error) {
	for !w.fresh {
		u.mu.Lock()
		list := u.idle[addr]
		if len(list) == 0 {
			u.mu.Unlock()
			break
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		u.idle[addr] = list[:len(list)-1]
		u.mu.Unlock()
		if idle := w.now.Sub(c.used); idle < w.trust || idle < upstreamIdle && c.quiet() {
			return c, nil
		}
		c.Close()
	}
	nc, err := (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second, Deadline: w.by}).Dial("tcp", addr)
	if err != nil {
		return nil, &dialError{err}
	}
	s, err := newSocket(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &upstream{socket: s}
	c.r = bufio.NewReaderSize(c, upstreamBuffer)
	return c, nil
}

// put keeps a connection whose answer was read to its end, and which was used at now.
func (u *upstreams) put(addr string, c *upstream, now time.Time) {
	c.used = now
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.idle == nil {
		u.idle = map[string][]*upstream{}
	}
	list := u.idle[addr]
	if len(list) >= upstreamPerAddr {
		c.Close()
		return
	}
	u.idle[addr] = append(list, c)
	if len(list) == 0 && now.Sub(u.swept) >= lookEvery {
		u.swept = now
		u.sweep(now)
	}
}

// lookEvery bounds how often all addresses are looked through: among hundreds, one or the other has no connection left all the time.
const lookEvery = time.Second

// sweep closes what is too old: of the least recently used ones at the front of each list. u.mu is held.
func (u *upstreams) sweep(now time.Time) {
	for addr, list := range u.idle {
		n := 0
		for n < len(list) && now.Sub(list[n].used) >= upstreamIdle {
			list[n].Close()
			n++
		}
		if u.idle[addr] = append(list[:0], list[n:]...); len(u.idle[addr]) == 0 {
			delete(u.idle, addr)
		}
	}
}

// quiet reports whether the other end is still there and has said nothing: a look at the socket, which takes less than a
// microsecond. What it closes while the request is on its way cannot be seen by it.
func (c *upstream) quiet() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	c.readUntil(time.Time{}, 0) // one that is over would end the look, too
	ok := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ok = err == syscall.EAGAIN //nolint:errorlint // it is a plain errno
		return true
	})
	return err == nil && ok
}

// version is how every answer of HTTP/1 begins.
const version = "HTTP/1."

// readHead reads the head of an answer. More is to wait for more of it than is there. What is no head is not waited for: an instance
// that speaks another protocol may wait in turn for what that makes of its greeting.
func (c *upstream) readHead(more func() error) error {
	var err error
	c.buf, err = takeHead(c.r, c.buf[:0], func() error {
		if begin, _ := c.r.Peek(min(c.r.Buffered(), len(version))); !strings.HasPrefix(version, string(begin)) {
			return errGarbage
		}
		return more()
	})
	if errors.Is(err, errHeadSize) || err == nil && !c.head.parse(c.buf) {
		return errGarbage
	}
	return err
}
