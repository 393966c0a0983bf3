//go:build unix

package edge

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

// helloConn is a connection below TLS whose beginning may be looked at before anybody takes the handshake up.
type helloConn struct {
	net.Conn
	pending []byte // what was looked at and not read yet
}

// Read implements [net.Conn].
func (c *helloConn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.pending)
	if c.pending = c.pending[n:]; len(c.pending) == 0 {
		c.pending = nil
	}
	return n, nil
}

// hear looks at the client's first message. What of it has come stays to be read.
func (c *helloConn) hear() (hello, error) {
	if err := c.SetReadDeadline(time.Now().Add(readHeaderTimeout)); err != nil {
		return hello{}, err
	}
	c.pending = make([]byte, 0, 2<<10)
	for {
		h, need, err := parseHello(c.pending)
		if err == nil && need == 0 {
			return h, c.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return h, err
		}
		c.pending = slices.Grow(c.pending, need-len(c.pending))
		n, err := c.Conn.Read(c.pending[len(c.pending):cap(c.pending)])
		c.pending = c.pending[:len(c.pending)+n]
		if err != nil && n == 0 {
			return h, err
		}
	}
}

// unheard ends a connection whose handshake nobody takes up, and says why where the client will understand it. It waits a moment for
// the client to have read that: to close a connection in which something is left unread is to take back what was said.
func (c *helloConn) unheard(err error) {
	defer c.Close()
	why := byte(alertUnrecognized)
	switch {
	case errors.Is(err, errHello):
		why = alertDecode
	case err != nil:
		return
	}
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Conn.Write(alert(why)); err != nil {
		return
	}
	if wire, _ := bare(c); wire != nil {
		wire.CloseWrite()
		io.CopyN(io.Discard, wire, maxHello)
	}
}

// bare returns the connection below all that looks at its beginning, and what was read off it for that.
func bare(nc net.Conn) (wire *net.TCPConn, before []byte) {
	switch c := nc.(type) {
	case *net.TCPConn:
		return c, nil
	case *socket:
		return c.TCPConn, nil
	case *helloConn:
		wire, before = bare(c.Conn)
		return wire, append(slices.Clip(c.pending), before...)
	case *introducedConn:
		if c.r != nil {
			before, _ = c.r.Peek(c.r.Buffered())
		}
		wire, _ = bare(c.Conn)
		return wire, before
	case *tls.Conn: // what was read of that is in it, and nobody's
		wire, _ = bare(c.NetConn())
		return wire, nil
	}
	return nil, nil
}

// offers is the configuration for a client of the route. A protocol that is passed on the edge does not know, and so it cannot choose
// one for the client; but some clients insist that theirs is confirmed, and one that offers no other shall have it.
func (rt *route) offers(h *tls.ClientHelloInfo) *tls.Config {
	if rt.Stream == nil || len(h.SupportedProtos) != 1 {
		return rt.tls
	}
	c := rt.tls.Clone()
	c.NextProtos = h.SupportedProtos
	return c
}
