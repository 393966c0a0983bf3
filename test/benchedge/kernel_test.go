package benchedge

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/steer"
)

// kernel is the peer that has no process: connections are handed to the backend itself.
const kernel = "kernel"

func startKernel(b *testing.B, w *world, encrypted bool) running {
	b.Helper()
	r := running{addr: freeAddr(b)}
	k, err := steer.Open(fmt.Sprintf("fairlead-bench-%d", os.Getpid()))
	if err != nil {
		b.Logf("not by the kernel: %v", err)
		return running{}
	}
	b.Cleanup(func() {
		k.Set(nil)
		if err := k.Close(); err != nil {
			b.Error(err)
		}
	})
	id, err := proc.Identify(w.backend.pid)
	if err != nil {
		b.Fatal(err)
	}
	own := w.backend.Plain
	if encrypted {
		own = w.backend.TLS
	}
	to := steer.Socket{Process: id, Port: int(netip.MustParseAddrPort(own).Port())}
	s := steer.Service{Listen: netip.MustParseAddrPort(r.addr), Shares: []steer.Share{{Release: 1, Weight: 100, Sockets: []steer.Socket{to}}}}
	for _, err := range k.Set([]steer.Service{s}) {
		b.Fatal(err)
	}
	return r
}
