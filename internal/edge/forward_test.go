//go:build unix

package edge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/certs"
)

// tells is an instance that answers with its name and how the request reached it.
func tells(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", name)
		fmt.Fprintf(w, "%s %s prefix=%s for=%s proto=%s host=%s tenant=%s", name, r.URL.RequestURI(), r.Header.Get("X-Forwarded-Prefix"),
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Tenant"))
	}
}

// at asks the edge for a path and returns the answer's status, body and header.
func (g *rig) at(path string, header http.Header) (int, string, http.Header) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, g.url(), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	r.URL.Opaque, r.Header = path, header // as it stands there, dots and all
	r.Host = "shop.example.com"
	return g.do(r)
}

func TestPaths(t *testing.T) {
	g := startEdge(t, newDirs(t))
	on := func(service string, strip bool, paths ...string) Route {
		r := route1(service, anyPort, serveOn(t, tells(service)), "shop.example.com")
		r.Paths, r.Strip = paths, strip
		return r
	}
	g.set(Table{Routes: []Route{on("web", false), on("api", true, "/api", "/v2/api"), on("admin", false, "/api/admin/")}})
	for path, want := range map[string]string{
		"/":                      "web / prefix= ",
		"/apis":                  "web /apis prefix= ",
		"/api":                   "api / prefix=/api ",
		"/api/":                  "api / prefix=/api ",
		"/api/a%2Fb?c=d&e":       "api /a%2Fb?c=d&e prefix=/api ",
		"/v2/api/x":              "api /x prefix=/v2/api ",
		"/api/admin":             "admin /api/admin prefix= ",
		"/api/admin/x":           "admin /api/admin/x prefix= ",
		"/api/administer":        "api /administer prefix=/api ",
		"/web/../api/admin/x":    "admin /web/../api/admin/x prefix= ",
		"/api/../secret":         "web /api/../secret prefix= ",
		"/./api/x":               "api /./api/x prefix= ", // what is not written as it was found is not cut
		"/api/x/../../api/admin": "admin /api/x/../../api/admin prefix= ",
	} {
		if code, body, _ := g.at(path, nil); code != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
	alone := Table{Routes: []Route{on("api", false, "/api")}}
	g.set(alone)
	if code, _, _ := g.at("/elsewhere", nil); code != http.StatusNotFound {
		t.Errorf("a path that nobody has: %d", code)
	}
	alone.Routes = append(alone.Routes, on("other", false, "/x", "/api/"))
	if err := alone.Check(); err == nil || !strings.Contains(err.Error(), "shop.example.com/api on") {
		t.Errorf("two have one path: %v", err)
	}
	a, b := on("a", false), on("b", false, "/b")
	a.TLS, b.TLS = &TLS{Source: certs.Source{Kind: certs.Local}}, &TLS{Source: certs.Source{Kind: certs.Local}, Clients: "/x"}
	both := Table{Routes: []Route{a, b}}
	if err := both.Check(); err == nil || !strings.Contains(err.Error(), "a handshake knows no path") && !strings.Contains(err.Error(), "other certificates or clients") {
		t.Errorf("one host, two handshakes: %v", err)
	}
}

func TestHeadersAreChanged(t *testing.T) {
	g := startEdge(t, newDirs(t))
	r := route1("shop", anyPort, serveOn(t, tells("shop")))
	r.Headers = Headers{Request: Change{Set: map[string]string{"X-Tenant": "fixed"}}, Response: Change{Set: map[string]string{"Strict-Transport-Security": "max-age=1"}, Remove: []string{"server"}}}
	g.set(Table{Routes: []Route{r}})
	_, body, h := g.at("/", http.Header{"X-Tenant": {"forged"}})
	if !strings.HasSuffix(body, "tenant=fixed") || h.Get("Strict-Transport-Security") != "max-age=1" || h.Get("Server") != "" {
		t.Errorf("%q %v", body, h)
	}
}

// What a client says of itself does not count; what a trusted proxy says does.
func TestWhoTheClientIs(t *testing.T) {
	said := http.Header{"X-Forwarded-For": {"192.0.2.1, 198.51.100.7", "10.0.0.9"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example.com"}}
	g := startEdge(t, newDirs(t))
	r := route1("shop", anyPort, serveOn(t, tells("shop")))
	g.set(Table{Routes: []Route{r}})
	if _, body, _ := g.at("/", said); !strings.Contains(body, " for=127.0.0.1 proto=http host=shop.example.com ") {
		t.Errorf("from anybody: %q", body)
	}
	r.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	g.set(Table{Routes: []Route{r}})
	if _, body, _ := g.at("/", said); !strings.Contains(body, "10.0.0.9, 127.0.0.1 proto=https host=public.example.com ") {
		t.Errorf("from a trusted proxy: %q", body)
	}
	rt := &route{Route: r}
	for _, c := range []struct{ peer, said, want string }{
		{"203.0.113.5:1", "192.0.2.1", "203.0.113.5"},
		{"127.0.0.1:1", "192.0.2.1, 198.51.100.7, 10.0.0.9", "198.51.100.7"},
		{"127.0.0.1:1", "", "127.0.0.1"},
		{"127.0.0.1:1", "10.0.0.1", "10.0.0.1"},
		{"127.0.0.1:1", "192.0.2.1, nonsense", "127.0.0.1"},
		{"[::1]:1", "192.0.2.1", "::1"},
	} {
		in := httptest.NewRequest(http.MethodGet, "/", nil)
		in.RemoteAddr = c.peer
		in.Header.Set("X-Forwarded-For", c.said)
		if got := rt.client(in).String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
