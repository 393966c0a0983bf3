//go:build unix

package edge

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	// settleFor is how old a connection must be before its client is told to go: the requests that it was opened for are on their way.
	settleFor = time.Second
	// quietFor is how long a connection is kept whose client was told to go and asks for nothing any more. The end of its last answer may
	// still be on its way, and lost, and sent again.
	quietFor = 5 * time.Second
)

// quicConn is a client's connection of HTTP/3.
type quicConn struct {
	l    *quicListener
	conn *quic.Conn
	srv  *http3.Server // of this connection alone: so it is told by itself to go
	open atomic.Int64  // requests under way
	last atomic.Int64  // when the last one ended, or the connection began, in Unix nanoseconds
	idle *time.Timer
	born time.Time

	asked atomic.Bool // there was a request
	told  atomic.Bool // to go elsewhere
}

func newQUICConn(l *quicListener, conn *quic.Conn) *quicConn {
	c := &quicConn{l: l, conn: conn, born: time.Now()}
	c.last.Store(c.born.UnixNano())
	c.srv = &http3.Server{Handler: c, MaxHeaderBytes: maxHeader, Logger: l.h.s.log}
	c.idle = time.AfterFunc(idleTimeout, c.checkIdle)
	return c
}

// checkIdle ends a connection on which nothing was asked for long enough. The library does so, too, but not where a request has begun,
// and a client may take for ever to send the rest of its headers.
func (c *quicConn) checkIdle() {
	left := idleTimeout - time.Since(time.Unix(0, c.last.Load()))
	switch {
	case c.open.Load() > 0:
		c.idle.Reset(idleTimeout)
	case left > 0:
		c.idle.Reset(left)
	default:
		c.close()
	}
}

// serve answers requests until the connection ends.
func (c *quicConn) serve() {
	defer c.idle.Stop()
	if err := c.srv.ServeQUICConn(c.conn); err != nil {
		c.l.h.s.log.Debug("a connection of HTTP/3 ended", "error", err)
	}
}

// ServeHTTP implements [http.Handler].
func (c *quicConn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		c.last.Store(time.Now().UnixNano())
		c.open.Add(-1)
	}()
	c.asked.Store(true)
	if c.open.Add(1) > 2*maxStreams {
		// Only who breaks its requests off faster than they end gets there: a stream that was broken off makes room for the next.
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "")
		panic(http.ErrAbortHandler)
	}
	cw := &quicWriter{ResponseWriter: w, head: r.Method == http.MethodHead}
	c.l.h.s.serve(c.l.addr, cw, settled(r))
	if !cw.wrote {
		cw.WriteHeader(http.StatusOK)
	}
}

// leave tells the client to send its next requests elsewhere, and ends the connection when it asks for nothing any more.
func (c *quicConn) leave() {
	if c.told.Swap(true) || !c.wait(time.Until(c.born.Add(settleFor))) {
		return
	}
	c.l.group.Go(func() { c.srv.Shutdown(c.conn.Context()) })
	for begin := time.Now(); ; {
		quiet := time.Since(begin)
		if last := time.Unix(0, c.last.Load()); last.After(begin) {
			quiet = time.Since(last)
		}
		if c.open.Load() > 0 {
			quiet = 0
		}
		if quiet >= quietFor {
			c.close()
			return
		}
		if !c.wait(min(quietFor-quiet, quietFor/4)) {
			return
		}
	}
}

// wait reports false where the connection ended first.
func (c *quicConn) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.conn.Context().Done():
		return false
	}
}

func (c *quicConn) close() {
	c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// ofConnection are headers that other versions of HTTP have for the connection (RFC 9114, section 4.2).
var ofConnection = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"}

// quicWriter writes answers as HTTP/3 has them.
type quicWriter struct {
	http.ResponseWriter
	head  bool // of a request with this method
	wrote bool
}

// WriteHeader implements [http.ResponseWriter].
func (w *quicWriter) WriteHeader(code int) {
	for _, name := range ofConnection {
		w.Header().Del(name)
	}
	w.ResponseWriter.WriteHeader(code)
	if code < 200 || w.wrote {
		return
	}
	w.wrote = true
	if w.head && w.Header().Get("Content-Length") == "" {
		http.NewResponseController(w.ResponseWriter).Flush() // or the library says that the length is 0
	}
}

// Write implements [http.ResponseWriter].
func (w *quicWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// FlushError is for [http.ResponseController].
func (w *quicWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for [http.ResponseController].
func (w *quicWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
