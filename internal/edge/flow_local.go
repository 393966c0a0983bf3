//go:build linux || darwin

package edge

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// tellLocal has the kernel say of each datagram to which of the machine's addresses it came. A socket may be of either family, and one of
// IPv6 may get datagrams of IPv4, too.
func tellLocal(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var four, six error
	if err := raw.Control(func(fd uintptr) {
		four = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, recvLocal4, 1)
		six = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return err
	}
	if four == nil {
		return nil
	}
	return six
}

// localRoom is how much the kernel writes to say it, for both families.
var localRoom = unix.CmsgSpace(unix.SizeofInet6Pktinfo) + unix.CmsgSpace(sizeofInet4Pktinfo)

// sizeofInet4Pktinfo is that of the kernel's struct in_pktinfo: an interface and two addresses.
const sizeofInet4Pktinfo = 12

// localOf reads to which address a datagram came (ip(7), ipv6(7)). It is not valid where nothing says so.
func localOf(oob []byte) (at netip.Addr) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= sizeofInet4Pktinfo:
			// The first one: the second is what the datagram was sent to, which may be nobody's own (a broadcast).
			at = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			if a := netip.AddrFrom16([16]byte(data[:16])).Unmap(); !at.IsValid() && !a.IsMulticast() {
				at = a
			}
		}
		oob = rest
	}
	return at
}

// leaveFrom is the word to the kernel that a datagram shall leave from an address; nil for one of its own choice.
func leaveFrom(at netip.Addr) []byte {
	switch {
	case !at.IsValid():
		return nil
	case at.Is4():
		return (&ipv4.ControlMessage{Src: at.AsSlice()}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: at.AsSlice()}).Marshal()
}
