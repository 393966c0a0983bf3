//go:build unix && !linux

package edge

import (
	"errors"
	"net"
	"syscall"
)

// isReset reports whether nothing comes of a connection any more.
func isReset(c *net.TCPConn) bool {
	l, err := newLook(c)
	if err != nil {
		return true
	}
	if err := l.raw.Control(func(fd uintptr) { l.try(fd) }); err != nil {
		return true
	}
	return l.n == 0 && !errors.Is(l.err, syscall.EAGAIN)
}
