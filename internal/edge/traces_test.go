//go:build unix

package edge

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

const clientTrace = "0af7651916cd43dd8448eb211c80319c"

const clientParent = "00-" + clientTrace + "-b7ad6b7169203331-01"

// everyPath runs a test with clients of each way that the edge has for requests.
func everyPath(t *testing.T, test func(*testing.T, clients)) {
	onBothPaths(t, test)
	t.Run("h2", func(t *testing.T) { test(t, h2c) })
}

func TestSpans(t *testing.T) { everyPath(t, testSpans) }

func testSpans(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	ch := make(chan *http.Request, 10)
	addr := serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		ch <- r
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "x")
	})
	c, table := g.spans(0, addr)
	table.Routes[0].Backends[0].Release = 7
	g.set(table)
	r := request(t, http.MethodPost, g.url()+"/a%20b?token=secret", strings.NewReader("body"))
	r.Host = "Shop.example.com:8443"
	r.Header = http.Header{"Traceparent": {clientParent}, "Tracestate": {"a=b,c=d", "e=f"}, "User-Agent": {"me/1"}}
	before := time.Now()
	res, _ := do(t, client(t), r)
	in := receive(t, ch)
	all := c.wait(2)
	server, try := all[0], all[1]
	if id := fmt.Sprintf("%x", server.TraceId); id != clientTrace || id != fmt.Sprintf("%x", try.TraceId) {
		t.Errorf("%v", all)
	}
	if fmt.Sprintf("%x", server.ParentSpanId) != "b7ad6b7169203331" || string(try.ParentSpanId) != string(server.SpanId) || server.Flags != 0x301 || try.Flags != 0x101 {
		t.Errorf("%v", all)
	}
	if got, want := in.Header.Get("Traceparent"), fmt.Sprintf("00-%s-%x-01", clientTrace, try.SpanId); got != want {
		t.Errorf("the instance got %s, want %s", got, want)
	}
	if got := strings.Join(in.Header["Tracestate"], "|"); got != "a=b,c=d|e=f" || server.TraceState != "a=b,c=d,e=f" || try.TraceState != server.TraceState {
		t.Errorf("tracestate: the instance got %q, the spans have %q", got, server.TraceState)
	}
	if from, to := time.Unix(0, int64(server.StartTimeUnixNano)), time.Unix(0, int64(server.EndTimeUnixNano)); from.Before(before.Round(0)) || to.Before(from) || to.After(time.Now()) ||
		try.StartTimeUnixNano < server.StartTimeUnixNano || try.EndTimeUnixNano > server.EndTimeUnixNano {
		t.Errorf("%v", all)
	}
	if server.Name != "POST" || server.Kind != trace.Span_SPAN_KIND_SERVER || server.Status != nil || try.Name != "POST" || try.Kind != trace.Span_SPAN_KIND_CLIENT || try.Status.GetCode() != trace.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", all) // a 4xx is a client's error, and no server's
	}
	host, port, _ := net.SplitHostPort(addr)
	if got, want := fmt.Sprint(words(server.Attributes)), fmt.Sprint(map[string]string{"http.request.method": "POST", "url.scheme": "http", "url.path": "/a%20b", "server.address": "Shop.example.com", "server.port": "8443",
		"client.address": "127.0.0.1", "network.protocol.name": "http", "network.protocol.version": strings.TrimSuffix(strings.TrimPrefix(res.Proto, "HTTP/"), ".0"), "user_agent.original": "me/1",
		"http.response.status_code": "418", "fairlead.service": "shop", "fairlead.outcome": "served", "fairlead.release": "7", "fairlead.instance": "1"}); got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
	if got, want := fmt.Sprint(words(try.Attributes)), fmt.Sprint(map[string]string{"http.request.method": "POST", "url.full": "http://" + addr + "/a%20b", "server.address": host, "server.port": port,
		"http.response.status_code": "418", "error.type": "418", "fairlead.service": "shop", "fairlead.release": "7", "fairlead.instance": "1"}); got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
	if c.resource["service.name"] != "fairlead" || c.resource["service.version"] != "test" || c.resource["deployment.environment.name"] != "prod" {
		t.Errorf("%v", c.resource)
	}
}

