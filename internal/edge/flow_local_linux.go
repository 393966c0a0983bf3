package edge

import (
	"net"

	"golang.org/x/sys/unix"
)

// recvLocal4 is the option by which IPv4 says to which address a datagram came.
const recvLocal4 = unix.IP_PKTINFO

// roomFor has the kernel keep so many bytes of what was not read yet: as root as many as are asked for, otherwise as the system allows.
func roomFor(c *net.UDPConn, n int) {
	c.SetReadBuffer(n)
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) })
	}
}
