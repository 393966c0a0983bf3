//go:build unix

package edge

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type answer struct {
	status int
	body   string
	header http.Header
}

// ask sends a request in the background.
func ask(t *testing.T, c *http.Client, method, url string) <-chan answer {
	ch := make(chan answer, 1)
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("data")
	}
	r := request(t, method, url, body)
	go func() {
		res, err := c.Do(r)
		if err != nil {
			ch <- answer{body: err.Error()}
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		ch <- answer{res.StatusCode, string(b), res.Header}
	}()
	return ch
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// dying is an instance that reads a request and then breaks the connection off; it counts them.
func dying(t *testing.T, n *atomic.Int64) string {
	return serveOn(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		n.Add(1)
		panic(http.ErrAbortHandler)
	})
}

func TestStoppedRouteAnswersAtOnce(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := oneRoute()
	table.Routes[0].Stopped, table.Routes[0].Backends = true, nil
	g.set(table)
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != 503 || !strings.Contains(a.body, "stopped") {
		t.Errorf("%+v", a)
	}
	if c := g.settled(1); c.Failed != 1 || c.Undone != 1 || c.Unplaced != 1 || c.Classes[5] != 1 {
		t.Errorf("%+v", c)
	}
}

func TestHeldUntilThereIsAnInstance(t *testing.T) {
	g := newRig(t)
	var held []<-chan answer
	for _, method := range []string{"GET", "POST"} {
		held = append(held, ask(t, client(t), method, g.url()))
	}
	eventually(t, func() bool { return g.counts(0, 0).Open == 2 })
	g.set(oneRoute(serveOn(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })))
	for i, want := range []string{"", "data"} {
		if a := receive(t, held[i]); a.status != 200 || a.body != want {
			t.Errorf("%+v", a)
		}
	}
	// A request that is held when its service is stopped, or removed, is let go.
	g.set(oneRoute())
	held[0] = ask(t, client(t), "GET", g.url())
	eventually(t, func() bool { return g.counts(0, 0).Open == 1 })
	stopped := oneRoute()
	stopped.Routes[0].Stopped = true
	g.set(stopped)
	if a := receive(t, held[0]); a.status != 503 {
		t.Errorf("%+v", a)
	}
	g.set(oneRoute())
	held[0] = ask(t, client(t), "GET", g.url())
	eventually(t, func() bool { return g.counts(0, 0).Open == 1 })
	g.set(Table{})
	if a := receive(t, held[0]); a.status != 503 {
		t.Errorf("%+v", a)
	}
}

func TestHeldTooLong(t *testing.T) {
	g := newRig(t)
	g.s.proxy.hold = 50 * time.Millisecond
	begin := time.Now()
	a := receive(t, ask(t, client(t), "GET", g.url()))
	if a.status != 503 || a.header.Get("Retry-After") == "" || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%+v after %s", a, time.Since(begin))
	}
	g.set(oneRoute(closedPort(t)))
	if a := receive(t, ask(t, client(t), "POST", g.url())); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("an instance that takes no connection: %+v", a)
	}
	if c := g.settled(2); c.Failed != 2 || c.Undone != 2 || c.Unplaced != 1 {
		t.Errorf("%+v", c)
	}
}

func TestRefusedDialGoesElsewhere(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(closedPort(t), serveOn(t, says("alive")), closedPort(t)))
	for range 20 {
		for _, method := range []string{"GET", "POST"} {
			if a := receive(t, ask(t, client(t), method, g.url())); a.status != 200 || a.body != "alive" {
				t.Fatalf("%s: %+v", method, a)
			}
		}
	}
	// The share of a release whose only instance is dead goes to the other one.
	table := oneRoute(closedPort(t))
	table.Routes[0].Backends[0].Weight = 90
	table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Weight: 10, Endpoints: ends(serveOn(t, says("second")))})
	g.set(table)
	for range 10 {
		if a := receive(t, ask(t, client(t), "POST", g.url())); a.body != "second" {
			t.Fatalf("%+v", a)
		}
	}
	if c := g.settled(50); c.Failed != 0 {
		t.Errorf("%+v", c)
	}
}

func TestWhatIsRepeated(t *testing.T) { onBothPaths(t, testWhatIsRepeated) }

func testWhatIsRepeated(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(dying(t, &n)))
	if a := receive(t, ask(t, client(t), "POST", g.url())); a.status != http.StatusBadGateway || n.Load() != 1 {
		t.Errorf("POST: %+v, sent %d times", a, n.Load())
	}
	n.Store(0)
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != http.StatusBadGateway || n.Load() != 1+retries {
		t.Errorf("GET: %+v, sent %d times", a, n.Load())
	}
	n.Store(0)
	// A body makes even a PUT unrepeatable here: it was read and is gone.
	c := client(t)
	res, _ := do(t, c, request(t, http.MethodPut, g.url(), strings.NewReader("x")))
	if res.StatusCode != http.StatusBadGateway || n.Load() != 1 {
		t.Errorf("PUT: %s, sent %d times", res.Status, n.Load())
	}
	if got := g.settled(3); got.Failed != 3 || got.Undone != 3 || got.Unplaced != 0 || g.counts(1, 1).Retried != retries {
		t.Errorf("%+v, retried %d", got, g.counts(1, 1).Retried)
	}
	// With a living one beside it a GET never fails; a POST fails only when it is sent to the dying one.
	g.set(oneRoute(dying(t, &n), serveOn(t, says("alive")), serveOn(t, says("alive")), serveOn(t, says("alive"))))
	ok := 0
	for range 40 {
		if a := receive(t, ask(t, client(t), "GET", g.url())); a.body == "alive" {
			ok++
		}
	}
	if ok < 30 { // three draws of the dying one in a row: one in 64
		t.Errorf("%d of 40 GETs were answered", ok)
	}
}

// The only instance is started again on its port: requests wait for it instead of failing.
func TestSingleInstanceRestarts(t *testing.T) {
	addr := closedPort(t)
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(addr))
	var held []<-chan answer
	for range 5 {
		held = append(held, ask(t, client(t), "GET", g.url()), ask(t, client(t), "POST", g.url()))
	}
	eventually(t, func() bool { return g.counts(1, 1).Retried > 10 })
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("somebody else took the port meanwhile: %v", err)
	}
	srv := &http.Server{Handler: says("back")}
	go srv.Serve(l)
	defer srv.Close()
	for _, h := range held {
		if a := receive(t, h); a.status != 200 || a.body != "back" {
			t.Errorf("%+v", a)
		}
	}
	if c := g.settled(10); c.Failed != 0 || g.s.stats.Gap("shop", "prod") < time.Millisecond {
		t.Errorf("%+v, gap %s", c, g.s.stats.Gap("shop", "prod"))
	}
}
