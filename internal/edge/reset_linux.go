package edge

import (
	"net"

	"golang.org/x/sys/unix"
)

// tcpClose is the state of a socket whose connection is over in both directions (the kernel's TCP_CLOSE).
const tcpClose = 7

// isReset reports whether a connection is over for the kernel already. One that ended in order on one side only is not.
func isReset(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	over := true
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		over = err != nil || info.State == tcpClose
	}); err != nil {
		return true
	}
	return over
}