// A trace that begins at the edge has a root here, and the access log tells of the same.
func TestSpansOfANewTrace(t *testing.T) { everyPath(t, testSpansOfANewTrace) }

func testSpansOfANewTrace(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	w := g.logs()
	ch := make(chan *http.Request, 10)
	c, table := g.spans(100, serveOn(t, func(_ http.ResponseWriter, r *http.Request) { ch <- r }))
	table.Routes[0].Access = &everyRequest
	g.set(table)
	n := 0
	for _, h := range []http.Header{{}, {"Tracestate": {"a=b"}}, {"Traceparent": {strings.Replace(clientParent, "b7", "B7", 1)}, "Tracestate": {"a=b"}}, {"Traceparent": {clientParent, clientParent}}, {"Traceparent": {clientParent[:54]}}} {
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header = h
		do(t, client(t), r)
		n++
		in, all, line := receive(t, ch).Header, c.wait(2), w.last(n)
		server, try := all[0], all[1]
		c.clear()
		want := fmt.Sprintf("00-%x-%x-01", server.TraceId, try.SpanId)
		if server.ParentSpanId != nil || string(try.ParentSpanId) != string(server.SpanId) || server.Flags != 0x101 || strings.Join(in["Traceparent"], "|") != want || in["Tracestate"] != nil {
			t.Errorf("%v: %v, the instance got %v", h, all, in)
		}
		if line["trace_id"] != fmt.Sprintf("%x", server.TraceId) || line["span_id"] != fmt.Sprintf("%x", try.SpanId) || strings.Contains(want, clientTrace) {
			t.Errorf("%v", line)
		}
	}
}

// What is not sampled is as it would be without traces, and leaves nothing.
func TestNotSampled(t *testing.T) { everyPath(t, testNotSampled) }

func testNotSampled(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	ch := make(chan *http.Request, 10)
	c, table := g.spans(100, serveOn(t, func(_ http.ResponseWriter, r *http.Request) { ch <- r }))
	ask := func(h http.Header) http.Header {
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header = h
		do(t, client(t), r)
		return receive(t, ch).Header
	}
	// The client's word counts for its own trace.
	not := strings.TrimSuffix(clientParent, "1") + "0"
	if got := ask(http.Header{"Traceparent": {not}, "Tracestate": {"a=b"}}); got.Get("Traceparent") != not || got.Get("Tracestate") != "a=b" {
		t.Errorf("%v", got)
	}
	table.Routes[0].Traces.Sample = 0
	g.set(table)
	seen := map[string]bool{}
	for _, tp := range []string{"", "nonsense", strings.Repeat("0", 55)} {
		h := http.Header{"Tracestate": {"a=b"}}
		if tp != "" {
			h.Set("Traceparent", tp)
		}
		got := ask(h)
		id, ok := parseTraceparent(got.Get("Traceparent"))
		if !ok || id.flags != 0 || seen[got.Get("Traceparent")] || len(got["Traceparent"]) != 1 || got["Tracestate"] != nil {
			t.Errorf("%q: %v", tp, got)
		}
		seen[got.Get("Traceparent")] = true
	}
	ask(http.Header{"Traceparent": {clientParent}}) // so that there is something to wait for
	if all := c.wait(2); fmt.Sprintf("%x", all[0].TraceId) != clientTrace {
		t.Errorf("%v", all)
	}
}

// A route at the border may take the client's trace off.
func TestTraceTakenOff(t *testing.T) { onBothPaths(t, testTraceTakenOff) }

