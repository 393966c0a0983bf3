//go:build unix

package edge_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// memory is what the process holds after a collection: the edge's and this client's heap, and all stacks.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// bounded reports when the process holds more than so many bytes above what it held before.
func bounded(t *testing.T, before, most int64) {
	t.Helper()
	grown := memory() - before
	t.Logf("%d KB more than before, of %d KB", grown>>10, most>>10)
	if grown > most {
		t.Errorf("%d bytes more than before, at most %d", grown, most)
	}
}

// released waits until nearly all of it is given back.
func released(t *testing.T, before int64) {
	t.Helper()
	rig.Eventually(t, moment, "memory as before the attack", func() bool { return memory()-before < 4<<20 })
}

// quickly is how long an innocent client may wait while the edge is under attack.
const quickly = 3 * time.Second

// served checks that an innocent client is.
func served(t *testing.T, f front, name string) {
	t.Helper()
	begin := time.Now()
	if err := f.innocent(t, "GET /"+name); err != nil {
		t.Errorf("while it is attacked: %v", err)
	}
	if took := time.Since(begin); took > quickly {
		t.Errorf("while it is attacked an innocent client waited %s", took)
	}
}

// Many connections on which a request comes byte by byte, or not at all, or half closed: each costs little, and nobody waits.
func TestAttackSlowClients(t *testing.T) {
	f := ours(t)
	served(t, f, "before")
	before := memory()
	const n = 300
	for _, c := range []struct{ name, first, rest string }{
		{"a head by bytes", "", "GET /slow HTTP/1.1\r\nHo"},
		{"nothing at all", "", ""},
		{"a body by bytes", "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", "xxxxxxxxxx"},
		{"chunks by bytes", "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n1\r\nx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conns []net.Conn
			for range n {
				conn := dial(t, f.addr)
				io.WriteString(conn, c.first)
				conns = append(conns, conn)
			}
			for i := range c.rest {
				for _, conn := range conns {
					io.WriteString(conn, c.rest[i:i+1])
				}
			}
			served(t, f, "meanwhile")
			// The buffers and stacks of both ends of both connections; 90 KB were measured for a body.
			bounded(t, before, n*160<<10)
			for _, conn := range conns {
				conn.(*net.TCPConn).CloseWrite() // half open from here on
			}
			served(t, f, "halfopen")
			for _, conn := range conns {
				conn.Close()
			}
			released(t, before)
		})
	}
	for _, a := range f.rec.since(0) {
		if a.whole && strings.Contains(a.line, "/slow") {
			t.Fatalf("a request that never ended arrived whole: %q", a.what())
		}
	}
}

// two is a client of HTTP/2 that sends which frames it likes.
type two struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newTwo(t *testing.T, conn net.Conn, settings ...http2.Setting) *two {
	t.Helper()
	c := &two{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	c.enc = hpack.NewEncoder(&c.block)
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, http2.ClientPreface)
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

// head encodes a request.
func (c *two) head(path string) []byte {
	c.block.Reset()
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: path}} {
		c.enc.WriteField(f)
	}
	return slices.Clone(c.block.Bytes())
}

// drain reads what the edge sends, so that it cannot be the client who stops it, until the connection's end.
func (c *two) drain() (done chan error) {
	done = make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c.Conn)
		done <- err
	}()
	return done
}

// busy is an instance that counts how many requests it has at once, each until its client is gone.
func busy(t *testing.T) (addr string, most, all *atomic.Int64) {
	most, all = new(atomic.Int64), new(atomic.Int64)
	var now atomic.Int64
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stays" {
			w.Header().Set("X-Got", r.Method+" "+r.URL.Path)
			return
		}
		all.Add(1)
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer now.Add(-1)
		<-r.Context().Done()
	}), most, all
}

