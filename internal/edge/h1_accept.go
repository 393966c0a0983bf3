//go:build unix

package edge

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
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
	c := crew{take: func(nc net.Conn) { s.take(addr, nc, others) }, next: make(chan net.Conn)}
	defer func() {
		close(c.next)
		go func() {
			c.all.Wait() // a connection that was taken may still be handed over
			close(others.ended)
		}()
	}()
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("cannot take a connection", "address", addr, "error", err)
			time.Sleep(acceptPause)
			continue
		}
		s.conns.Add(1)
		c.give(nc)
	}
}

// crew serves connections, each in a goroutine. One that is done takes the next connection: the stack of a new one would have to grow
// several times over for a single request, which costs a tenth of all that a connection for one request does.
type crew struct {
	take func(net.Conn)
	next chan net.Conn
	idle atomic.Int32
	all  sync.WaitGroup
}

// maxIdle bounds the goroutines of a crew that wait for a connection, at 8 KiB each.
const maxIdle = 64

func (c *crew) give(nc net.Conn) {
	select {
	case c.next <- nc:
	default:
		c.all.Go(func() { c.work(nc) })
	}
}

func (c *crew) work(nc net.Conn) {
	for more := true; more; {
		c.take(nc)
		nc = nil
		if more = c.idle.Add(1) <= maxIdle; more {
			nc, more = <-c.next
		}
		c.idle.Add(-1)
	}
}
