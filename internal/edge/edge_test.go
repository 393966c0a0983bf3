//go:build unix

package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// anyPort is the Listen of most tests' routes: the kernel chooses the port, so that tests never fight for one.
const anyPort = "127.0.0.1:0"

// patience is how long a test waits for what must come; it is never waited out when all is well.
const patience = 10 * time.Second

// rig is an edge with a folder of its own.
type rig struct {
	t    testing.TB
	dirs home.Dirs
	s    *Server
	lock *os.File
}

// newDirs makes a machine's folders with paths short enough for sockets.
func newDirs(t testing.TB) home.Dirs {
	t.Helper()
	dir, err := os.MkdirTemp("", "ed")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	return d
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startEdge starts an edge in d and ends it with the test.
func startEdge(t testing.TB, d home.Dirs) *rig {
	t.Helper()
	lock, err := keeper.Hold(d, home.Edge)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Start(ctx, Options{Dirs: d, Version: "test", Log: quiet(), Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		s.Shut(0)
		lock.Close()
	})
	return &rig{t: t, dirs: d, s: s, lock: lock}
}

// newRig starts an edge with one route to handlers, one instance of release 1 each.
func newRig(t *testing.T, handlers ...http.HandlerFunc) *rig {
	t.Helper()
	g := startEdge(t, newDirs(t))
	var addrs []string
	for _, h := range handlers {
		addrs = append(addrs, serveOn(t, h))
	}
	g.set(oneRoute(addrs...))
	return g
}

// serveOn starts a real server and returns its address.
func serveOn(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.Start()
	t.Cleanup(srv.CloseClientConnections)
	return srv.Listener.Addr().String()
}

// oneRoute is a table in which shop@prod takes all hosts and release 1 has an instance at each address.
func oneRoute(addrs ...string) Table {
	return Table{Routes: []Route{{Service: "shop", Environment: "prod", Listen: anyPort,
		Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(addrs...)}}}}}
}

func ends(addrs ...string) []Endpoint {
	var out []Endpoint
	for i, a := range addrs {
		out = append(out, Endpoint{Instance: i + 1, Addr: a})
	}
	return out
}

func (g *rig) set(t Table) uint64 {
	g.t.Helper()
	gen, err := g.s.Set(t)
	if err != nil {
		g.t.Fatal(err)
	}
	return gen
}

// addrOf is where the edge really listens for the route that says listen.
func (g *rig) addrOf(listen string) string {
	g.t.Helper()
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	l := g.s.listeners[listen]
	if l == nil {
		g.t.Fatalf("nothing listens for %s", listen)
	}
	return l.Addr().String()
}

func (g *rig) addr() string { return g.addrOf(anyPort) }

func (g *rig) url() string { return "http://" + g.addr() }

// counts returns what was counted for the route (release and instance 0) or an instance.
func (g *rig) counts(release, instance int) Counts {
	for _, r := range g.s.stats.Read() {
		if r.Service == "shop" && r.Release == release && r.Instance == instance {
			return r.Counts
		}
	}
	return Counts{}
}

// settled waits until the route has counted n requests and returns its counters: an answer reaches its client a moment
// before it is counted.
func (g *rig) settled(n uint64) Counts {
	g.t.Helper()
	var c Counts
	eventually(g.t, func() bool { c = g.counts(0, 0); return c.Requests >= n && c.Open == 0 })
	if c.Requests != n {
		g.t.Errorf("%d requests counted, want %d", c.Requests, n)
	}
	return c
}

// eventually waits until ok.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it never came to that")
		}
	}
}

// receive takes the next value of ch.
func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// client returns an HTTP/1.1 client with connections of its own.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// h2c returns a client that speaks HTTP/2 without TLS from the first byte.
func h2c(t *testing.T) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// clients makes clients of one kind.
type clients func(*testing.T) *http.Client

// onBothPaths runs a test with clients whose requests the edge reads itself, and with such as it leaves to net/http.
func onBothPaths(t *testing.T, test func(*testing.T, clients)) {
	t.Run("own", func(t *testing.T) { test(t, client) })
	t.Run("general", func(t *testing.T) { test(t, general) })
}

// general returns a client of HTTP/1.1 whose requests are for net/http, as they speak of another protocol, and yet name none.
func general(t *testing.T) *http.Client {
	c := client(t)
	c.Transport = unusual{c.Transport}
	return c
}

type unusual struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (u unusual) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Connection", "upgrade")
	return u.RoundTripper.RoundTrip(r)
}

// do sends a request and reads the whole answer.
func do(t *testing.T, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	return do(t, c, request(t, http.MethodGet, url, nil))
}

// raw is a connection whose bytes the test chooses.
type raw struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dialRaw(t testing.TB, addr string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &raw{t, c, bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// response reads the head of an answer to method.
func (c *raw) response(method string) *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

// recorder is an instance that keeps the bytes of each connection as they come and answers each head with 200.
type recorder struct {
	addr  string
	heads chan string
	conns atomic.Int64
}

// newRecorder reads one request head (and nothing of the body) a connection, then answers and closes.
func newRecorder(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	rec := &recorder{addr: l.Addr().String(), heads: make(chan string, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			rec.conns.Add(1)
			go rec.serve(c)
		}
	}()
	return rec
}

func (rec *recorder) serve(c net.Conn) {
	defer c.Close()
	var head strings.Builder
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return
		}
		if line == "\r\n" {
			break
		}
	}
	rec.heads <- head.String()
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}