func testTraceTakenOff(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	ch := make(chan *http.Request, 10)
	c, table := g.spans(100, serveOn(t, func(_ http.ResponseWriter, r *http.Request) { ch <- r }))
	table.Routes[0].Headers.Request.Remove = []string{"traceparent"}
	g.set(table)
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header.Set("Traceparent", clientParent)
	do(t, client(t), r)
	in, all := receive(t, ch), c.wait(2)
	if got := in.Header.Get("Traceparent"); got != fmt.Sprintf("00-%x-%x-01", all[0].TraceId, all[1].SpanId) || strings.Contains(got, clientTrace) || all[0].ParentSpanId != nil {
		t.Errorf("%s %v", got, all)
	}
	// As a client may by Connection.
	table.Routes[0].Headers.Request.Remove = nil
	g.set(table)
	c.clear()
	dialRaw(t, g.addr()).send("GET / HTTP/1.1\r\nHost: a\r\nTraceparent: " + clientParent + "\r\nConnection: x, Traceparent\r\n\r\n")
	in, all = receive(t, ch), c.wait(2)
	if got := in.Header.Get("Traceparent"); got != fmt.Sprintf("00-%x-%x-01", all[0].TraceId, all[1].SpanId) || strings.Contains(got, clientTrace) {
		t.Errorf("%s %v", got, all)
	}
}

// Each try is a span of its own, and what the instance of it gets is its.
func TestSpansOfRetries(t *testing.T) { everyPath(t, testSpansOfRetries) }

func testSpansOfRetries(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	got := make(chan string, 10)
	breaks := func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Traceparent")
		panic(http.ErrAbortHandler)
	}
	c, _ := g.spans(100, serveOn(t, breaks), serveOn(t, breaks))
	if res, _ := get(t, client(t), g.url()); res.StatusCode != http.StatusBadGateway {
		t.Error(res.Status)
	}
	all := c.wait(1 + 1 + retries)
	for i, s := range all[1:] {
		a := words(s.Attributes)
		if seen := receive(t, got); seen != fmt.Sprintf("00-%x-%x-01", all[0].TraceId, s.SpanId) {
			t.Errorf("try %d: the instance got %s, the span is %x", i, seen, s.SpanId)
		}
		if string(s.ParentSpanId) != string(all[0].SpanId) || s.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || a["error.type"] != "no_answer" || a["http.response.status_code"] != "" {
			t.Errorf("try %d: %v", i, s)
		}
		if want := strings.TrimPrefix(fmt.Sprint(i), "0"); a["http.request.resend_count"] != want {
			t.Errorf("try %d: %v", i, a)
		}
	}
	if a := words(all[0].Attributes); a["error.type"] != "no_answer" || a["http.response.status_code"] != "502" || a["fairlead.outcome"] != "failed" || all[0].Status.GetCode() != trace.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", all[0])
	}
	// An instance that nobody is at is a try, too; the next one is answered.
	c.clear()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	table := *g.s.last
	table.Routes[0].Backends[0].Endpoints = ends(dead, serveOn(t, says("x")))
	g.set(table)
	cl := client(t)
	tries := func() (n int) { c.mu.Lock(); defer c.mu.Unlock(); return len(c.spans) }
	for sent := 0; ; {
		get(t, cl, g.url())
		sent++
		eventually(t, func() bool { return tries() >= 2*sent })
		if tries() > 2*sent {
			all = c.wait(2*sent + 1)[2*sent-2:]
			break
		}
	}
	first, second := words(all[1].Attributes), words(all[2].Attributes)
	if first["error.type"] != "no_connection" || first["fairlead.instance"] != "1" || second["error.type"] != "" || second["http.response.status_code"] != "200" || second["fairlead.instance"] != "2" ||
		second["http.request.resend_count"] != "1" || all[0].Status != nil || all[2].Status != nil {
		t.Errorf("%v", all)
	}
}

// What comes of a request that no instance answered, or not to its end.
func TestSpansOfOutcomes(t *testing.T) { onBothPaths(t, testSpansOfOutcomes) }

