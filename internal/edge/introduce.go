package edge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// introducedConn is a connection that begins with the word of a proxy in front about who the client is, by the PROXY protocol
// (haproxy.org, "The PROXY protocol, versions 1 & 2", 2020/03/05).
type introducedConn struct {
	net.Conn
	r      *bufio.Reader // nil once everything that came with the word was read
	client net.Addr      // nil: the proxy speaks for itself
}

// introduceTime is how long the word may take: a proxy sends it at once.
const introduceTime = 5 * time.Second

// introduce reads the word. It is called once, before anything else is read.
func (c *introducedConn) introduce() error {
	if err := c.SetReadDeadline(time.Now().Add(introduceTime)); err != nil {
		return err
	}
	c.r = bufio.NewReaderSize(c.Conn, maxIntroduction)
	a, err := readIntroduction(c.r)
	if err != nil {
		return err
	}
	if a.IsValid() {
		c.client = net.TCPAddrFromAddrPort(a)
	}
	return c.SetReadDeadline(time.Time{})
}

// Read implements [net.Conn].
func (c *introducedConn) Read(p []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(p)
	}
	if c.r.Buffered() > 0 {
		return c.r.Read(p)
	}
	c.r = nil
	return c.Conn.Read(p)
}

// RemoteAddr implements [net.Conn].
func (c *introducedConn) RemoteAddr() net.Addr {
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite lets net/http end its side and wait for the client's.
func (c *introducedConn) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite ends this side of a connection that has two.
func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// maxIntroduction bounds a word of version 2 with all that may be told besides.
const maxIntroduction = 4 << 10

var signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

var errIntroduction = errors.New("it does not begin as the PROXY protocol wants it")

// readIntroduction takes the word off r and returns the client's address; an invalid one where the proxy speaks for itself, as
// its probes do, or knows none. Nothing behind the word is read off.
func readIntroduction(r *bufio.Reader) (client netip.AddrPort, err error) {
	first, err := r.Peek(1)
	if err != nil {
		return client, err
	}
	if first[0] == signature[0] {
		return secondVersion(r)
	}
	// Version 1 is one line of at most 107 bytes.
	for n := 1; n <= 107; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return client, err
		}
		if !bytes.HasPrefix([]byte("PROXY "), b[:min(n, 6)]) {
			return client, errIntroduction
		}
		if b[n-1] == '\n' {
			line := string(b)
			r.Discard(n)
			return firstVersion(line)
		}
	}
	return client, errIntroduction
}

func firstVersion(line string) (client netip.AddrPort, err error) {
	line, whole := strings.CutSuffix(line, "\r\n")
	w := strings.Split(line, " ")
	if !whole || len(w) < 2 {
		return client, errIntroduction
	}
	if w[1] == "UNKNOWN" {
		return client, nil
	}
	if len(w) != 6 || w[1] != "TCP4" && w[1] != "TCP6" {
		return client, errIntroduction
	}
	for i, at := range [][2]string{{w[2], w[4]}, {w[3], w[5]}} {
		ip, err := netip.ParseAddr(at[0])
		if err != nil || ip.Is4() != (w[1] == "TCP4") || ip.Zone() != "" {
			return netip.AddrPort{}, errIntroduction
		}
		a, err := netip.ParseAddrPort(net.JoinHostPort(at[0], at[1]))
		if err != nil {
			return netip.AddrPort{}, errIntroduction
		}
		if i == 0 {
			client = netip.AddrPortFrom(ip.Unmap(), a.Port())
		}
	}
	return client, nil
}

// The second version's head: the signature, version and command, family and protocol, and the length of the rest.
const headOfSecond = 16

func secondVersion(r *bufio.Reader) (client netip.AddrPort, err error) {
	head, err := r.Peek(headOfSecond)
	if !bytes.HasPrefix(signature, head[:min(len(head), len(signature))]) {
		return client, errIntroduction
	}
	if err != nil {
		return client, err
	}
	command, family, n := head[12], head[13], int(binary.BigEndian.Uint16(head[14:]))
	if command>>4 != 2 || command&0xf > 1 {
		return client, fmt.Errorf("%w: version and command %#x", errIntroduction, command)
	}
	if headOfSecond+n > maxIntroduction {
		return client, fmt.Errorf("%w: %d bytes", errIntroduction, n)
	}
	all, err := r.Peek(headOfSecond + n)
	if err != nil {
		return client, err
	}
	rest := all[headOfSecond:]
	switch proxied := command&0xf == 1; {
	case !proxied: // LOCAL
	case family>>4 == 1 && n >= 12:
		client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest)), binary.BigEndian.Uint16(rest[8:]))
	case family>>4 == 2 && n >= 36:
		client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest)).Unmap(), binary.BigEndian.Uint16(rest[32:]))
	case family>>4 == 1 || family>>4 == 2:
		return client, fmt.Errorf("%w: %d bytes of addresses", errIntroduction, n)
	}
	r.Discard(headOfSecond + n)
	return client, nil
}
