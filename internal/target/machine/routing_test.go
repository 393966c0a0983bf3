package machine

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// sent is a spec's route as it travels to the release's folder and on to the edge, which takes it.
func sent(t *testing.T, text string) edge.Route {
	t.Helper()
	s, err := spec.Parse("f.yaml", []byte("service: shop\n"+text), "/srv", "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(routingOf(s))
	if err != nil {
		t.Fatal(err)
	}
	var got routing
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	r := got.at("shop", "prod", ":443")
	if err := (&edge.Table{Routes: []edge.Route{r}}).Check(); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return r
}

func TestRoutesOf(t *testing.T) {
	const day = 24 * time.Hour
	everyRequest := &edge.Access{Sample: 100, Slow: time.Second, Size: 256 << 20, Age: 7 * day}
	for text, want := range map[string]edge.Route{
		"":                 {},
		"{access_log: {}}": {Access: everyRequest},
		"{access_log: {sample: 0.5%, slow: 0s, query: true, headers: [User-Agent], size: 1GiB, age: 1d}}": {
			Access: &edge.Access{Sample: 0.5, Query: true, Headers: []string{"User-Agent"}, Size: 1 << 30, Age: day}},
		"{access_log: {sample: 0%}}": {Access: &edge.Access{Slow: time.Second, Size: 256 << 20, Age: 7 * day}},

		"{traces: {endpoint: 'http://127.0.0.1:4318'}}":          {Traces: &edge.Traces{Endpoint: "http://127.0.0.1:4318", Sample: 100}},
		"{traces: {endpoint: 'http://[::1]/below', sample: 0%}}": {Traces: &edge.Traces{Endpoint: "http://[::1]/below"}},
		"{traces: {endpoint: 'https://a:4318', sample: 0.125%}}": {Traces: &edge.Traces{Endpoint: "https://a:4318", Sample: 0.125}},

		"{hedge: {after: p95}}":                       {Hedge: &edge.Hedge{Percentile: 95}},
		"{hedge: {after: 50ms}, timeouts: {try: 1s}}": {Hedge: &edge.Hedge{After: 50 * time.Millisecond}, Guard: &edge.Guard{Try: time.Second}},

		"{compress: {}, cache: {}}": {Compress: &edge.Compress{Min: 1 << 10}, Cache: &edge.Cache{Size: 64 << 20, Object: 4 << 20, StaleIfError: time.Hour}},
		"{compress: {types: [text/*], min: 1B}, cache: {size: 1GiB, object: 1MiB, default: 10s, stale_if_error: 0s, across_releases: true}}": {
			Compress: &edge.Compress{Types: []string{"text/*"}, Min: 1}, Cache: &edge.Cache{Size: 1 << 30, Object: 1 << 20, Default: 10 * time.Second, Across: true}},

		"{methods: [GET, HEAD], header: 'X-A: b', unavailable: '<p>'}":                  {Methods: []string{"GET", "HEAD"}, Match: edge.Header{Name: "X-A", Value: "b"}, Page: "<p>"},
		"{redirects: [{from: /a, to: /b}, {from: /c/*, to: 'https://d/*', code: 308}]}": {Moved: []edge.Redirection{{From: "/a", To: "/b", Code: 302}, {From: "/c/*", To: "https://d/*", Code: 308}}},
		"{auth: {ask: 'http://127.0.0.1:1/', headers: [X-User]}}":                       {Guard: &edge.Guard{Auth: &edge.Auth{Ask: "http://127.0.0.1:1/", Headers: []string{"X-User"}, Timeout: 5 * time.Second}}},
		"{preview: {table: {X-A: [b, c]}, clients: [10.0.0.0/8]}}":                      {Preview: edge.Preview{Table: map[string][]string{"X-A": {"b", "c"}}, Clients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	} {
		if text != "" {
			text = "route: " + text
		}
		want.Service, want.Environment, want.Listen = "shop", "prod", ":443"
		if got := sent(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is\n%+v, not\n%+v", text, got, want)
		}
	}
}

func TestStreamOf(t *testing.T) {
	for _, c := range []struct {
		text     string
		want     *edge.Stream
		redirect string
		tls      bool
	}{
		{"{}", nil, "", false},
		{"{tls: local}", nil, ":80", true},
		{"{protocol: tcp}", &edge.Stream{Idle: time.Hour}, "", false},
		{"{protocol: tcp, tls: local, hosts: [a.b], timeouts: {idle: 0s}, send_proxy: v1}", &edge.Stream{Introduce: 1}, "", true},
		{"{tls: passthrough, hosts: [a.b], timeouts: {idle: 5m}, send_proxy: v2}", &edge.Stream{Passthrough: true, Introduce: 2, Idle: 5 * time.Minute}, "", false},
		{"{tls: passthrough, http: ':81'}", &edge.Stream{Passthrough: true, Idle: time.Hour}, ":81", false},
		{"{protocol: tcp, mode: kernel}", &edge.Stream{}, "", false},
	} {
		r := sent(t, "route: "+c.text)
		if !reflect.DeepEqual(r.Stream, c.want) || r.Redirect != c.redirect || (r.TLS != nil) != c.tls {
			t.Errorf("%s: %+v, sent on from %q, TLS of the edge's %v", c.text, r.Stream, r.Redirect, r.TLS != nil)
		}
	}
}

func TestDatagramsOf(t *testing.T) {
	for text, want := range map[string]*edge.Datagrams{
		"{}":                             nil,
		"{protocol: tcp}":                nil,
		"{protocol: udp}":                {Idle: 2 * time.Minute, Drain: 30 * time.Second},
		"{protocol: udp, listen: ':53'}": {Idle: 10 * time.Second, Drain: 30 * time.Second},
		"{protocol: udp, listen: ':53', timeouts: {idle: 0s}}":   {Drain: 30 * time.Second},
		"{protocol: udp, listen: ':1053', timeouts: {idle: 5s}}": {Idle: 5 * time.Second, Drain: 30 * time.Second},
	} {
		r := sent(t, "route: "+text)
		if !reflect.DeepEqual(r.Datagrams, want) || want != nil && r.Stream != nil {
			t.Errorf("%s: %+v %+v", text, r.Datagrams, r.Stream)
		}
	}
}
