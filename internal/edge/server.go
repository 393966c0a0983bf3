//go:build unix

package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

const (
	readHeaderTimeout = 30 * time.Second
	// idleTimeout is how long a client's idle connection is kept, and so how long an edge that was replaced lives on for
	// clients that say nothing.
	idleTimeout = 2 * time.Minute
)

// Server is one generation of the edge.
type Server struct {
	dirs    home.Dirs
	version string
	log     *slog.Logger
	lock    *os.File
	stats   *Stats
	proxy   *proxy

	table   atomic.Pointer[routes]
	changed atomic.Pointer[chan struct{}]
	leaving atomic.Bool
	accepts sync.WaitGroup // loops that take connections; once they ended every connection is among conns
	conns   atomic.Int64
	serving atomic.Int64

	mu        sync.Mutex // serialises changes of the table
	last      *Table
	known     map[string]*Route // its routes by their JSON, where it came as such
	unsaved   bool              // last is not on disk
	states    map[string]*endpointState
	certs     *certs.Store
	upstreams upstreams // of what the edge reads without net/http
	listeners map[string]*net.TCPListener
	accepting map[string]bool     // those of listeners that are served
	given     map[string]*os.File // listeners of the generation before, not used yet
	done      chan struct{}
	h3        *h3
	flows     *flows
}

// Options are what a Server is started with.
type Options struct {
	Dirs    home.Dirs
	Version string
	Log     *slog.Logger
	Lock    *os.File            // the role's lock, given on at a takeover
	Given   map[string]*os.File // listening sockets of the living edge; nil when there is none
	Ready   func() error        // tells the living edge that this one serves; nil when there is none
	Access  AccessLog           // where access logs are kept; nil for nowhere
}

// Start serves the last table until another generation takes over or Shut is called.
func Start(ctx context.Context, o Options) (*Server, error) {
	st, err := OpenStats(o.Dirs.Stats(), true)
	if err != nil {
		return nil, err
	}
	s := newServer(o, st)
	if err := s.start(ctx, o); err != nil {
		s.Shut(0)
		return nil, err
	}
	return s, nil
}

func newServer(o Options, st *Stats) *Server {
	s := &Server{dirs: o.Dirs, version: o.Version, log: o.Log, lock: o.Lock, stats: st, states: map[string]*endpointState{},
		listeners: map[string]*net.TCPListener{}, accepting: map[string]bool{}, given: o.Given, last: &Table{}, done: make(chan struct{})}
	s.certs = certs.Open(certs.Options{Dir: o.Dirs.Certificates(), Log: o.Log})
	s.flows = newFlows(s)
	s.flows.side = o.Given[flowsName]
	delete(s.given, flowsName)
	s.h3 = &h3{s: s, listeners: map[string]*quicListener{}}
	ch := make(chan struct{})
	s.changed.Store(&ch)
	s.proxy = newProxy(st, o.Log, o.Access)
	s.proxy.exporters = newExporters(o.Log, o.Version)
	s.proxy.current, s.proxy.leaving = s.current, s.leaving.Load
	s.proxy.changed = func() <-chan struct{} { return *s.changed.Load() }
	return s
}

func (s *Server) start(ctx context.Context, o Options) error {
	if s.given == nil {
		// The supervisor kept the sockets of an edge that died. Without a supervisor they are opened anew.
		var err error
		if s.given, err = keeper.GetFiles(o.Dirs, home.Supervisor); err != nil {
			o.Log.Info("no sockets kept for us", "error", err)
		}
	}
	if err := s.restore(); err != nil {
		return err
	}
	if o.Ready != nil {
		if err := s.flows.greet(); err != nil {
			return err
		}
		if err := o.Ready(); err != nil {
			return err
		}
		if err := s.flows.inherit(); err != nil {
			return err
		}
	}
	// Only now: a connection that is taken before the living edge knows of us would be lost if we died. Until here, and
	// after it stopped, they wait in the socket that both have.
	s.mu.Lock()
	s.accept()
	s.mu.Unlock()
	if o.Ready != nil {
		if err := keeper.Sign(o.Lock); err != nil {
			return err
		}
	}
	// Only now: until here the living edge must be reachable under these names.
	admin, err := home.Listen(o.Dirs.Sock(home.Edge))
	if err != nil {
		return err
	}
	fds, err := home.Listen(o.Dirs.FDSock(home.Edge))
	if err != nil {
		admin.Close()
		return err
	}
	go (&http.Server{Handler: s.admin(), ReadHeaderTimeout: readHeaderTimeout}).Serve(admin)
	go s.handOver(fds)
	go s.keepStored(ctx)
	return nil
}

