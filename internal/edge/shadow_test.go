//go:build unix

package edge

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// two is a table with release 1, which has all traffic, and release 2, which has none.
func two(t *testing.T, old, fresh http.HandlerFunc) Table {
	t.Helper()
	table := oneRoute(serveOn(t, old))
	table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Endpoints: ends(serveOn(t, fresh))})
	return table
}

// ask sends a request and returns status and body.
func (g *rig) ask(method, host string, header http.Header) (int, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url()+"/x", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Host, r.Header = host, header
	code, body, _ := g.do(r)
	return code, body
}

// do sends a request and returns the answer's status, body and header.
func (g *rig) do(r *http.Request) (int, string, http.Header) {
	g.t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func TestPreviewShowsTheNewestRelease(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := two(t, says("old"), says("new"))
	r := &table.Routes[0]
	r.Hosts = []string{"shop.example.com"}
	r.Preview = Preview{Host: "next.example.com", Header: Header{Name: "X-Preview", Value: "yes"}}
	g.set(table)
	for _, c := range []struct {
		host, header, want string
	}{
		{"shop.example.com", "", "old"},
		{"next.example.com", "", "new"},
		{"Next.Example.com:8080", "", "new"},
		{"shop.example.com", "yes", "new"},
		{"shop.example.com", "no", "old"},
	} {
		h := http.Header{}
		if c.header != "" {
			h.Set("X-Preview", c.header)
		}
		if _, got := g.ask(http.MethodGet, c.host, h); got != c.want {
			t.Errorf("%+v: %q answered", c, got)
		}
	}
	r.Preview = Preview{Table: map[string][]string{"X-Country": {"NZ", "AU"}, "X-Plan": {"beta"}}}
	g.set(table)
	for values, want := range map[string]string{"NZ ": "new", "AU x": "new", "DE beta": "new", "DE x": "old", "nz ": "old", " ": "old"} {
		country, plan, _ := strings.Cut(values, " ")
		if _, got := g.ask(http.MethodGet, "shop.example.com", http.Header{"X-Country": {country}, "X-Plan": {plan}}); got != want {
			t.Errorf("%s: %q answered", values, got)
		}
	}
	for network, want := range map[string]string{"127.0.0.0/8": "new", "10.0.0.0/8": "old"} {
		r.Preview = Preview{Clients: []netip.Prefix{netip.MustParsePrefix(network)}}
		g.set(table)
		if _, got := g.ask(http.MethodGet, "shop.example.com", nil); got != want {
			t.Errorf("%s: %q answered", network, got)
		}
	}
	r.Preview = Preview{Host: "next.example.com"}
	r.Backends = r.Backends[:1] // nothing newer: the preview shows what there is
	g.set(table)
	if _, got := g.ask(http.MethodGet, "next.example.com", nil); got != "old" {
		t.Errorf("alone, %q answers the preview", got)
	}
	table.Routes = append(table.Routes, Route{Service: "other", Listen: anyPort, Hosts: []string{"next.example.com"}})
	if err := table.Check(); err == nil || !strings.Contains(err.Error(), "next.example.com") {
		t.Errorf("two services have the preview's host: %v", err)
	}
}

func TestMirrorCopiesWhatDoesNoHarm(t *testing.T) {
	var copies atomic.Int64
	g := startEdge(t, newDirs(t))
	table := two(t,
		func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) },
		func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Fairlead-Mirror") == "" || r.Header.Get("X-Forwarded-For") == "" || r.URL.Path != "/x" {
				t.Errorf("%s %v", r.URL, r.Header)
			}
			if copies.Add(1)%2 == 0 {
				w.WriteHeader(http.StatusTeapot)
			}
		})
	table.Routes[0].Mirror = 100
	g.set(table)
	for range 10 {
		if code, _ := g.ask(http.MethodGet, "", nil); code != http.StatusOK {
			t.Errorf("a client got %d", code)
		}
	}
	g.ask(http.MethodPost, "", nil)
	for end := time.Now().Add(patience); g.counts(2, 1).Mirrored < 10 && time.Now().Before(end); {
	}
	c := g.counts(2, 1)
	if copies.Load() != 10 || c.Requests != 10 || c.Mirrored != 10 || c.Differed != 5 || c.Failed != 0 {
		t.Errorf("%d copies of 10 requests and a POST, counted %+v", copies.Load(), c)
	}
	if c := g.settled(11); c.Requests != 11 || c.Mirrored != 0 {
		t.Errorf("the route counted the copies: %+v", c)
	}

	table.Routes[0].Backends[0].Weight, table.Routes[0].Backends[1].Weight = 50, 50 // it has traffic of its own now
	g.set(table)
	for range 10 {
		g.ask(http.MethodGet, "", http.Header{"X-Fairlead-Mirror": {"1"}})
	}
	if c := g.counts(2, 1); c.Mirrored != 10 {
		t.Errorf("%d copies", c.Mirrored)
	}
}

// A copy that hangs costs no client anything, and there are never too many of them.
func TestMirrorThatHangs(t *testing.T) {
	stop := make(chan struct{})
	var hanging atomic.Int64
	g := startEdge(t, newDirs(t))
	table := two(t, says("old"), func(http.ResponseWriter, *http.Request) {
		hanging.Add(1)
		<-stop
	})
	t.Cleanup(func() { close(stop) })
	table.Routes[0].Mirror = 100
	g.set(table)
	for range maxShadows + 50 {
		if _, got := g.ask(http.MethodGet, "", nil); got != "old" {
			t.Fatal(got)
		}
	}
	if n := hanging.Load(); n > maxShadows {
		t.Errorf("%d copies hang", n)
	}
}

func TestFaults(t *testing.T) {
	g := newRig(t, says("fine"))
	table := oneRoute(serveOn(t, says("fine")))
	table.Routes[0].Backends[0].Faults = []Fault{
		{Share: 100, Header: Header{Name: "X-Chaos", Value: "fail"}, Abort: 503, Reason: "on purpose"},
		{Share: 100, Header: Header{Name: "X-Chaos", Value: "late"}, Delay: 300 * time.Millisecond},
	}
	g.set(table)
	if code, body := g.ask(http.MethodGet, "", nil); code != 200 || body != "fine" {
		t.Errorf("%d %q", code, body)
	}
	if code, body := g.ask(http.MethodGet, "", http.Header{"X-Chaos": {"fail"}}); code != 503 || body != "on purpose\n" {
		t.Errorf("%d %q", code, body)
	}
	begun := time.Now()
	if code, body := g.ask(http.MethodGet, "", http.Header{"X-Chaos": {"late"}}); code != 200 || body != "fine" || time.Since(begun) < 300*time.Millisecond {
		t.Errorf("%d %q after %v", code, body, time.Since(begun))
	}
	if c := g.settled(3); c.Failed != 1 {
		t.Errorf("%+v", c)
	}
	table.Routes[0].Backends[0].Faults = []Fault{{Share: 30, Abort: 500}}
	g.set(table)
	failed := 0
	for range 500 {
		if code, _ := g.ask(http.MethodGet, "", nil); code == 500 {
			failed++
		}
	}
	if failed < 100 || failed > 200 {
		t.Errorf("%d of 500 failed, at 30 %%", failed)
	}
	for _, f := range []Fault{{}, {Share: 101, Abort: 500}, {Share: 1, Abort: 200}, {Share: 1, Delay: -1}} {
		table.Routes[0].Backends[0].Faults = []Fault{f}
		if table.Check() == nil {
			t.Errorf("%+v is taken", f)
		}
	}
}
