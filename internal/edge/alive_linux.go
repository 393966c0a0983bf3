package edge

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// probed makes connections of a listener that it will open be asked whether their other end is still there, as Go's are by default (after
// 15 seconds, every 15 seconds, 9 times). Set on the listener, it holds for all that it takes (tcp(7)); set on each, it takes four system
// calls a connection.
func probed(lc *net.ListenConfig) {
	lc.KeepAlive = -1
	lc.Control = func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9}} {
				if err == nil {
					err = unix.SetsockoptInt(int(fd), o[0], o[1], o[2])
				}
			}
		}); e != nil {
			return e
		}
		return err
	}
}
