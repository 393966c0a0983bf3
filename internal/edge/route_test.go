//go:build unix

package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
)

// says is an instance that answers with its name.
func says(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }
}

func route1(service, listen string, addr string, hosts ...string) Route {
	return Route{Service: service, Environment: "prod", Listen: listen, Hosts: hosts,
		Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(addr)}}}
}

func TestHosts(t *testing.T) {
	g := startEdge(t, newDirs(t))
	exact, wild, deep := serveOn(t, says("exact")), serveOn(t, says("wild")), serveOn(t, says("deep"))
	g.set(Table{Routes: []Route{route1("exact", anyPort, exact, "shop.example.com", "b.example.org"), route1("wild", anyPort, wild, "*.example.com"),
		route1("deep", anyPort, deep, "*.eu.example.com"), route1("other", "localhost:0", exact)}})
	for host, want := range map[string]string{
		"shop.example.com": "exact", "SHOP.Example.Com:8080": "exact", "shop.example.com.": "exact", "b.example.org": "exact",
		"a.example.com": "wild", "x.y.example.com": "wild", "a.eu.example.com": "deep", "eu.example.com": "wild",
		"example.com": "", "example.org": "", "shop.example.com.evil": "", "localhost": "", "[::1]:80": "", "evilexample.com": "",
	} {
		r := request(t, http.MethodGet, g.url(), nil)
		r.Host = host
		res, body := do(t, client(t), r)
		if want == "" && res.StatusCode != http.StatusNotFound || want != "" && body != want {
			t.Errorf("%s: %s %q, want %q", host, res.Status, body, want)
		}
	}
	r := request(t, http.MethodGet, "http://"+g.addrOf("localhost:0"), nil)
	r.Host = "whatever"
	if _, body := do(t, client(t), r); body != "exact" {
		t.Errorf("a route without hosts takes all: %q", body)
	}
}

