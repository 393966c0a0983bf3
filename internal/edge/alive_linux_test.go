package edge

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection that was taken is probed as one of Go's own listeners is.
func TestConnectionsAreProbed(t *testing.T) {
	options := func(lc net.ListenConfig) (got [4]int) {
		l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		taken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		raw, err := taken.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			for i, o := range [][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}} {
				if got[i], err = unix.GetsockoptInt(int(fd), o[0], o[1]); err != nil {
					t.Error(err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	var ours net.ListenConfig
	probed(&ours)
	if got, want := options(ours), options(net.ListenConfig{}); got != want || got[0] != 1 {
		t.Errorf("%v, Go's are %v", got, want)
	}
}
