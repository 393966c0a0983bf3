//go:build unix

package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// written is an access log in memory. It refuses what is not whole lines of JSON.
type written struct {
	t testing.TB

	mu    sync.Mutex
	lines []map[string]any
	fails error         // of writes, while it is set
	takes chan struct{} // one for each write; nil for no bound
}

func (w *written) open(string, string, int64, time.Duration) io.WriteCloser { return w }

// Write implements [io.Writer].
func (w *written) Write(p []byte) (int, error) {
	if w.takes != nil {
		<-w.takes
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails != nil {
		return 0, w.fails
	}
	if !bytes.HasSuffix(p, []byte("\n")) {
		w.t.Errorf("a torn line: %q", p)
	}
	for line := range bytes.Lines(p) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			w.t.Errorf("%q: %v", line, err)
		}
		w.lines = append(w.lines, m)
	}
	return len(p), nil
}

// Close implements [io.Closer].
func (*written) Close() error { return nil }

func (w *written) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails = err
}

// wait returns the lines once there are n.
func (w *written) wait(n int) []map[string]any {
	w.t.Helper()
	var out []map[string]any
	eventually(w.t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		out = w.lines
		return len(out) >= n
	})
	if len(out) != n {
		w.t.Errorf("%d lines, want %d: %v", len(out), n, out)
	}
	return out
}

// last returns the n-th line, which is the last one.
func (w *written) last(n int) map[string]any { w.t.Helper(); return w.wait(n)[n-1] }

// logs starts writing g's access log into memory.
func (g *rig) logs() *written {
	w := &written{t: g.t}
	g.s.proxy.access.open = w.open
	return w
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

var everyRequest = Access{Sample: 100, Slow: time.Minute, Size: 1 << 20}

// logged is a table whose route is written down.
func logged(a Access, addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Access = &a
	return t
}

func TestAccessLine(t *testing.T) { onBothPaths(t, testAccessLine) }

func testAccessLine(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	var trace string
	addr := serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		trace = r.Header.Get("Traceparent")
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "hello")
	})
	a := everyRequest
	a.Headers = []string{"user-agent", "X-Request-Id", "X-None"}
	table := logged(a, addr)
	table.Routes[0].Backends[0].Release = 7
	g.set(table)
	r := request(t, http.MethodPost, g.url()+"/a%20b/c?token=secret", strings.NewReader("body"))
	r.Host = "Shop.example.com:8443"
	r.Header.Set("User-Agent", "me/1")
	r.Header["X-Request-Id"] = []string{"r1", "r2"}
	r.Header.Set("Traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	before := time.Now()
	do(t, client(t), r)
	got := w.last(1)
	at, err := time.Parse(time.RFC3339Nano, got["time"].(string))
	if err != nil || at.Before(before) || at.After(time.Now()) || len(got["time"].(string)) != len("2026-01-02T03:04:05.123456789Z") {
		t.Errorf("%v %v", got["time"], err)
	}
	if d, f := got["http.server.request.duration"].(float64), got["first_byte"].(float64); d <= 0 || f <= 0 || f > d || d > time.Since(before).Seconds() {
		t.Errorf("%v, the first byte after %v", d, f)
	}
	for _, passing := range []string{"time", "http.server.request.duration", "first_byte"} {
		delete(got, passing)
	}
	want := `{"level":"info","service":"shop","environment":"prod","release":7,"instance":1,"stream":"access","trace_id":"0123456789abcdef0123456789abcdef",
		"span_id":"0123456789abcdef","outcome":"served","client.address":"127.0.0.1","http.request.method":"POST","url.scheme":"http","server.address":"Shop.example.com",
		"server.port":8443,"url.path":"/a%20b/c","network.protocol.version":"1.1","http.response.status_code":201,"http.response.body.size":5,"http.request.body.size":4,
		"user_agent.original":"me/1","http.request.header.x-request-id":["r1","r2"],"weight":1}`
	var wanted map[string]any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprint(got), fmt.Sprint(wanted); a != b {
		t.Errorf("\n%s, want\n%s", a, b)
	}
	// With the query, in chunks, and a trace that the edge begins.
	table.Routes[0].Access.Query = true
	g.set(table)
	do(t, client(t), request(t, http.MethodPost, g.url()+"/?a=b?c", io.MultiReader(strings.NewReader("in "), strings.NewReader("chunks"))))
	got = w.last(2)
	if got["url.path"] != "/" || got["url.query"] != "a=b?c" || got["http.request.body.size"] != 9.0 {
		t.Errorf("%v", got)
	}
	if id := fmt.Sprint(got["trace_id"]); len(id) != 32 || trace[3:35] != id || trace[36:52] != got["span_id"] {
		t.Errorf("%v, the instance got %s", got, trace)
	}
}

