package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holder gives copies of another process's sockets (pidfd_getfd(2)).
type holder struct {
	pid   int
	pidfd int
}

// errEnded is said of a process that is no more.
var errEnded = errors.New("it has ended")

// hold opens the process; errEnded when another one has its number by now.
func hold(s Socket) (holder, error) {
	fd, err := unix.PidfdOpen(s.Process.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		err = errEnded
	}
	if err != nil {
		return holder{}, fmt.Errorf("process %d: %w", s.Process.PID, err)
	}
	if !s.Process.Alive() { // after the open: what is held now is who it was
		unix.Close(fd)
		return holder{}, fmt.Errorf("process %d: %w", s.Process.PID, errEnded)
	}
	return holder{s.Process.PID, fd}, nil
}

func (h holder) close() { unix.Close(h.pidfd) }

// each calls f with a copy of each TCP socket of the process, which is closed when f returns: a copy that outlived its owner
// would keep a port open that nobody serves.
func (h holder) each(f func(fd int, local netip.AddrPort, listens bool) error) error {
	dir := "/proc/" + strconv.Itoa(h.pid) + "/fd"
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range files {
		to, err := os.Readlink(dir + "/" + e.Name())
		n, notNumber := strconv.Atoi(e.Name())
		if err != nil || notNumber != nil || !strings.HasPrefix(to, "socket:") {
			continue // closed since, or something else
		}
		fd, err := unix.PidfdGetfd(h.pidfd, n, 0)
		if errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return fmt.Errorf("take a copy of a socket of process %d (pidfd_getfd, needs CAP_SYS_PTRACE): %w", h.pid, err)
		}
		if local, listens, ok := describe(fd); ok {
			err = f(fd, local, listens)
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// describe says where a TCP socket is bound; not ok for anything else.
func describe(fd int) (local netip.AddrPort, listens, ok bool) {
	kind, err1 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	accepts, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	sa, err3 := unix.Getsockname(fd)
	if err1 != nil || err2 != nil || err3 != nil || kind != unix.SOCK_STREAM {
		return local, false, false
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		local = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		local = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	default:
		return local, false, false
	}
	return local, accepts == 1, true
}

// progress is what the kernel knows of a connection that the service can still answer on; nil for any other.
func progress(fd int) *unix.TCPInfo {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.State != unix.BPF_TCP_ESTABLISHED && info.State != unix.BPF_TCP_CLOSE_WAIT {
		return nil
	}
	return info
}

// cookie is a socket's number that no other one ever gets.
func cookie(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// listeners calls f with each socket at which the process takes connections on the port. Of several, those that IPv4 clients
// reach: a socket for IPv6 alone cannot take them.
func (s Socket) listeners(f func(fd int) error) error {
	h, err := hold(s)
	if err != nil {
		return err
	}
	defer h.close()
	found := map[bool]int{}
	for _, only6 := range []bool{false, true} {
		err := h.each(func(fd int, local netip.AddrPort, listens bool) error {
			if !listens || int(local.Port()) != s.Port || bound6(fd, local) != only6 {
				return nil
			}
			found[only6]++
			return f(fd)
		})
		if err != nil || found[only6] > 0 {
			return err
		}
	}
	if !s.Process.Alive() {
		return fmt.Errorf("process %d: %w", s.Process.PID, errEnded) // meanwhile
	}
	return fmt.Errorf("process %d does not listen on port %d itself", s.Process.PID, s.Port)
}

// bound6 reports whether only IPv6 clients reach a listening socket.
func bound6(fd int, local netip.AddrPort) bool {
	if local.Addr().Is4() {
		return false
	}
	only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return !local.Addr().IsUnspecified() || err == nil && only == 1
}
