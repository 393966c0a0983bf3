//go:build unix

package edge

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// quotes is an instance that answers with headers of its request.
func quotes(names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range names {
			io.WriteString(w, name+"="+strings.Join(r.Header.Values(name), "|")+" ")
		}
		w.Write(body)
	}
}

func TestPasswords(t *testing.T) { onBothPaths(t, testPasswords) }

func testPasswords(t *testing.T, client clients) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Auth: &Auth{Users: map[string]string{"alice": string(hash)}}}, serveOn(t, quotes("Authorization", userHeader))))
	for i, x := range []struct {
		name, password string
		want           int
	}{{"alice", "wrong", 401}, {"alice", "s3cret", 200}, {"alice", "s3cret", 200}, {"alice", "wrong", 401}, {"bob", "s3cret", 401}, {"alice", "", 401}, {"", "", 401}, {"alice", "s3cret" + strings.Repeat("x", 100), 401}} {
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set(userHeader, "mallory")
		if x.name != "" {
			r.SetBasicAuth(x.name, x.password)
		}
		res, body := do(t, client(t), r)
		if res.StatusCode != x.want || x.want == 401 && res.Header.Get("Www-Authenticate") != `Basic realm="shop", charset="UTF-8"` {
			t.Errorf("%d: %s %v", i, res.Status, res.Header)
		}
		if x.want == 200 && body != "Authorization= "+userHeader+"=alice " {
			t.Errorf("the instance got %q", body)
		}
	}
	if c := g.settled(8); c.Refused != 6 || c.Failed != 0 {
		t.Errorf("%+v", c)
	}
}

func TestAsked(t *testing.T) { onBothPaths(t, testAsked) }

func testAsked(t *testing.T, client clients) {
	hang := make(chan struct{})
	defer close(hang)
	verdict := serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		h := r.Header
		if body, _ := io.ReadAll(r.Body); r.Method != http.MethodGet || len(body) > 0 || h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X-Forwarded-Proto") != "http" {
			t.Errorf("asked by %s with %q: %v", r.Method, body, h)
		}
		switch h.Get("X-Forwarded-Uri") {
		case "/in?q=1":
			w.Header().Set("X-User", "alice")
			w.Header().Set("X-Method", h.Get("X-Forwarded-Method")+" "+h.Get("Cookie"))
		case "/out":
			w.Header().Set("Location", "https://login.example.com/?from="+h.Get("X-Forwarded-Host"))
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusFound)
			io.WriteString(w, "go there")
		case "/hang":
			<-hang
		case "/long":
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, strings.Repeat("x", maxVerdict+1))
		}
	})
	g := startEdge(t, newDirs(t))
	auth := &Auth{Ask: "http://" + verdict + "/verify", Headers: []string{"X-User", "X-Method"}, Timeout: patience}
	in := serveOn(t, quotes("X-User", "X-Method"))
	g.set(guardedRoute(Guard{Auth: auth}, in))
	c := client(t)
	ask := func(method, path, body string) (*http.Response, string) {
		r := request(t, method, g.url()+path, strings.NewReader(body))
		r.Header.Set("X-User", "mallory")
		r.Header.Set("X-Forwarded-Method", "mallory")
		r.Header.Set("X-Forwarded-Proto", "mallory")
		r.Header.Set("Cookie", "session=5")
		return do(t, c, r)
	}
	if res, body := ask(http.MethodPost, "/in?q=1", "the body"); res.StatusCode != http.StatusOK || body != "X-User=alice X-Method=POST session=5 the body" {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, body := ask(http.MethodGet, "/unnamed", ""); res.StatusCode != http.StatusOK || body != "X-User= X-Method= " {
		t.Errorf("what the client said of itself reached the instance: %s %q", res.Status, body)
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, body := ask(http.MethodGet, "/out", "")
	if res.StatusCode != http.StatusFound || body != "go there" || !strings.HasPrefix(res.Header.Get("Location"), "https://login.example.com/?from=127.0.0.1:") || len(res.Header.Values("Set-Cookie")) != 2 || len(res.Header.Values("Date")) != 1 {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	for path, timeout := range map[string]time.Duration{"/hang": 200 * time.Millisecond, "/long": patience} {
		brief := *auth
		brief.Timeout = timeout
		g.set(guardedRoute(Guard{Auth: &brief}, in))
		if res, body := ask(http.MethodGet, path, ""); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "route.auth") {
			t.Errorf("%s: %s %q", path, res.Status, body)
		}
	}
	if n := g.settled(5); n.Refused != 3 || n.Failed != 0 {
		t.Errorf("%+v", n)
	}
	auth.Ask = "http://127.0.0.1:1/"
	g.set(guardedRoute(Guard{Auth: auth}, serveOn(t, quotes())))
	if res, _ := ask(http.MethodGet, "/in?q=1", ""); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("nobody was asked, and the answer is %s", res.Status)
	}
}

// Of a client that leaves meanwhile nobody is asked any more.
func TestAskedOfWhoLeaves(t *testing.T) { onBothPaths(t, testAskedOfWhoLeaves) }