// Whatever a client writes, it is one line of valid JSON.
func TestAccessLineOfStrangeRequests(t *testing.T) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	a := everyRequest
	a.Query, a.Headers = true, []string{"X-Id"}
	g.set(logged(a, serveOn(t, says("x"))))
	n := 0
	for _, kind := range []string{"", "Connection: upgrade\r\n"} {
		for _, c := range []struct{ target, id, path string }{
			{`/a"b\c`, `"},{"level":"fatal`, `/a"b\c`}, {"/%0d%0a%00%7f?%0a{}", `\u0000\n`, "/%0d%0a%00%7f"},
			{"/" + strings.Repeat("x", 3000), "\xff\xfe\xc3", "/" + strings.Repeat("x", maxText-1)}, {"/<>&'`?\"", "\u2028ü\t.", "/<>&'`"},
			{"/../..//etc", strings.Repeat("\"", 900), "/../..//etc"},
		} {
			conn := dialRaw(t, g.addr())
			conn.send("GET " + c.target + " HTTP/1.1\r\nHost: a\r\n" + kind + "X-Id: " + c.id + "\r\nTraceparent: 00-zz\"\r\n\r\n")
			if res := conn.response("GET"); res.StatusCode != http.StatusOK {
				t.Errorf("%q: %s", c.target, res.Status)
			}
			n++
			got := w.last(n)
			id := strings.NewReplacer("\xff", "\ufffd", "\xfe", "\ufffd", "\xc3", "\ufffd").Replace(c.id)
			if strings.Contains(c.id, "ü") {
				id = c.id
			}
			if got["url.path"] != c.path || fmt.Sprint(got["http.request.header.x-id"]) != "["+id+"]" || got["trace_id"] != nil || got["level"] != "info" {
				t.Errorf("%q: %v", c.target, got)
			}
		}
	}
}

func TestAccessEndings(t *testing.T) { onBothPaths(t, testAccessEndings) }