func testSpansOfOutcomes(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	gone := make(chan struct{}, 1)
	c, table := g.spans(100, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/breaks":
			w.Header().Set("Content-Length", "100")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/waits":
			gone <- struct{}{}
			<-r.Context().Done()
		case "/fails":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	check := func(name string, spans int, status, why, outcome string, bad bool) {
		t.Helper()
		all := c.wait(spans)
		a := words(all[0].Attributes)
		if a["http.response.status_code"] != status || a["error.type"] != why || a["fairlead.outcome"] != outcome || (all[0].Status.GetCode() == trace.Status_STATUS_CODE_ERROR) != bad {
			t.Errorf("%s: %v", name, all[0])
		}
		if spans > 1 && words(all[1].Attributes)["error.type"] != why {
			t.Errorf("%s: %v", name, all[1])
		}
		c.clear()
	}
	cl := client(t)
	get(t, cl, g.url()+"/fails")
	check("a 500", 2, "500", "500", "failed", true)
	fresh := client(t) // on a connection that was used already it would ask again by itself
	if res, err := fresh.Do(request(t, http.MethodGet, g.url()+"/breaks", nil)); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	check("broken off", 2, "200", "broken_off", "failed", true)
	conn := dialRaw(t, g.addr())
	conn.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
	receive(t, gone)
	conn.Close()
	check("the client went away", 2, "", "client_gone", "aborted", false)
	table.Routes[0].Guard = &Guard{Rates: []Rate{{Requests: 1, Per: time.Hour, Burst: 1, By: "route"}}}
	g.set(table)
	get(t, cl, g.url()+"/")
	c.wait(2)
	c.clear()
	get(t, cl, g.url()+"/")
	check("over a limit", 1, "429", "", "refused", false)
	table.Routes[0].Guard, table.Routes[0].Backends[0].Endpoints, table.Routes[0].Stopped = nil, nil, true
	g.set(table)
	get(t, cl, g.url()+"/")
	check("nobody is there", 1, "503", "stopped", "failed", true)
}

// Whatever a client writes, the others' spans arrive.
func TestSpansOfStrangeRequests(t *testing.T) {
	g := startEdge(t, newDirs(t))
	c, _ := g.spans(100, serveOn(t, says("x")))
	for _, kind := range []string{"", "Connection: upgrade\r\n"} {
		conn := dialRaw(t, g.addr())
		conn.send("BREW /%ff?a=\xff HTTP/1.1\r\nHost: a\r\n" + kind + "User-Agent: \xff\xfe" + strings.Repeat("x", 3000) + "\r\nTraceparent: " + clientParent + "\r\nTracestate: a=\xff\r\n\r\n")
		all := c.wait(2)
		a := words(all[0].Attributes)
		if a["http.request.method"] != "_OTHER" || a["http.request.method_original"] != "BREW" || all[0].Name != "HTTP" || all[1].Name != "HTTP" || a["url.path"] != "/%ff" ||
			!strings.HasPrefix(a["user_agent.original"], "\ufffd") || len(a["user_agent.original"]) > maxText+8 || all[0].TraceState != "a=" {
			t.Errorf("%v", all)
		}
		c.clear()
	}
}

// Copies of a request are below the edge's span of it, and are no tries.
func TestSpansOfMirrored(t *testing.T) { onBothPaths(t, testSpansOfMirrored) }

func testSpansOfMirrored(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	ch := make(chan string, 10)
	c, table := g.spans(100, serveOn(t, says("x")))
	table.Routes[0].Mirror = 100
	table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Endpoints: ends(serveOn(t, func(_ http.ResponseWriter, r *http.Request) { ch <- r.Header.Get("Traceparent") }))})
	g.set(table)
	get(t, client(t), g.url())
	all := c.wait(2)
	if got := receive(t, ch); got != fmt.Sprintf("00-%x-%x-01", all[0].TraceId, all[0].SpanId) {
		t.Errorf("the copy has %s: %v", got, all)
	}
}

