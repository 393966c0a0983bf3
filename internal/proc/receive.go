package proc

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Receivers lists every UDP socket of this machine that takes datagrams from anybody, in the order of [Listeners].
func Receivers(ctx context.Context) ([]Listener, error) { return sorted(receivers(ctx)) }

// ReceiversOf lists those that the process or one of its descendants has.
func ReceiversOf(ctx context.Context, pid int) ([]Listener, error) {
	if _, err := identify(pid); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return sorted(receiversOf(ctx, pid))
}

// Receives reports whether somebody takes what is sent to a UDP address of this machine. Nothing is sent there.
func Receives(ctx context.Context, addr netip.AddrPort) (bool, error) {
	all, err := receiving(ctx)
	return slices.ContainsFunc(all, func(at netip.AddrPort) bool { return (Listener{Addr: at.String()}).On(addr) }), err
}
