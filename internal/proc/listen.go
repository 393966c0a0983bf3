package proc

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Listener is one process that waits for TCP connections, or datagrams of UDP, at one address. A socket that several processes share, as a
// parent and its workers do, is listed once for each of them.
type Listener struct {
	Addr    string    // ip:port; 0.0.0.0 and [::] stand for every address
	Port    int       //
	PID     int       // 0 when the process belongs to somebody else and may not be looked at
	Command string    // the full command line, "" when PID is 0
	User    string    // its name, or its number where it has no name
	Since   time.Time // when the process started; zero when unknown
}

// Listeners lists every TCP socket of this machine that listens, ordered by port, address and process.
func Listeners(ctx context.Context) ([]Listener, error) {
	return sorted(listeners(ctx))
}

// ListenersOf lists the TCP sockets that the process or one of its descendants listens on. It sees what the process
// sees, also where that has a network namespace of its own.
func ListenersOf(ctx context.Context, pid int) ([]Listener, error) {
	if _, err := identify(pid); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return sorted(listenersOf(ctx, pid))
}

// On reports whether the listener gets connections that are made to addr, which may be a wildcard itself.
func (l Listener) On(addr netip.AddrPort) bool {
	at, err := netip.ParseAddrPort(l.Addr)
	if err != nil || at.Port() != addr.Port() {
		return false
	}
	a, b := at.Addr().Unmap(), addr.Addr().Unmap()
	switch {
	case a == b:
		return true
	case a.Is4() == b.Is4():
		return a.IsUnspecified() || b.IsUnspecified()
	}
	// [::] takes IPv4 too unless its owner asked for IPv6 alone, which nobody tells; the common case is right.
	return a.Is6() && a.IsUnspecified() || b.Is6() && b.IsUnspecified()
}

func sorted(ls []Listener, err error) ([]Listener, error) {
	slices.SortFunc(ls, func(a, b Listener) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.PID, b.PID))
	})
	return ls, err
}

// family returns root and everything below it in a table of process to parent.
func family(parent map[int]int, root int) map[int]bool {
	in := map[int]bool{root: true}
	for grew := true; grew; {
		grew = false
		for pid, up := range parent {
			if in[up] && !in[pid] {
				in[pid], grew = true, true
			}
		}
	}
	return in
}
