package edge

import (
	"net"

	"golang.org/x/sys/unix"
)

// recvLocal4 is the option by which IPv4 says to which address a datagram came.
const recvLocal4 = unix.IP_RECVPKTINFO

// roomFor has the kernel keep so many bytes of what was not read yet, as far as the system allows it.
func roomFor(c *net.UDPConn, n int) { c.SetReadBuffer(n) }
