//go:build unix

package edge

import (
	"strings"
	"testing"
)

func TestStreamsThatCannotBe(t *testing.T) {
	one := func(change func(*Route)) []Route {
		r := oneRoute().Routes[0]
		r.Stream = &Stream{}
		change(&r)
		return []Route{r}
	}
	http := Route{Service: "bank", Environment: "prod", Listen: anyPort, Hosts: []string{"bank.test"}}
	local := &TLS{}
	local.Kind = "local"
	for _, c := range []struct {
		routes []Route
		says   string
	}{
		{one(func(r *Route) { r.Hosts = []string{"a"} }), "hosts that nobody names"},
		{one(func(r *Route) { r.Stream.Passthrough, r.TLS = true, local }), "TLS of the edge's"},
		{one(func(r *Route) { r.Paths = []string{"/a"} }), "something of requests"},
		{one(func(r *Route) { r.Sticky = "cookie:a" }), "something of requests"},
		{one(func(r *Route) { r.Headers.Request.Remove = []string{"A"} }), "something of requests"},
		{one(func(r *Route) { r.Guard = &Guard{Request: 1} }), "limits of requests"},
		{one(func(r *Route) { r.Guard = &Guard{Rates: []Rate{{1, 1, 1, "header:a"}}} }), "limits of requests"},
		{one(func(r *Route) { r.Stream.Introduce = 3 }), "unknown PROXY protocol"},
		{one(func(r *Route) { r.TLS, r.Redirect = local, ":80" }), "a redirection"},
		{append(one(func(*Route) {}), http), "as plain TCP names no host: bank@prod"},
		{append(one(func(r *Route) { r.Stream.Passthrough = true }), http), "with TLS for one service and without"},
		{append(one(func(r *Route) { r.Hosts, r.TLS = []string{"bank.test"}, local }), Route{Service: "bank", Environment: "prod", Listen: anyPort, Hosts: http.Hosts, TLS: local, Paths: []string{"/x"}}), "nobody reads paths there"},
	} {
		table := Table{Routes: c.routes}
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}
