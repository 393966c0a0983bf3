package supervise

import (
	"context"
	"errors"
	"net/netip"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

var errNoReceiver = errors.New("nobody receives at its UDP port")

// askUDP looks whether the instance has its UDP port open. Nothing is sent there: what a service makes of a datagram that is none of its
// protocol nobody knows.
func askUDP(ctx context.Context, addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ok, err := proc.Receives(ctx, at)
	if err == nil && !ok {
		err = errNoReceiver
	}
	return err
}