// What waits is sent before the process ends.
func TestSpansAtTheEnd(t *testing.T) {
	g := startEdge(t, newDirs(t))
	c, _ := g.spans(100, serveOn(t, says("x")))
	g.s.proxy.exporters.every = time.Hour
	cl := client(t)
	for range 5 {
		get(t, cl, g.url())
	}
	g.settled(5)
	g.s.Shut(patience)
	if c.wait(10); c.batches != 1 {
		t.Errorf("%d batches", c.batches)
	}
}

func TestTraceparent(t *testing.T) {
	for s, want := range map[string]string{
		clientParent: clientParent, clientParent[:53] + "00": clientParent[:53] + "00", clientParent[:53] + "ff": clientParent[:53] + "03",
		"cc" + clientParent[2:]: clientParent, "cc" + clientParent[2:] + "-more": clientParent, "cc" + clientParent[2:] + "more": "",
		clientParent + "-more": "", "ff" + clientParent[2:]: "", strings.ToUpper(clientParent): "", clientParent[:54]: "", "": "", clientParent[:53] + "0g": "",
		"00-" + strings.Repeat("0", 32) + clientParent[35:]: "", clientParent[:36] + strings.Repeat("0", 16) + "-01": "", strings.ReplaceAll(clientParent, "-", "_"): "",
	} {
		c, ok := parseTraceparent(s)
		if ok != (want != "") || ok && c.String() != want {
			t.Errorf("%q is %q, %v", s, c, ok)
		}
	}
}

// quietTeller is a request of which nothing is known but some headers.
type quietTeller struct{ http.Header }

func (quietTeller) told(*exchange) told { return told{} }

func (q quietTeller) header(name string, i int) (string, bool) {
	if all := q.Header[name]; i < len(all) {
		return all[i], true
	}
	return "", false
}

// The share is that of the traces, and goes by their number: who samples by the same rule agrees.
func TestSampleShare(t *testing.T) {
	const n = 100_000
	for _, percent := range []float64{0, 0.1, 10, 50, 99, 100} {
		r := compileTraces(&Route{Traces: &Traces{Sample: percent}})
		sampled := 0
		for range n {
			ex := &exchange{}
			r.trace(ex, quietTeller{})
			c, _ := parseTraceparent(ex.trace)
			if in := float64(c.random()) >= (1-percent/100)*(1<<56); in != (ex.span != nil) || (c.flags == 1) != in {
				t.Fatalf("%s is in the sample of %v %%: %v", ex.trace, percent, ex.span != nil)
			}
			if ex.span != nil {
				sampled++
			}
		}
		p := percent / 100
		if want := p * n; math.Abs(float64(sampled)-want) > 5*math.Sqrt(n*p*(1-p)) { // one run in a million
			t.Errorf("%d of %d for %v %%", sampled, n, percent)
		}
	}
}

func TestUnsampledMakesNoGarbage(t *testing.T) {
	r := compileTraces(&Route{Traces: &Traces{Sample: 0}})
	var known teller = quietTeller{http.Header{"Traceparent": {strings.TrimSuffix(clientParent, "1") + "0"}}}
	ex := &exchange{}
	if n := testing.AllocsPerRun(1000, func() { r.trace(ex, known) }); n != 0 || ex.span != nil || ex.trace != "" {
		t.Errorf("%v allocations to look at a trace", n)
	}
	var unknown teller = quietTeller{}
	if n := testing.AllocsPerRun(1000, func() { r.trace(ex, unknown) }); n > 1 || ex.span != nil {
		t.Errorf("%v allocations to begin one", n) // the traceparent, which there is without traces, too
	}
}

func TestTracesThatGoNowhere(t *testing.T) {
	for _, tr := range []Traces{{}, {Endpoint: "localhost:4318"}, {Endpoint: "ftp://a"}, {Endpoint: "http://"}, {Endpoint: "http://a", Sample: -1}, {Endpoint: "http://a", Sample: 101}, {Endpoint: "http://a", Sample: math.NaN()}} {
		table := oneRoute()
		table.Routes[0].Traces = &tr
		if err := table.Check(); err == nil {
			t.Errorf("%+v came into force", tr)
		}
	}
}