func TestCheckRefuses(t *testing.T) {
	ok := route1("shop", "127.0.0.1:80", "127.0.0.1:1", "a")
	with := func(f func(*Route)) Route {
		r := ok
		r.Backends = []Backend{{Release: 1, Weight: 100, Endpoints: ends("127.0.0.1:1")}}
		f(&r)
		return r
	}
	for name, c := range map[string]struct {
		routes []Route
		want   string // "" where it is fine
	}{
		"nothing":            {nil, ""},
		"one":                {[]Route{ok}, ""},
		"no traffic":         {[]Route{with(func(r *Route) { r.Backends[0].Weight = 0 })}, ""},
		"other host":         {[]Route{ok, route1("b", ok.Listen, "127.0.0.1:1", "b")}, ""},
		"all beside one":     {[]Route{ok, route1("b", ok.Listen, "127.0.0.1:1")}, ""},
		"listen":             {[]Route{with(func(r *Route) { r.Listen = "80" })}, "missing port"},
		"the same host":      {[]Route{ok, route1("b", ok.Listen, "127.0.0.1:1", "x", "a")}, "a on 127.0.0.1:80 already goes to shop@prod"},
		"everything twice":   {[]Route{route1("a", ":80", "127.0.0.1:1"), route1("b", ":80", "127.0.0.1:1")}, "everything on :80 already"},
		"two routes":         {[]Route{ok, route1("shop", ":81", "127.0.0.1:1")}, "shop@prod has two routes"},
		"sum of 99":          {[]Route{with(func(r *Route) { r.Backends[0].Weight = 99 })}, "sum to 99"},
		"sum of 150":         {[]Route{with(func(r *Route) { r.Backends = append(r.Backends, Backend{Release: 2, Weight: 50}) })}, "sum to 150"},
		"below 0":            {[]Route{with(func(r *Route) { r.Backends[0].Weight = -1 })}, "weight -1"},
		"below 0, sum right": {[]Route{with(func(r *Route) { r.Backends = []Backend{{Weight: 101}, {Weight: -1}} })}, "weight 101"},
		"endpoint":           {[]Route{with(func(r *Route) { r.Backends[0].Endpoints[0].Addr = "nowhere" })}, "nowhere"},
	} {
		err := (&Table{Routes: c.routes}).Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func readTable(t *testing.T, d home.Dirs) string {
	t.Helper()
	b, err := os.ReadFile(d.Table())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever is wrong with a table, the old one stays in force and on disk, and nothing is left open.
func TestRefusedTableChangesNothing(t *testing.T) {
	g := newRig(t, says("old"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before := readTable(t, g.dirs)
	for name, c := range map[string]struct {
		bad  Route
		kind fail.Kind
	}{
		"address in use":  {route1("b", taken.Addr().String(), "127.0.0.1:1"), fail.Preflight},
		"no such address": {route1("b", "192.0.2.1:1", "127.0.0.1:1"), fail.Preflight},
		"no such port":    {route1("b", "127.0.0.1:x", "127.0.0.1:1"), fail.Preflight},
		"name too long":   {route1(strings.Repeat("b", 200), "localhost:0", "127.0.0.1:1"), fail.Internal},
		"check":           {route1("b", anyPort, "127.0.0.1:1"), fail.Usage},
	} {
		next := Table{Routes: append([]Route{route1("new", "localhost:0", "127.0.0.1:1", "new")}, append(g.s.last.Routes, c.bad)...)}
		if _, err := g.s.Set(next); fail.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if now := readTable(t, g.dirs); now != before {
			t.Errorf("%s: the table on disk is now %s", name, now)
		}
		if len(g.s.listeners) != 1 {
			t.Errorf("%s: %d listeners are open", name, len(g.s.listeners))
		}
		if _, body := get(t, client(t), g.url()); body != "old" {
			t.Errorf("%s: %q answers", name, body)
		}
	}
	// A table that cannot be stored is not put in force either.
	edgeDir := g.dirs.Table()[:strings.LastIndexByte(g.dirs.Table(), '/')]
	if err := os.Rename(edgeDir, edgeDir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.s.Set(Table{Routes: []Route{route1("new", "localhost:0", "127.0.0.1:1")}}); err == nil || len(g.s.listeners) != 1 {
		t.Errorf("no place to store: %v, %d listeners", err, len(g.s.listeners))
	}
	if _, body := get(t, client(t), g.url()); body != "old" {
		t.Errorf("no place to store: %q answers", body)
	}
}

func TestListenerIsReleased(t *testing.T) {
	g := newRig(t, says("a"))
	addr := g.addr()
	g.set(Table{})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the address is still held: %v", err)
	}
	l.Close()
	g.set(oneRoute(serveOn(t, says("b"))))
	if _, body := get(t, client(t), g.url()); body != "b" {
		t.Errorf("%q", body)
	}
}

func TestTableIsRestored(t *testing.T) {
	g := newRig(t, says("kept"))
	gen := g.set(*g.s.last)
	g.s.Shut(time.Second)
	g.lock.Close()
	again := startEdge(t, g.dirs)
	if _, body := get(t, client(t), again.url()); body != "kept" {
		t.Errorf("%q", body)
	}
	c := NewClient(g.dirs.Sock(home.Edge))
	if info, err := c.Info(t.Context()); err != nil || info.Generation != gen || info.PID != os.Getpid() || info.Version != "test" {
		t.Errorf("%+v %v", info, err)
	}
	table, err := c.Table(t.Context())
	if err != nil || table.Find("shop", "prod") == nil || table.Find("shop", "test") != nil {
		t.Fatalf("%+v %v", table, err)
	}
	if next, err := c.Set(t.Context(), table); err != nil || next != gen+1 {
		t.Errorf("generation %d after %d: %v", next, gen, err)
	}
	if _, err := c.Set(t.Context(), Table{Routes: []Route{{Listen: "x"}}}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a bad table over the socket: %v", err)
	}
	// A damaged table must not keep the edge from starting.
	again.s.Shut(0)
	again.lock.Close()
	if err := os.WriteFile(g.dirs.Table(), []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := startEdge(t, g.dirs); third.set(*g.s.last) <= gen+1 {
		t.Error("the generation went back")
	}
}

// A request sees one table or the other, never half of one.
func TestSwapsUnderLoad(t *testing.T) {
	g := newRig(t)
	var tables [2]Table
	for i := range tables {
		name := fmt.Sprint("v", i)
		a, b := serveOn(t, says(name)), serveOn(t, says(name))
		tables[i] = oneRoute(a, b)
		tables[i].Routes[0].Backends[0].Release = i + 1
	}
	g.set(tables[0])
	stop, wg := make(chan bool), sync.WaitGroup{}
	var sent, bad atomic.Int64
	for range 8 {
		c := client(t)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Post(g.url(), "text/plain", strings.NewReader("x"))
				sent.Add(1)
				if err != nil {
					bad.Add(1)
					continue
				}
				if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || string(b) != "v0" && string(b) != "v1" {
					bad.Add(1)
				}
				res.Body.Close()
			}
		})
	}
	for i := range 1000 {
		g.set(tables[(i+1)%2])
	}
	close(stop)
	wg.Wait()
	got := g.settled(uint64(sent.Load()))
	if bad.Load() != 0 || got.Failed+got.Aborted != 0 {
		t.Errorf("%d of %d went wrong; counted %d failed", bad.Load(), sent.Load(), got.Failed)
	}
	var in Counts
	for rel := 1; rel <= 2; rel++ {
		for inst := 1; inst <= 2; inst++ {
			c := g.counts(rel, inst)
			in = in.Add(c)
			if c.Requests == 0 || c.Open != 0 {
				t.Errorf("instance %d.%d: %d requests, %d open", rel, inst, c.Requests, c.Open)
			}
		}
	}
	if in.Requests != got.Requests {
		t.Errorf("the instances counted %d, the route %d", in.Requests, got.Requests)
	}
}

func TestWeights(t *testing.T) {
	g := startEdge(t, newDirs(t))
	st := g.s.stats
	var backs []*backend
	for i, w := range []int{5, 25, 70, 0} {
		s, err := st.slot(slotKey{"w", "prod", i + 1, 1})
		if err != nil {
			t.Fatal(err)
		}
		backs = append(backs, &backend{release: i + 1, weight: w, endpoints: []*endpoint{{addr: fmt.Sprint(i), slot: s, state: &endpointState{}}}})
	}
	// A release without instances gets nothing, and its share goes to the others.
	backs = append(backs, &backend{release: 9, weight: 30})
	const n = 10_000
	got := map[string]int{}
	for range n {
		got[twoChoices(draw(backs, anywhere, true).endpoints, st).addr]++
	}
	// Five standard deviations of a binomial draw: wrong once in a million runs.
	for addr, c := range map[string]struct{ want, off int }{"0": {500, 110}, "1": {2500, 220}, "2": {7000, 230}, "3": {0, 0}} {
		if d := got[addr] - c.want; d > c.off || d < -c.off {
			t.Errorf("release %s got %d of %d, want %d", addr, got[addr], n, c.want)
		}
	}
	if draw(backs[3:], anywhere, true) != nil || draw(nil, anywhere, true) != nil {
		t.Error("somebody was picked of nobody")
	}
}

func TestLessBusyOfTwo(t *testing.T) {
	g := startEdge(t, newDirs(t))
	st := g.s.stats
	var list []*endpoint
	for i := range 3 {
		s, err := st.slot(slotKey{"b", "prod", 1, i + 1})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &endpoint{addr: fmt.Sprint(i), slot: s, state: &endpointState{}})
	}
	for range 3 {
		st.begin(list[0].slot)
	}
	st.begin(list[1].slot)
	count := func() (n [3]int) {
		for range 3000 {
			e := twoChoices(list, st)
			n[e.addr[0]-'0']++
		}
		return n
	}
	// Of each pair the less busy one is taken: the busiest never, the idle one whenever it is drawn (two pairs of three).
	if n := count(); n[0] != 0 || n[2] < 1800 || n[2] > 2200 {
		t.Errorf("%v", n)
	}
	// One that took no connection lately is the last resort.
	list[2].state.avoid(time.Now().Add(time.Hour))
	if n := count(); n[2] != 0 {
		t.Errorf("avoided, and yet: %v", n)
	}
	list[1].state.avoid(time.Now().Add(time.Hour))
	if n := count(); n[0] != 3000 {
		t.Errorf("only one is not avoided: %v", n)
	}
}