func testAskedOfWhoLeaves(t *testing.T, client clients) {
	asked, left, over := make(chan bool, 1), make(chan bool, 1), make(chan struct{})
	defer close(over)
	verdict := serveOn(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- true
		select {
		case <-r.Context().Done():
			left <- true
		case <-over:
		}
	})
	g := startEdge(t, newDirs(t))
	g.set(guardedRoute(Guard{Auth: &Auth{Ask: "http://" + verdict, Timeout: time.Minute}}, serveOn(t, says("here"))))
	c := client(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url(), nil)
		if res, err := c.Do(r); err == nil {
			res.Body.Close()
		}
	}()
	receive(t, asked)
	cancel()
	receive(t, left)
	if n := g.settled(1); n.Refused+n.Aborted != 1 || n.Failed != 0 {
		t.Errorf("%+v", n)
	}
}

func TestMoved(t *testing.T) { onBothPaths(t, testMoved) }

func testMoved(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	table := oneRoute(serveOn(t, says("here")))
	table.Routes[0].Moved = []Redirection{{"/old", "/new", 301}, {"/docs/*", "https://docs.example.com/v2/*", 308}, {"/up/*", "/*", 302}, {"/all/*", "/one?a=b", 307}, {"/pre*", "/post*", 302}}
	g.set(table)
	c := client(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{
		"/old": "301 /new", "/old?x=1&y=%20": "301 /new?x=1&y=%20", "/old/": "", "/older": "", "/docs/a%2fb/c?q": "308 https://docs.example.com/v2/a%2fb/c?q", "/docs/": "308 https://docs.example.com/v2/",
		"/docs": "", "/up//evil.example/x": "302 /evil.example/x", "/up/%5cevil": "302 /%5cevil", "/all/of/it?q=1": "307 /one?a=b", "/prefix": "302 /postfix", "/": "",
	} {
		res, body := do(t, c, request(t, http.MethodGet, g.url()+path, nil))
		if got := strings.TrimSpace(res.Status[:3] + " " + res.Header.Get("Location")); got != cmp.Or(want, "200") || want == "" && body != "here" {
			t.Errorf("%s: %s %q, want %s", path, got, body, want)
		}
	}
	if n := g.settled(4); n.Requests != 4 {
		t.Errorf("what is elsewhere was counted: %+v", n)
	}
}

func TestPage(t *testing.T) { onBothPaths(t, testPage) }

func testPage(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	table := oneRoute()
	table.Routes[0].Stopped, table.Routes[0].Page = true, "<h1>back at noon</h1>"
	table.Routes[0].Backends = nil
	g.set(table)
	r := request(t, http.MethodGet, g.url(), nil)
	if res, body := do(t, client(t), r); res.StatusCode != http.StatusServiceUnavailable || body != "the service is stopped\n" {
		t.Errorf("%s %q", res.Status, body)
	}
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	if res, body := do(t, client(t), r); res.StatusCode != http.StatusServiceUnavailable || body != "<h1>back at noon</h1>" || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
}

func TestMatches(t *testing.T) { onBothPaths(t, testMatches) }

func testMatches(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	route := func(service string, paths, methods []string, h Header) Route {
		r := route1(service, anyPort, serveOn(t, says(service)), "127.0.0.1")
		r.Paths, r.Methods, r.Match = paths, methods, h
		return r
	}
	api := []string{"/api"}
	all := []Route{route("rest", nil, nil, Header{}), route("reads", api, []string{"GET", "HEAD"}, Header{}), route("writes", api, []string{"POST"}, Header{}),
		route("blue", api, nil, Header{"X-Tenant", "blue"}), route("any", api, nil, Header{"X-Tenant", ""}), route("bluest", api, []string{"PUT"}, Header{"X-Tenant", "blue"})}
	g.set(Table{Routes: all})
	for asked, want := range map[string]string{"GET /": "rest", "GET /api/x": "reads", "POST /api": "writes", "GET /api blue": "blue", "PUT /api blue": "bluest", "POST /api red": "any", "DELETE /api": "rest", "DELETE /api blue": "blue"} {
		w := strings.Fields(asked)
		r := request(t, w[0], g.url()+w[1], nil)
		if len(w) == 3 {
			r.Header.Set("x-tenant", w[2])
		}
		if res, body := do(t, client(t), r); body != want {
			t.Errorf("%s: %s %q, want %s", asked, res.Status, body, want)
		}
	}
	g.set(Table{Routes: all[1:4]})
	r := request(t, http.MethodDelete, g.url()+"/api/5", nil)
	if res, _ := do(t, client(t), r); res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	r.URL.Path = "/"
	if res, _ := do(t, client(t), r); res.StatusCode != http.StatusNotFound {
		t.Errorf("%s", res.Status)
	}
	twice := Table{Routes: []Route{all[1], route("other", api, []string{"HEAD"}, Header{})}}
	if err := twice.Check(); err == nil || !strings.Contains(err.Error(), "HEAD 127.0.0.1/api on") {
		t.Errorf("%v", err)
	}
}
