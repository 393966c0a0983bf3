//go:build unix

package edge

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// lockName is the name under which the role's lock travels with the sockets.
const lockName = "lock"

// handOver gives everything to a new generation that asks, and leaves once that one serves.
func (s *Server) handOver(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		err = s.giveTo(c.(*net.UnixConn))
		c.Close()
		if err != nil {
			s.log.Error("takeover failed; serving on", "error", err)
			continue
		}
		l.Close()
		s.drain()
		return
	}
}

// giveTo sends the sockets and the lock and waits for the new generation's word. The table cannot change meanwhile.
func (s *Server) giveTo(c *net.UnixConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	side, theirs, err := s.flows.offer()
	if err != nil {
		return err
	}
	defer side.Close()
	names, conns := s.files()
	err = keeper.SendFiles(c, "take", append(names, lockName, flowsName), append(conns, s.lock, theirs))
	theirs.Close()
	if err != nil {
		return err
	}
	if op, _, err := keeper.ReceiveFilesWithin(c, 30*time.Second); err != nil || op != "serving" {
		return fmt.Errorf("the new edge did not start to serve: %q %w", op, err)
	}
	if err := s.flows.hand(side); err != nil {
		return err
	}
	s.leaving.Store(true)
	s.certs.Close() // the new one renews
	for addr := range s.listeners {
		s.unlisten(addr)
	}
	s.h3.leave(true)
	s.flows.leave()
	s.wake()
	return s.lock.Close()
}

// Shut stops taking connections, serves what is under way for at most grace, and returns.
func (s *Server) Shut(grace time.Duration) {
	s.mu.Lock()
	s.leaving.Store(true)
	s.certs.Close()
	for addr := range s.listeners {
		s.unlisten(addr)
	}
	s.h3.leave(false)
	s.flows.leave()
	s.mu.Unlock()
	s.accepts.Wait()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	end := time.Now().Add(grace)
	for s.serving.Load()+s.proxy.fetches.Load() > 0 && time.Now().Before(end) {
		<-t.C
	}
	s.h3.linger(end)
	s.h3.close()
	s.flows.close()
	s.proxy.access.close()
	s.proxy.exporters.close()
	s.stats.leave()
}

// drain waits until nothing is served here any more.
func (s *Server) drain() {
	s.accepts.Wait()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for s.conns.Load() > 0 || s.serving.Load() > 0 || s.proxy.fetches.Load() > 0 {
		<-t.C
	}
	s.h3.close()
	s.flows.close()
	s.proxy.access.close()
	s.proxy.exporters.close()
	close(s.done)
}

// TakeOver asks the living edge for its lock and its sockets. Call ready when the new server runs; without it, or
// when this process dies, the old one serves on.
func TakeOver(d home.Dirs) (lock *os.File, given map[string]*os.File, ready func() error, err error) {
	c, err := keeper.DialFiles(d, home.Edge)
	if err != nil {
		return nil, nil, nil, err
	}
	_, given, err = keeper.ReceiveFiles(c)
	if err != nil {
		c.Close()
		return nil, nil, nil, err
	}
	lock = given[lockName]
	delete(given, lockName)
	if lock == nil {
		c.Close()
		return nil, nil, nil, errors.New("the living edge sent no lock")
	}
	return lock, given, func() error {
		defer c.Close()
		return keeper.SendFiles(c, "serving", nil, nil)
	}, nil
}
