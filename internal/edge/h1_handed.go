//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// handed is a listener of connections that net/http goes on with.
type handed struct {
	net.Listener
	conns chan net.Conn
	ended chan struct{}
}

func (h *handed) give(c *handedConn) {
	select {
	case h.conns <- c:
	case <-h.ended:
		c.Close()
	}
}

// Accept implements [net.Listener].
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ended:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handed) Close() error { return nil }

// handedConn is a connection that net/http goes on with. net/http takes a request that says in two ways where it ends by one of them,
// and forgets the other before a handler could see it. So the connection looks at what net/http reads, and lets it read no more than one
// line of a head, or of chunks, at a time: what is known of the last head is then of the request that is served.
type handedConn struct {
	net.Conn
	s      *Server
	tls    *tls.ConnectionState
	from   io.Reader     // what was read already comes first
	r      *bufio.Reader // reads from it, as long as somebody looks
	closed atomic.Bool
	free   atomic.Bool // nobody looks any more: it is another protocol, or this is the last request

	next part
	left int64 // bytes that may be read until something else comes
	long bool  // and they do not end the line
	head followed

	unclear bool // the request is to be refused; see [followed]
	last    bool // where the request ends is not sure enough to look for another one
}

// part is what may come on a connection.
type part int

const (
	firstLine part = iota
	fieldLine
	chunkLine
	trailerLine
)

// followed is what the lines of a head say of the body. It reads them as leniently as net/http.
type followed struct {
	old, sized, chunked bool
	length              int64
	odd                 bool // it is not sure that net/http reads them so
}

func (f *followed) field(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	switch {
	case line[0] == ' ' || line[0] == '\t':
		f.odd = true // it belongs to the line before
	case bytes.EqualFold(name, []byte("content-length")):
		n, ok := length(trim(string(value)))
		f.odd = f.odd || !ok || f.sized && n != f.length
		f.sized, f.length = true, n
	case bytes.EqualFold(name, []byte("transfer-encoding")):
		f.chunked = true
	}
}

// unclear reports whether there are two ways to read where the request ends: by a length and by chunks, or by chunks in HTTP/1.0,
// which knows none. Whoever stands before the edge may have read it the other way (RFC 9112, section 6.1).
func (f *followed) unclear() bool { return f.chunked && (f.sized || f.old) }

// handedOn is the connection for net/http, which begins with what was read of it already.
func (c *clientConn) handedOn(rest []byte) *handedConn {
	from := io.MultiReader(bytes.NewReader(rest), c.Conn)
	return &handedConn{Conn: c.Conn, s: c.s, tls: c.tls, from: from, r: bufio.NewReaderSize(from, clientBuffer)}
}

// Read implements [net.Conn].
func (c *handedConn) Read(p []byte) (int, error) {
	if c.free.Load() {
		if c.r != nil && c.r.Buffered() > 0 {
			return c.r.Read(p)
		}
		c.r = nil // an idle connection of HTTP/2 need not keep it
		return c.from.Read(p)
	}
	if c.left == 0 {
		if err := c.look(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// look makes out what comes next and how much that is.
func (c *handedConn) look() error {
	line, err := c.line()
	if err != nil {
		return err
	}
	within := c.long
	c.left, c.long = int64(len(line)), line[len(line)-1] != '\n'
	text := bytes.TrimRight(line, "\r\n")
	switch {
	case c.next == chunkLine:
		c.chunk(text)
	case within: // the rest of a line that tells nothing more
	case c.next == firstLine:
		c.head, c.next = followed{old: bytes.HasSuffix(text, []byte(" HTTP/1.0"))}, fieldLine
		c.free.Store(bytes.Equal(line, []byte("PRI * HTTP/2.0\r\n")))
	case len(text) > 0 && c.next == fieldLine:
		c.head.field(text)
	case len(text) > 0: // a trailer
	case c.next == trailerLine:
		c.next = firstLine
	default:
		c.body()
	}
	return nil
}

// body sees what follows a head.
func (c *handedConn) body() {
	h := &c.head
	c.unclear, c.last = h.unclear(), h.odd
	switch {
	case c.unclear || c.last:
		c.free.Store(true)
	case h.chunked:
		c.next = chunkLine
	default:
		c.next, c.left = firstLine, c.left+h.length
	}
}

// chunk sees a chunk's first line. What is no size here is none for net/http, or so large that no other request comes: then this
// request is the last one.
func (c *handedConn) chunk(line []byte) {
	size, _, _ := bytes.Cut(line, []byte(";"))
	digits := bytes.TrimRight(size, " \t")
	n, ok := chunkSize(string(digits[max(len(digits)-maxDigits, 0):]))
	switch {
	case !ok || len(bytes.TrimLeft(digits, "0")) > maxDigits:
		c.free.Store(true)
	case n == 0:
		c.next = trailerLine
	default:
		c.left += n + int64(len(crlf))
	}
}

// line returns the next line, or what there is of it when it is too long or its end does not come.
func (c *handedConn) line() ([]byte, error) {
	for n := 1; ; n++ {
		_, err := c.r.Peek(n)
		n = c.r.Buffered()
		b, _ := c.r.Peek(n)
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			return b[:i+1], nil
		}
		switch {
		case n == c.r.Size() || n > 0 && errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// refuses answers a request that has two ways to end.
func (c *handedConn) refuses(w http.ResponseWriter, r *http.Request) bool {
	if r.ProtoMajor != 1 {
		return false
	}
	if c.unclear || c.last {
		w.Header().Set("Connection", "close")
	}
	if c.unclear {
		http.Error(w, "a request with both Content-Length and Transfer-Encoding, or of HTTP/1.0 with the latter, is not taken", http.StatusBadRequest)
	}
	return c.unclear
}

// hijacked is told of what becomes of net/http's connections: nobody looks at what is not HTTP any more.
func hijacked(nc net.Conn, now http.ConnState) {
	if c, ok := nc.(*handedConn); ok && now == http.StateHijacked {
		c.free.Store(true)
	}
}

// Close implements [net.Conn].
func (c *handedConn) Close() error {
	if !c.closed.Swap(true) {
		c.s.conns.Add(-1)
	}
	return c.Conn.Close()
}

// CloseWrite lets net/http end its side and wait for the client's.
func (c *handedConn) CloseWrite() error { return closeWrite(c.Conn) }
