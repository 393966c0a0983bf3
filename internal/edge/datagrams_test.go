package edge

import (
	"strings"
	"testing"
)

func TestDatagramsThatCannotBe(t *testing.T) {
	one := func(change func(*Route)) []Route {
		r := Route{Service: "dns", Environment: "prod", Listen: ":53", Datagrams: &Datagrams{}}
		change(&r)
		return []Route{r}
	}
	local := &TLS{}
	local.Kind = "local"
	beside := func(listen string, change func(*Route)) []Route {
		o := Route{Service: "shop", Environment: "prod", Listen: listen}
		change(&o)
		return append(one(func(*Route) {}), o)
	}
	udp := func(r *Route) { r.Datagrams = &Datagrams{} }
	quick := func(r *Route) { r.TLS, r.HTTP3 = local, true }
	for _, c := range []struct {
		routes []Route
		says   string // "" for nothing
	}{
		{one(func(r *Route) { r.Datagrams.Idle = -1 }), "a negative time"},
		{one(func(r *Route) { r.Datagrams.Drain = -1 }), "a negative time"},
		{one(func(r *Route) { r.TLS = local }), "something of connections"},
		{one(func(r *Route) { r.Stream = &Stream{} }), "something of connections"},
		{one(func(r *Route) { r.Introduced = true }), "something of connections"},
		{one(func(r *Route) { r.Mode = "kernel" }), "something of connections"},
		{one(func(r *Route) { r.Hosts = []string{"a"} }), "hosts that nobody names"},
		{one(func(r *Route) { r.Paths = []string{"/a"} }), "something of requests"},
		{one(func(r *Route) { r.Sticky = "cookie:a" }), "something of requests"},
		{one(func(r *Route) { r.Mirror = 5 }), "something of requests"},
		{one(func(r *Route) { r.Guard = &Guard{Body: 1} }), "limits of requests"},
		{one(func(r *Route) { r.Guard = &Guard{Rates: []Rate{{1, 1, 1, "header:a"}}} }), "limits of requests"},
		{beside(":53", udp), "as they name no host: shop@prod"},
		{beside("127.0.0.1:53", udp), "as they name no host: shop@prod"},
		{beside(":53", quick), "answered over HTTP/3 at the UDP port of :53"},
		{beside("192.0.2.1:53", quick), "answered over HTTP/3"},
		{beside(":54", quick), ""},
		{beside(":54", udp), ""},
		{beside(":53", func(*Route) {}), ""},
		{beside(":53", func(r *Route) { r.TLS = local }), ""},
		{beside(":53", func(r *Route) { r.Stream = &Stream{} }), ""},
		{beside(":53", func(r *Route) { r.Mode = "kernel" }), ""},
		{one(func(r *Route) { r.Sticky, r.Guard = "client", &Guard{Concurrency: Concurrency{Limit: 1}} }), ""},
	} {
		table := Table{Routes: c.routes}
		if err := table.Check(); c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}
