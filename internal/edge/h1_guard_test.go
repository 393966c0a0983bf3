//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// everything is all protections at once, with values that no test meets.
func everything() Guard {
	return Guard{Request: time.Minute, Try: 30 * time.Second, Eject: Eject{Failures: 5, For: time.Second}, Concurrency: Concurrency{Limit: 1000, Queue: 10, Wait: time.Second},
		Rates: []Rate{{Requests: 1_000_000, Per: time.Second, Burst: 1_000_000, By: "client"}, {Requests: 1_000_000, Per: time.Second, Burst: 1_000_000, By: "header:X-Key"}},
		Body:  1 << 20, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
}

// scripted is an instance that says the same bytes on each connection when a request's head has come, and then nothing.
func scripted(t testing.TB, answer string) string {
	t.Helper()
	return tcpService(t, func(c *net.TCPConn) {
		r, said := bufio.NewReader(c), []byte(answer)
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				c.Write(said)
			}
		}
	})
}

// What protects a route does not keep its requests from the fast path, which alone hands names on as they were written.
func TestGuardedRequestsAreReadByTheEdgeItself(t *testing.T) {
	g := startEdge(t, newDirs(t))
	const answer = "HTTP/1.1 200 OK\r\nx-mY-nAmE: 1\r\nContent-Length: 2\r\n\r\nok"
	g.set(guardedRoute(everything(), scripted(t, answer)))
	c := dialRaw(t, g.addr())
	for range 3 {
		for _, body := range []string{"Content-Length: 2\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"} {
			c.send("POST / HTTP/1.1\r\nHost: a\r\n" + body)
			b := make([]byte, len(answer))
			if _, err := io.ReadFull(c.r, b); err != nil || string(b) != answer {
				t.Fatalf("%q %v", b, err)
			}
		}
	}
}

// What a client is told, what is logged and what is counted does not depend on who read the request.
func TestBothPathsTellTheSame(t *testing.T) {
	late := Guard{Request: 70 * time.Millisecond}
	hung := scripted(t, "")
	seen := Rate{Requests: 1, Per: 30 * time.Second, Burst: 1, By: "header:Host"} // which is no header for net/http
	for name, c := range map[string]struct {
		table Table
		want  int
	}{
		"address":         {guardedRoute(Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, hung), 403},
		"body":            {guardedRoute(Guard{Body: 3}, hung), 413},
		"rate":            {guardedRoute(Guard{Rates: []Rate{seen}}, serveOn(t, says("x"))), 429},
		"queue":           {guardedRoute(Guard{Concurrency: Concurrency{Limit: 1}}, hung), 503},
		"queue, too long": {guardedRoute(Guard{Concurrency: Concurrency{Limit: 1, Queue: 5, Wait: 10 * time.Millisecond}}, hung), 503},
		"time in queue":   {guardedRoute(Guard{Request: late.Request, Concurrency: Concurrency{Limit: 1, Queue: 5, Wait: time.Minute}}, hung), 504},
		"request":         {guardedRoute(late, hung), 504},
		"no instance":     {guardedRoute(late), 504},
		"try":             {guardedRoute(Guard{Try: 30 * time.Millisecond}, hung), 504},
		"garbage":         {guardedRoute(everything(), scripted(t, "HTTP/1.1 1 what\r\n\r\n")), 502},
		"half a head":     {guardedRoute(Guard{Try: 30 * time.Millisecond}, scripted(t, "HTTP/1.1 200 OK\r\nX: ")), 504},
		"early hints":     {guardedRoute(Guard{Try: 30 * time.Millisecond}, scripted(t, "HTTP/1.1 103 Early Hints\r\n\r\n")), 504},
		"half a chunk":    {guardedRoute(late, scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5")), 200},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			for _, client := range []clients{client, general} {
				var log records
				g := startEdge(t, newDirs(t))
				g.s.proxy.log = slog.New(slog.NewTextHandler(&log, nil))
				lines := g.logs()
				c.table.Routes[0].Access = &everyRequest
				g.set(c.table)
				q := &g.s.proxy.recall(g.s.current().byKey["shop@prod"]).queue
				q.mu.Lock()
				q.busy++ // somebody who stays
				q.mu.Unlock()
				n := uint64(1)
				if name == "rate" {
					get(t, client(t), g.url()) // which is the burst
					lines.wait(1)
					n++
				}
				r := request(t, http.MethodPost, g.url()+"/a%20b?c=d", strings.NewReader("four"))
				if name == "rate" {
					r = request(t, http.MethodGet, g.url(), nil)
				}
				r.Host = "a"
				res, err := client(t).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != c.want {
					t.Errorf("%s %q", res.Status, body)
				}
				res.Header.Del("Date")
				of := func(c Counts) string {
					c.Nanos, c.Hist, c.Retried = 0, nil, min(c.Retried, 1)
					return fmt.Sprintf("%+v", c)
				}
				counted := of(g.settled(n)) + "\n" + of(g.counts(1, 1))
				line := lines.last(int(n))
				for _, passing := range []string{"time", "http.server.request.duration", "first_byte", "trace_id", "span_id"} {
					if line[passing] != nil {
						line[passing] = "some"
					}
				}
				told = append(told, fmt.Sprintf("%d %v %q %v\n%s\n%s\n%v", res.StatusCode, res.Header, body, err != nil, counted, log.String(), line))
			}
			if told[0] != told[1] {
				t.Errorf("read by the edge:\n%s\nread by net/http:\n%s", told[0], told[1])
			}
		})
	}
}