// Done is closed when a replaced server's last connection has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// restore loads the last table from disk. A listener that cannot be opened now is tried again with the next table, so
// that one taken port does not keep the other services from their traffic.
func (s *Server) restore() error {
	var t Table
	if err := home.ReadJSON(s.dirs.Table(), &t); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Error("the last routing table cannot be read; waiting for the agent's", "error", err)
		t = Table{}
	}
	t.Generation = max(t.Generation, s.stats.head.generation.Load())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range t.Routes {
		for _, addr := range r.sockets() {
			if err := s.listen(addr); err != nil {
				s.log.Error("cannot listen", "address", addr, "error", err)
			}
		}
	}
	for _, f := range s.given {
		f.Close()
	}
	s.given = nil
	c, err := s.compile(&t, nil, s.table.Load())
	if err == nil {
		s.secure(c)
		s.swap(&t, c)
	}
	return err
}

// Set puts t in force: first everything that can fail, then one swap. It returns when t is in force and on disk.
func (s *Server) Set(t Table) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(t, tableText{})
}

// setText is Set for a table in JSON.
func (s *Server) setText(b []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, text, err := decodeTable(b, s.known)
	if err != nil {
		return 0, err
	}
	return s.set(t, text)
}

func (s *Server) set(t Table, text tableText) (uint64, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	if s.leaving.Load() {
		return 0, fail.New(fail.Unavailable, "routing table", "this edge was replaced: ask again")
	}
	if err := s.certs.Check(t.wanted()); err != nil {
		return 0, err
	}
	for _, r := range t.Routes {
		for _, addr := range r.sockets() {
			if err := s.listen(addr); err != nil {
				s.unlistenUnused()
				return 0, fail.New(fail.Preflight, "listen on "+addr, "%w", err).Hinted("choose another route.listen (or route.http), or run `fairlead check` to see who holds it")
			}
		}
	}
	t.Generation = s.table.Load().generation + 1
	c, err := s.compile(&t, text.read, s.table.Load())
	if err == nil {
		for _, rt := range c.byKey {
			err = errors.Join(err, rt.secure(s.certs))
		}
	}
	if err == nil {
		err = s.keepTable(&t, text.routes)
	}
	if err != nil {
		s.unlistenUnused()
		return 0, err
	}
	s.swap(&t, c)
	s.known = text.known
	s.accept()
	s.unlistenUnused()
	s.store()
	return t.Generation, nil
}

// keepTable writes the table that is about to be in force. A full disk does not keep it from being: going back to a good
// release must work there, too. It is written as soon as there is room.
func (s *Server) keepTable(t *Table, routes []byte) error {
	b, err := encodeTable(t, routes)
	if err == nil {
		err = home.WriteFile(s.dirs.Table(), b, 0o600)
	}
	s.unsaved = errors.Is(err, syscall.ENOSPC)
	if s.unsaved {
		s.log.Error("the routing table is in force, but not on disk", "error", err)
		return nil
	}
	return err
}

// swap makes t, in its form c, the table that requests see. s.mu is held.
func (s *Server) swap(t *Table, c *routes) {
	s.table.Store(c)
	s.last = t
	if !s.leaving.Load() {
		s.stats.head.generation.Store(t.Generation)
		s.certs.Follow(t.wanted())
	}
	s.wake()
}

// wake makes held requests look at the table again.
func (s *Server) wake() {
	ch := make(chan struct{})
	close(*s.changed.Swap(&ch))
}

// current is the table in force. A server that was replaced follows its successor's tables by the shared generation.
func (s *Server) current() *routes {
	c := s.table.Load()
	if !s.leaving.Load() || s.stats.head.generation.Load() == c.generation {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c = s.table.Load(); s.stats.head.generation.Load() == c.generation {
		return c
	}
	var t Table
	if err := home.ReadJSON(s.dirs.Table(), &t); err != nil {
		s.log.Error("cannot follow the routing table", "error", err)
		return c
	}
	next, err := s.compile(&t, nil, nil)
	if err != nil {
		s.log.Error("cannot follow the routing table", "error", err)
		return c
	}
	s.secure(next)
	s.swap(&t, next)
	return next
}

func (s *Server) httpServer(addr string) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(addr, w, r) }),
		Protocols: protocols, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ConnState: hijacked,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) serve(addr string, w http.ResponseWriter, r *http.Request) {
	s.serving.Add(1)
	defer s.serving.Add(-1)
	if c, ok := r.Context().Value(connKey{}).(*handedConn); ok {
		r.TLS = c.tls // what net/http cannot see: the connection was begun elsewhere
		if c.refuses(w, r) {
			return
		}
	}
	if r.TLS == nil && s.certs.Challenge(w, r) {
		return
	}
	s.proxy.serve(addr, w, r)
}
