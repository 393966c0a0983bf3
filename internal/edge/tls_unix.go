//go:build unix

package edge

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
)

// helloListener takes an address's connections; whether they begin with the word of a proxy, and with a handshake, may change with
// every table.
type helloListener struct {
	net.Listener
	conf       *tls.Config // keeps the keys of session tickets over all routes, and changes them daily
	is         func() bool
	introduces func(net.Addr) bool
}

func (s *Server) helloListener(addr string, l net.Listener) *helloListener {
	return &helloListener{l, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { return s.handshake(addr, h) }},
		func() bool { return s.current().encrypted(addr) }, func(peer net.Addr) bool { return s.current().introduces(addr, peer) }}
}

// Accept implements [net.Listener].
func (l *helloListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s, err := newSocket(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	var c net.Conn = s
	if l.introduces(c.RemoteAddr()) {
		c = &introducedConn{Conn: c}
	}
	if l.is() {
		c = tls.Server(&helloConn{Conn: c}, l.conf)
	}
	return c, nil
}

// introduces reports whether a connection of peer's begins with the PROXY protocol.
func (c *routes) introduces(addr string, peer net.Addr) bool {
	return allowed(c.introduced[addr], addrPort(peer).Addr())
}

// handshake chooses the configuration for who knocks at addr. What a challenge asks needs no client's certificate.
func (s *Server) handshake(addr string, h *tls.ClientHelloInfo) (*tls.Config, error) {
	rt := s.current().ofHost(addr, h.ServerName)
	if rt == nil || rt.tls == nil {
		return nil, fmt.Errorf("no service answers to %q here", h.ServerName)
	}
	if slices.Contains(h.SupportedProtos, alpnChallenge) {
		c := rt.tls.Clone()
		c.ClientAuth, c.NextProtos = tls.NoClientCert, []string{alpnChallenge}
		return c, nil
	}
	return rt.offers(h), nil
}

// secure prepares the handshakes of a table that must come into force whatever is wrong with its files. Who asks for a route
// whose files are wrong gets no handshake.
func (s *Server) secure(c *routes) {
	for _, rt := range c.byKey {
		if err := rt.secure(s.certs); err != nil {
			s.log.Error("no TLS", "route", rt.key, "error", err)
		}
	}
}

// aside is that of the proxy, and the challenges of certificate authorities.
func (s *Server) aside(listen string, rt *route, w http.ResponseWriter, r *http.Request) bool {
	return r.TLS == nil && s.certs.Challenge(w, r) || s.proxy.aside(listen, rt, w, r)
}
