//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"
)

// What the edge reads itself net/http reads in the same way: a request that only one of two readers takes for one is how
// requests are smuggled.
func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /a?b=%2f HTTP/1.1\r\nHost: a:80\r\nContent-Length: 2\r\nX-A:\t1 \r\n\r\nxy",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-b\r\nX-B: c\r\n\r\n", "GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0c\r\nhello, world\r\n0\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nab\r\n0\r\nX: y\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\tb HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &clientConn{Conn: noConn{}, r: bufio.NewReaderSize(bytes.NewReader(b), clientBuffer)}
		if c.readHead(true) != nil || !c.usual() {
			return // net/http judges
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", b, err)
		}
		h := &c.head
		if r.Method != h.first || r.RequestURI != h.second || r.Host != c.host || r.ContentLength != max(c.frame.length, 0) && !c.frame.chunked || (len(r.TransferEncoding) != 0) != c.frame.chunked {
			t.Fatalf("%q is read as %+v, by net/http as %+v", b, h, r)
		}
		body, err := io.ReadAll(r.Body)
		holds := c.body
		if c.frame.chunked {
			passed := bufio.NewReader(bytes.NewReader(c.writeBody(nil)[len("Transfer-Encoding: chunked\r\n\r\n"):]))
			if holds, _ = io.ReadAll(httputil.NewChunkedReader(passed)); int64(len(holds)) != c.holds || len(r.Trailer) > 0 {
				t.Fatalf("%q: the body holds %q, and not %d bytes", b, holds, c.holds)
			}
		}
		if err != nil || !bytes.Equal(body, holds) {
			t.Fatalf("%q: the body is %q, for net/http %q %v", b, holds, body, err)
		}
		for _, x := range h.fields {
			if !same(x.name, "host") && !same(x.name, "transfer-encoding") && !strings.Contains(strings.Join(r.Header.Values(x.name), "\x00")+"\x00", x.value+"\x00") {
				t.Fatalf("%q: %q is %q, for net/http %q", b, x.name, x.value, r.Header.Values(x.name))
			}
		}
		if c.path != r.URL.Path {
			t.Fatalf("%q: the path is %q, for net/http %q", b, c.path, r.URL.Path)
		}
	})
}

// noConn is a connection whose deadlines come to nothing.
type noConn struct{ net.Conn }

func (noConn) SetReadDeadline(time.Time) error { return nil }

// What an instance's chunks hold arrives, and what is no chunked body does not end well.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3;x=\"y\"\r\nabc\r\n0\r\nX-T: v\r\n\r\n", "ffffffffffffffff\r\n", "-1\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\n0\n\n", "0\r\nContent-Length: 5\r\n\r\n", "0 0\r\n\r\n", "3 ; a\r\nabc\r\n0\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		a := &reply{c: &clientConn{w: bufio.NewWriter(&out)}, up: &upstream{socket: &socket{TCPConn: &net.TCPConn{}}, r: bufio.NewReaderSize(bytes.NewReader(b), upstreamBuffer)}}
		err := a.chunks()
		a.c.w.Flush()
		want, wrong := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(bytes.NewReader(b))))
		if err != nil {
			return // stricter than Go's reader
		}
		if wrong != nil {
			t.Fatalf("%q is taken, and Go's reader says %v", b, wrong)
		}
		got, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(&out)))
		if err != nil || !bytes.Equal(got, want) || a.sent != int64(len(want)) {
			t.Fatalf("%q: %q was passed on, %q was said: %v", b, got, want, err)
		}
	})
}

// Where the edge believes that a request ends which net/http reads, there it ends for net/http: otherwise what the edge judges next
// would not be what net/http reads.
func FuzzHanded(f *testing.F) {
	const post = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, s := range []string{
		post + "Content-Length: 2\r\n\r\nab" + post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", post + "Transfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nab\r\n0\r\nX: y\r\n\r\n" + post + "\r\n",
		"GET / HTTP/1.0\nHost: a\n\n" + post + "X: a\r\n b\r\n\r\n", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", post + "Content-Length:\r\n 2\r\n\r\nab",
		post + "Transfer-Encoding: chunked\r\n\r\n00000000000000002 \r\nab\r\n000\r\n\n" + post + "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n" + post + "\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		from := bytes.NewReader(b)
		c := &handedConn{from: from, r: bufio.NewReaderSize(from, clientBuffer)}
		for r := bufio.NewReader(c); !c.free.Load(); {
			req, err := http.ReadRequest(r)
			if err != nil || req.ProtoMajor != 1 { // which its server takes for an error, too
				return
			}
			both := len(req.TransferEncoding) > 0 && c.head.sized
			if c.unclear != (both || c.head.chunked && !req.ProtoAtLeast(1, 1)) {
				t.Fatalf("%q: unclear %v", b, c.unclear)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if !c.free.Load() && (c.next != firstLine || c.left > 0 || r.Buffered() > 0) {
				t.Fatalf("%q: net/http has read a request, and the edge waits for %d more bytes or part %d", b, c.left, c.next)
			}
		}
	})
}