// testAccessEndings has a line for each way in which a request may end, in a log that has no others.
func testAccessEndings(t *testing.T, client clients) {
	guard := func(g Guard, addrs ...string) Table { return guardedRoute(g, addrs...) }
	hung, ok := scripted(t, ""), serveOn(t, says("x"))
	fails := serveOn(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	stopped, struck := oneRoute(), oneRoute(ok)
	stopped.Routes[0].Stopped = true
	struck.Routes[0].Backends[0].Faults = []Fault{{Share: 100, Abort: 503}}
	for name, c := range map[string]struct {
		table   Table
		outcome string
		why     any
		status  float64
		level   string
	}{
		"served":      {oneRoute(ok), "served", nil, 200, "info"},
		"5xx":         {oneRoute(fails), "failed", "502", 502, "error"},
		"fault":       {struck, "failed", "fault", 503, "error"},
		"stopped":     {stopped, "failed", "stopped", 503, "error"},
		"held":        {guard(Guard{Request: 30 * time.Millisecond}), "failed", "request_timeout", 504, "error"},
		"late":        {guard(Guard{Try: 30 * time.Millisecond}, hung), "failed", "try_timeout", 504, "error"},
		"garbage":     {oneRoute(scripted(t, "HTTP/1.1 1 what\r\n\r\n")), "failed", "no_answer", 502, "error"},
		"broken off":  {guard(Guard{Request: 50 * time.Millisecond}, scripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")), "failed", "broken_off", 200, "error"},
		"rate":        {guard(Guard{Rates: []Rate{{Requests: 1, Per: time.Hour, Burst: 1, By: "header:X-Key"}}}, ok), "refused", "rate", 429, "warn"},
		"body":        {guard(Guard{Body: 2}, ok), "refused", "body_too_large", 413, "warn"},
		"concurrency": {guard(Guard{Concurrency: Concurrency{Limit: 1}}, ok), "refused", "queue", 503, "warn"},
	} {
		t.Run(name, func(t *testing.T) {
			g := startEdge(t, newDirs(t))
			w := g.logs()
			c.table.Routes[0].Access = &everyRequest
			g.set(c.table)
			n := 1
			switch name {
			case "rate":
				do(t, client(t), request(t, http.MethodGet, g.url(), nil))
				w.wait(n)
				n++
			case "concurrency":
				q := &g.s.proxy.recall(g.s.current().byKey["shop@prod"]).queue
				q.mu.Lock()
				q.busy++ // somebody who stays
				q.mu.Unlock()
			}
			var body io.Reader
			if name == "body" || name == "late" || name == "garbage" {
				body = strings.NewReader("four")
			}
			method := http.MethodGet
			if body != nil {
				method = http.MethodPost
			}
			res, err := client(t).Do(request(t, method, g.url(), body))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			got := w.last(n)
			if got["outcome"] != c.outcome || got["error.type"] != c.why || got["http.response.status_code"] != c.status || got["level"] != c.level {
				t.Errorf("%v", got)
			}
			if _, has := got["first_byte"]; has != (name == "served" || name == "5xx" || name == "fault" || name == "broken off") {
				t.Errorf("when the answer began: %v", got)
			}
		})
	}
}

func TestAccessOfWhoLeaves(t *testing.T) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	came := make(chan bool)
	g.set(logged(everyRequest, serveOn(t, func(_ http.ResponseWriter, r *http.Request) {
		came <- true
		<-r.Context().Done()
	})))
	for i, kind := range []string{"", "Connection: upgrade\r\n"} {
		c := dialRaw(t, g.addr())
		c.send("GET / HTTP/1.1\r\nHost: a\r\n" + kind + "\r\n")
		receive(t, came)
		c.Close()
		got := w.last(i + 1)
		if got["outcome"] != "aborted" || got["error.type"] != "client_gone" || got["level"] != "warn" || got["release"] != 1.0 || got["http.response.status_code"] != nil {
			t.Errorf("%v", got)
		}
	}
}

func TestAccessOfRetries(t *testing.T) { onBothPaths(t, testAccessOfRetries) }

func testAccessOfRetries(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := logged(everyRequest, closedPort(t), serveOn(t, says("x")))
	g.set(table)
	retried := 0
	for i := range 20 {
		g.s.table.Load().byKey["shop@prod"].backs[0].endpoints[0].state.avoid(time.Time{})
		get(t, client(t), g.url())
		got := w.last(i + 1)
		if got["instance"] != 2.0 || got["outcome"] != "served" {
			t.Errorf("%v", got)
		}
		if n := got["http.request.resend_count"]; n != nil {
			retried += int(n.(float64))
		}
	}
	if n := g.counts(1, 1).Retried; uint64(retried) != n || n == 0 {
		t.Errorf("%d retries are written down, %d were counted", retried, n)
	}
}

// A request that was held has waited in its line.
func TestAccessOfHeldRequests(t *testing.T) { onBothPaths(t, testAccessOfHeldRequests) }

func testAccessOfHeldRequests(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	g.set(logged(everyRequest))
	answers := ask(t, client(t), http.MethodGet, g.url())
	eventually(t, func() bool { return g.s.stats.Open("shop", "prod", 0, 0) == 1 })
	began := time.Now()
	<-time.After(30 * time.Millisecond)
	g.set(logged(everyRequest, serveOn(t, says("x"))))
	receive(t, answers)
	if got := w.last(1); got["first_byte"].(float64) < 0.03 || got["http.server.request.duration"].(float64) > time.Since(began).Seconds()+1 || got["outcome"] != "served" || got["instance"] != 1.0 {
		t.Errorf("%v", got)
	}
}

func TestAccessOverTLSAndH2(t *testing.T) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := secured(t, "")
	table.Routes[0].Access = &everyRequest
	g.set(table)
	n := 0
	for _, h2 := range []bool{false, true} {
		c := g.client(nil)
		if tr := c.Transport.(*http.Transport); !h2 {
			tr.ForceAttemptHTTP2, tr.Protocols = false, new(http.Protocols)
			tr.Protocols.SetHTTP1(true)
		}
		_, proto, _, err := fetch(t, c, "https://shop.localhost/p", "")
		if err != nil {
			t.Fatal(err)
		}
		n++
		got := w.last(n)
		if version := strings.TrimSuffix(strings.TrimPrefix(proto, "HTTP/"), ".0"); got["network.protocol.version"] != version || (version == "2") != h2 ||
			got["tls.protocol.version"] != "1.3" || got["url.scheme"] != "https" || got["url.path"] != "/p" {
			t.Errorf("%s: %v", proto, got)
		}
	}
}

func TestAccessOfWebSocket(t *testing.T) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	a := everyRequest
	a.Sample, a.Slow = 0, time.Nanosecond
	table := logged(a, serveOn(t, upgraded))
	g.set(table)
	for i, sample := range []float64{0, 100} { // how long it lasts does not make it slow
		table.Routes[0].Access = &Access{Sample: sample, Slow: time.Nanosecond, Size: 1 << 20}
		g.set(table)
		c := dialRaw(t, g.addr())
		c.send(upgrade)
		c.response("GET")
		c.send("x\n")
		if _, err := c.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		w.wait(0)
		c.Close()
		g.settled(uint64(i + 1))
	}
	got := w.last(1)
	if _, sized := got["http.response.body.size"]; got["http.response.status_code"] != 101.0 || got["outcome"] != "served" || sized {
		t.Errorf("%v", got)
	}
}