// records is a log without what differs from one time to the next.
type records struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

var passing = regexp.MustCompile(`time=\S+ |127\.0\.0\.1:\d+|error=.*`)

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return passing.ReplaceAllString(r.b.String(), "")
}

// A connection to an instance is not used up by the time of a request that was on it.
func TestATimeoutIsOfOneRequest(t *testing.T) {
	for _, wait := range []time.Duration{0, 2 * lookAfter} {
		var conns sync.Map
		g := startEdge(t, newDirs(t))
		g.set(guardedRoute(Guard{Request: 300 * time.Millisecond}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
			conns.Store(r.RemoteAddr, true)
			<-time.After(wait)
			io.WriteString(w, "x")
		})))
		c := client(t)
		for range 3 {
			if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusOK {
				t.Error(res.Status)
			}
			<-time.After(400*time.Millisecond - wait)
		}
		n := 0
		conns.Range(func(_, _ any) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d connections for 3 requests of %s", n, wait)
		}
	}
}

// A client that sends its next request at once can be told of the first one's end all the same.
func TestTimeoutOfOneOfSeveralRequests(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Request: 100 * time.Millisecond, Concurrency: Concurrency{Limit: 1, Queue: 5, Wait: time.Minute}})
	g.set(table)
	c := dialRaw(t, g.addr())
	c.send(strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 3))
	for range 3 {
		res := c.response("GET")
		if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusGatewayTimeout || res.Close {
			t.Errorf("%s %v close=%v", res.Status, err, res.Close)
		}
	}
	if c := g.settled(3); c.Failed != 3 || c.Unplaced != 3 {
		t.Errorf("%+v", c)
	}
}

// BenchmarkOwnPath is a request on a kept connection, without and with protections: what those allocate is the difference.
func BenchmarkOwnPath(b *testing.B) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, table := range map[string]func(string) Table{
		"plain":   func(addr string) Table { return oneRoute(addr) },
		"guarded": func(addr string) Table { return guardedRoute(everything(), addr) },
	} {
		b.Run(name, func(b *testing.B) {
			g := startEdge(b, newDirs(b))
			g.set(table(scripted(b, answer)))
			c := dialRaw(b, g.addr())
			c.SetDeadline(time.Time{})
			ask := []byte("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
			got := make([]byte, len(answer))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(ask); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c.r, got); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
