//go:build unix

package edge

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// listen opens addr, or takes it over from the generation before. Connections wait until accept is called. s.mu is held.
func (s *Server) listen(addr string) error {
	if udp, ok := udpAddress(addr); ok {
		return s.h3.listen(udp)
	}
	if udp, ok := datagramAddress(addr); ok {
		return s.flows.listen(udp)
	}
	if s.listeners[addr] != nil {
		return nil
	}
	var l net.Listener
	var err error
	if f := s.given[addr]; f != nil {
		l, err = net.FileListener(f)
	} else {
		// Not Multipath TCP, which Go listens for by default: the kernel could not steer connections to this socket.
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		probed(&lc)
		l, err = lc.Listen(context.Background(), "tcp", addr)
	}
	if err != nil {
		return err
	}
	tl, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return fmt.Errorf("%s is not a TCP address", addr)
	}
	s.listeners[addr] = tl
	return nil
}

// accept begins to serve what listen opened. s.mu is held.
func (s *Server) accept() {
	for addr, l := range s.listeners {
		if !s.accepting[addr] {
			s.accepting[addr] = true
			s.accepts.Go(func() { s.takeAll(addr, s.helloListener(addr, l)) })
		}
	}
	s.h3.serve()
	s.flows.serve()
}

// unlisten closes a listener; its connections stay.
func (s *Server) unlisten(addr string) {
	s.listeners[addr].Close()
	delete(s.listeners, addr)
	delete(s.accepting, addr)
}

// unlistenUnused closes the listeners that the table in force does not name. s.mu is held.
func (s *Server) unlistenUnused() {
	used := map[string]bool{}
	for _, r := range s.last.Routes {
		for _, addr := range r.sockets() {
			used[addr] = true
		}
	}
	for addr := range s.listeners {
		if !used[addr] {
			s.unlisten(addr)
		}
	}
	s.h3.unlistenUnused(used)
	s.flows.unlistenUnused(used)
}

// files returns the names and sockets of all listeners. s.mu is held.
func (s *Server) files() (names []string, conns []syscall.Conn) {
	for addr, l := range s.listeners {
		names, conns = append(names, addr), append(conns, l)
	}
	return s.flows.files(s.h3.files(names, conns))
}

// store gives the supervisor copies of the listening sockets: they outlive a crash of this process. s.mu is held.
func (s *Server) store() {
	names, conns := s.files()
	if err := keeper.PutFiles(s.dirs, home.Supervisor, names, conns); err != nil {
		s.log.Info("the supervisor keeps no sockets for us now", "error", err)
	}
}

// keepStored gives a supervisor that was started again its copies. A supervisor's death is rare and this is cheap.
func (s *Server) keepStored(ctx context.Context) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	pid := 0
	for {
		if now := keeper.PID(s.dirs, home.Supervisor); now != pid {
			s.mu.Lock()
			if !s.leaving.Load() {
				s.store()
			}
			s.mu.Unlock()
			pid = now
		}
		s.mu.Lock()
		if s.unsaved && !s.leaving.Load() {
			if err := s.keepTable(s.last, nil); err != nil {
				s.log.Error("cannot keep the routing table", "error", err)
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-t.C:
		}
	}
}