// Thousands of requests each taken back at once (CVE-2023-44487), over TLS: the instance sees a bounded number at a time.
func TestAttackRapidReset(t *testing.T) {
	instance, most, all := busy(t)
	r := shop(fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0]), instance)
	r.Hosts, r.TLS = []string{"a"}, &edge.TLS{Source: certs.Source{Kind: certs.Local}}
	plain := shop(fmt.Sprintf("127.0.0.1:%d", rig.FreePorts(t, 1)[0]), instance)
	plain.Service = "plain"
	startEdge(t, edge.Table{Routes: []edge.Route{r, plain}})
	f := front{plain.Listen, newRecorder(t)}
	served(t, f, "before")
	before := memory()
	// The certificate is the machine's own: this client is no friend, and asks for none.
	conn, err := tls.Dial("tcp", r.Listen, &tls.Config{ServerName: "a", NextProtos: []string{"h2"}, InsecureSkipVerify: true})
	if err != nil || conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := newTwo(t, conn)
	done := c.drain()
	sent := 0
	for ; sent < 5000; sent++ {
		id := uint32(2*sent + 1)
		if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.head("/stays"), EndHeaders: true, EndStream: true}) != nil ||
			c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	served(t, f, "meanwhile")
	bounded(t, before, 64<<20)
	conn.Close()
	<-done
	t.Logf("%d sent, %d reached the instance, at most %d at once", sent, all.Load(), most.Load())
	if most.Load() > 500 {
		t.Errorf("the instance had %d requests at once", most.Load())
	}
	released(t, before)
}

// Floods of frames that cost the sender nothing.
func TestAttackFrameFloods(t *testing.T) {
	f := ours(t)
	served(t, f, "before")
	for _, c := range []struct {
		name string
		ends bool // the edge must end the connection; of the others it may take any number, for they cost it nothing
		send func(c *two, i int) error
	}{
		{"headers that never end", true, func(c *two, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("/c"), EndStream: true})
			}
			c.block.Reset()
			c.enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("y", 1000), Sensitive: true})
			return c.WriteContinuation(1, false, c.block.Bytes())
		}},
		{"empty continuations", false, func(c *two, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("/c"), EndStream: true})
			}
			return c.WriteContinuation(1, false, nil)
		}},
		{"pings nobody reads the answers of", false, func(c *two, i int) error { return c.WritePing(false, [8]byte{byte(i)}) }},
		{"settings nobody reads the answers of", false, func(c *two, _ int) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
		}},
		{"empty data", false, func(c *two, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.head("/c"), EndHeaders: true})
			}
			return c.WriteData(1, false, nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := memory()
			conn := newTwo(t, dial(t, f.addr))
			var err error
			i := 0
			for end := time.Now().Add(4 * time.Second); err == nil && i < 200_000 && time.Now().Before(end); i++ {
				// A write that waits means that the edge has stopped to read: that is an end of the flood as well.
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				err = c.send(conn, i)
			}
			t.Logf("after %d frames: %v", i, err)
			if c.ends && err == nil {
				t.Error("it takes them for ever")
			}
			served(t, f, "meanwhile")
			bounded(t, before, 32<<20)
			conn.Close()
			released(t, before)
		})
	}
}

// Clients that ask for much and let nothing be sent: what waits for them is not kept in memory.
func TestAttackStalledWindow(t *testing.T) {
	const size = 8 << 20
	piece := make([]byte, 32<<10)
	instance := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", r.Method+" "+r.URL.Path)
		for n := 0; r.URL.Path == "/much" && n < size; n += len(piece) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	f := front{before(t, instance), newRecorder(t)}
	served(t, f, "before")
	before := memory()
	const streams = 100
	c := newTwo(t, dial(t, f.addr), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for i := range streams {
		if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: c.head("/much"), EndHeaders: true, EndStream: true}); err != nil {
			t.Fatal(err)
		}
	}
	heads := 0
	for heads < streams {
		fr, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch fr.(type) {
		case *http2.HeadersFrame:
			heads++
		case *http2.DataFrame:
			if fr.Header().Length > 0 {
				t.Fatal("data although the window is 0")
			}
		}
	}
	served(t, f, "meanwhile")
	bounded(t, before, streams*size/16) // 512 KB a stream for both servers' buffers
	c.Close()
	released(t, before)
}

// A stream that nobody can hold: 80 KB of header by HTTP/2 as by HTTP/1.
func TestAttackLargeHeadersOfHTTP2(t *testing.T) {
	f := ours(t)
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.addr+"/c", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X", strings.Repeat("y", 80_000))
	res, err := (&http.Client{Transport: tr, Timeout: moment}).Do(r)
	if err == nil {
		res.Body.Close()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && res.StatusCode != http.StatusRequestHeaderFieldsTooLarge || f.rec.len() != 0 {
		t.Errorf("%v %v, %d arrived", res, err, f.rec.len())
	}
}
