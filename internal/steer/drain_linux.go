package steer

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/wait"
)

// quietFor is how long nothing happens on a connection whose last word was the service's, before it counts as idle.
const quietFor = 300 * time.Millisecond

// drainEvery is how often connections that are ending are looked at.
const drainEvery = 25 * time.Millisecond

// Drain makes a process that gets no new connections any more free of its old ones: whoever is on the way to it by now still
// arrives, each connection's next HTTP/1 answer tells the client that it is the last one, and when Drain returns nothing is
// under way. Idle connections stay: nothing can be told to their clients. The error is ctx's cause when that was not so soon
// enough, or says why the machine cannot do it. Close does not end it before ctx: nobody shall take it for done.
func (k *Kernel) Drain(ctx context.Context, public netip.AddrPort, s Socket) error {
	if err := k.beginDrain(); err != nil {
		return err
	}
	defer k.endDrain()
	// Before the wait, which on a busy machine is long: meanwhile clients are told already.
	if _, err := k.ending(public, s); err != nil && s.Process.Alive() {
		return err
	}
	if err := handshakes(ctx, public.Port()); err != nil {
		return err
	}
	for {
		busy, err := k.ending(public, s)
		if !s.Process.Alive() {
			return nil
		}
		if err != nil || busy == 0 {
			return err
		}
		if err := wait.For(ctx, drainEvery); err != nil {
			return err
		}
	}
}

// ending returns how many connections have something under way.
func (k *Kernel) ending(public netip.AddrPort, s Socket) (busy int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return 1, nil // as far as we know
	}
	return k.watch.mark(public, s, all)
}

func (k *Kernel) beginDrain() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		if _, err := k.watching(); err != nil {
			return err
		}
	}
	k.drains++
	return nil
}

func (k *Kernel) endDrain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drains--
	if !k.wanted {
		// What cannot be closed now is closed with the process.
		_ = k.endWatch()
	}
}

// handshakeWait is the longest that a connection in its handshake is waited for; a client that is only slow needs less.
const handshakeWait = 3 * time.Second

// handshakes waits until the connections that are in their handshake now are through it: a listening socket that closes
// meanwhile would reset them.
func handshakes(ctx context.Context, port uint16) error {
	within, cancel := context.WithTimeout(ctx, handshakeWait)
	defer cancel()
	began, err := halfOpen(port)
	for err == nil && len(began) > 0 {
		if wait.For(within, drainEvery) != nil {
			return context.Cause(ctx)
		}
		var now map[string]bool
		now, err = halfOpen(port)
		for peer := range began {
			if !now[peer] {
				delete(began, peer)
			}
		}
	}
	return err
}

// stateSynRecv is TCP_SYN_RECV of <net/tcp_states.h> as the tables of proc(5) print it.
const stateSynRecv = "03"

// halfOpen returns the clients in their handshake with a port, by address.
func halfOpen(port uint16) (map[string]bool, error) {
	out := map[string]bool{}
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// sl local_address rem_address st ...
			w := strings.Fields(lines.Text())
			if len(w) > 3 && w[3] == stateSynRecv && portOf(w[1]) == port {
				out[w[2]] = true
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// portOf reads the port of an address as 0100007F:1F90.
func portOf(s string) uint16 {
	_, p, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(p, 16, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}
