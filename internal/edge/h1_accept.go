//go:build unix

package edge

import (
	"errors"
	"net"
	"sync"
	"time"
)

// connKey is the key of a request's connection in its context.
type connKey struct{}

// acceptPause is how long to wait when a connection cannot be taken, as without file descriptors.
const acceptPause = 20 * time.Millisecond

// takeAll serves the connections of a listener until that is closed. Each is begun by the edge itself; those that turn out to be
// of another kind go on in an HTTP server of net/http's.
func (s *Server) takeAll(addr string, l net.Listener) {
	others := &handed{Listener: l, conns: make(chan net.Conn), ended: make(chan struct{})}
	srv := s.httpServer(addr)
	go srv.Serve(others)
	var own sync.WaitGroup
	defer func() {
		go func() {
			own.Wait() // one that was taken may still be handed over
			close(others.ended)
		}()
	}()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("cannot take a connection", "address", addr, "error", err)
			time.Sleep(acceptPause)
			continue
		}
		s.conns.Add(1)
		own.Go(func() { s.take(addr, c, others) })
	}
}