func TestAccessOfPreviewsAndMirrors(t *testing.T) { onBothPaths(t, testAccessOfPreviewsAndMirrors) }

func testAccessOfPreviewsAndMirrors(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := two(t, says("old"), says("new"))
	table.Routes[0].Access, table.Routes[0].Mirror, table.Routes[0].Preview = &everyRequest, 100, Preview{Header: Header{Name: "X-Next"}}
	g.set(table)
	get(t, client(t), g.url())
	if got := w.last(1); got["mirrored"] != true || got["preview"] != nil || got["release"] != 1.0 || got["trace_id"] == nil {
		t.Errorf("%v", got)
	}
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header.Set("X-Next", "1")
	do(t, client(t), r)
	if got := w.last(2); got["mirrored"] != nil || got["preview"] != true || got["release"] != 2.0 {
		t.Errorf("%v", got)
	}
}

// The client is whom trusted proxies name.
func TestAccessBehindProxies(t *testing.T) { onBothPaths(t, testAccessBehindProxies) }

func testAccessBehindProxies(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	table := logged(everyRequest, serveOn(t, says("x")))
	for i, want := range []string{"127.0.0.1", "192.0.2.9"} {
		if i == 1 {
			table.Routes[0].Trusted = loopback
		}
		g.set(table)
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set("X-Forwarded-For", "198.51.100.1, 192.0.2.9")
		do(t, client(t), r)
		if got := w.last(i + 1); got["client.address"] != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

func TestAccessSample(t *testing.T) { onBothPaths(t, testAccessSample) }

// What counts from the lines is what was counted, with a sample that is drawn as the test wants it.
func testAccessSample(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	drawn := uint64(0)
	g.s.proxy.access.draw = func() uint64 { drawn++; return (drawn-1)%20*(math.MaxUint64/20) + 1<<40 }
	g.set(logged(Access{Sample: 5, Slow: 50 * time.Millisecond, Size: 1 << 20}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-time.After(60 * time.Millisecond)
		case "/fails":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})))
	c := client(t)
	for i := range 60 {
		get(t, c, g.url()+fmt.Sprintf("/%d", i))
	}
	for range 3 {
		get(t, c, g.url()+"/slow")
		get(t, c, g.url()+"/fails")
	}
	g.settled(66)
	sum, by := 0.0, map[string]int{}
	for _, l := range w.wait(9) {
		sum += l["weight"].(float64)
		by[fmt.Sprint(l["url.path"], " ", l["level"], " ", l["weight"])]++
	}
	want := map[string]int{"/0 info 20": 1, "/20 info 20": 1, "/40 info 20": 1, "/slow warn 1": 3, "/fails error 1": 3}
	if fmt.Sprint(by) != fmt.Sprint(want) || sum != 66 || drawn != 60 {
		t.Errorf("%v, want %v; they stand for %v requests; %d draws", by, want, sum, drawn)
	}
}

// A disk that takes nothing slows nobody down: lines are dropped, counted and told of, in the log itself, too, when it goes on.
func TestAccessOnAFullDisk(t *testing.T) {
	g := startEdge(t, newDirs(t))
	var said records
	w := g.logs()
	g.s.proxy.access.log = slog.New(slog.NewTextHandler(&said, nil))
	w.fail(errors.New("no space left on device"))
	g.set(logged(everyRequest, serveOn(t, says("x"))))
	c := client(t)
	for range 10 {
		get(t, c, g.url())
	}
	eventually(t, func() bool { return g.counts(0, 0).Unlogged == 10 })
	w.fail(nil)
	get(t, c, g.url())
	lines := w.wait(2)
	if lines[0]["message"] != "10 lines could not be written before this one" || lines[0]["stream"] != "fairlead" || lines[1]["outcome"] != "served" {
		t.Errorf("%v", lines)
	}
	get(t, c, g.url())
	w.wait(3)
	if text := said.String(); !strings.Contains(text, "requests are missing in the access log") || !strings.Contains(text, "service=shop") {
		t.Error(text)
	}
	body, err := NewClient(g.dirs.Sock("edge")).c.Raw(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || !bytes.Contains(text, []byte(`fairlead_edge_access_log_dropped_total{environment="prod",service="shop"} 10`)) {
		t.Errorf("%s %v", text, err)
	}
}

func TestAccessOfTable(t *testing.T) {
	for _, a := range []Access{{}, {Sample: 101, Size: 1}, {Sample: -1, Size: 1}, {Sample: math.NaN(), Size: 1}, {Slow: -1, Size: 1}, {Size: 1, Age: -1}} {
		table := logged(a)
		if table.Check() == nil {
			t.Errorf("%+v is taken", a)
		}
	}
	if table := logged(everyRequest); table.Check() != nil {
		t.Error(table.Check())
	}
}
