//go:build unix

package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// socket is a TCP connection whose reads and writes are plain calls of the kernel. The runtime takes each of net's for one that may
// wait, and hands the processor on to another thread when it takes more than 20 µs, as a write on loopback does that brings the
// other end's work with it. A socket never waits in the kernel, so there is nothing to hand on.
type socket struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out call
}

// call is a read or a write under way. There is one at a time of each, so that none needs memory of its own.
type call struct {
	mu  sync.Mutex
	try func(fd uintptr) (done bool)
	ask []byte // what a read sends before it waits
	buf []byte
	n   int
	err syscall.Errno
}

func newSocket(nc net.Conn) (*socket, error) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("%T is no TCP connection", nc)
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{TCPConn: tc, raw: raw}
	s.in.try, s.out.try = s.in.read, s.out.write
	return s, nil
}

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	n, _, err := s.converse(nil, p)
	return n, err
}

// converse sends ask, which may be empty, and then reads into p. To wait in the same call of [syscall.RawConn]'s Read saves the look for
// an answer that cannot be there yet; and as the wait begins before anything is sent, it cannot miss the answer. asked reports
// whether ask was sent: the time for reading may have been over before. When not all of it could be, that is the error, unless
// there is something to read nevertheless.
func (s *socket) converse(ask, p []byte) (n int, asked bool, err error) {
	c := &s.in
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask, c.buf, c.n, c.err = ask, p, 0, 0
	err = s.raw.Read(c.try)
	if err == nil && len(c.ask) > 0 { // not all of it went at once
		_, unsent := s.Write(c.ask)
		c.ask = nil
		if err = s.raw.Read(c.try); unsent != nil && c.n == 0 {
			return 0, true, unsent
		}
	}
	asked, c.ask, c.buf = len(c.ask) == 0, nil, nil
	if err == nil && c.err == 0 && c.n == 0 && len(p) > 0 {
		return 0, asked, io.EOF
	}
	return c.n, asked, s.failed("read", err, c.err)
}

func (c *call) read(fd uintptr) (done bool) {
	if len(c.ask) > 0 {
		n, err := uninterrupted(sysWrite, fd, c.ask)
		c.ask = c.ask[max(n, 0):]
		return err != 0 || len(c.ask) > 0
	}
	n, err := uninterrupted(sysRead, fd, c.buf)
	if err == syscall.EAGAIN {
		return false
	}
	c.n, c.err = max(n, 0), err
	return true
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (int, error) {
	c := &s.out
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf, c.n, c.err = p, 0, 0
	err := s.raw.Write(c.try)
	c.buf = nil
	return c.n, s.failed("write", err, c.err)
}

func (c *call) write(fd uintptr) (done bool) {
	for c.n < len(c.buf) {
		n, err := uninterrupted(sysWrite, fd, c.buf[c.n:])
		if err == syscall.EAGAIN {
			return false
		}
		if err != 0 {
			c.err = err
			return true
		}
		c.n += n
	}
	return true
}

// failed is an error as net's own connections have it.
func (s *socket) failed(op string, err error, no syscall.Errno) error {
	var inner *net.OpError
	switch {
	case errors.As(err, &inner):
		err = inner.Err
	case err == nil && no == 0:
		return nil
	case err == nil:
		err = os.NewSyscallError(op, no)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

// uninterrupted repeats a call that a signal interrupted.
func uninterrupted(call func(uintptr, []byte) (int, syscall.Errno), fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		if n, err := call(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}
