package machine

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

func TestAccessLogOf(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for text, want := range map[string]*edge.Access{
		"":                        nil,
		"route: {access_log: {}}": {Sample: 100, Slow: time.Second, Size: 256 << 20, Age: week},
		"route: {access_log: {sample: 0.5%, slow: 0s, query: true, headers: [User-Agent], size: 1GiB, age: 1d}}": {Sample: 0.5, Query: true,
			Headers: []string{"User-Agent"}, Size: 1 << 30, Age: 24 * time.Hour},
		"route: {access_log: {sample: 0%}}": {Slow: time.Second, Size: 256 << 20, Age: week},
	} {
		s, err := spec.Parse("f.yaml", []byte("service: shop\n"+text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		// As it travels to the release's folder and to the edge.
		b, err := json.Marshal(routingOf(s))
		if err != nil {
			t.Fatal(err)
		}
		var got routing
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Access, want) {
			t.Errorf("%s is %s (%v)", text, b, err)
		}
		table := edge.Table{Routes: []edge.Route{{Service: "shop", Listen: "127.0.0.1:80", Access: got.Access}}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestTracesOf(t *testing.T) {
	for text, want := range map[string]*edge.Traces{
		"": nil,
		"route: {traces: {endpoint: 'http://127.0.0.1:4318'}}":          {Endpoint: "http://127.0.0.1:4318", Sample: 100},
		"route: {traces: {endpoint: 'http://[::1]/below', sample: 0%}}": {Endpoint: "http://[::1]/below"},
		"route: {traces: {endpoint: 'https://a:4318', sample: 0.125%}}": {Endpoint: "https://a:4318", Sample: 0.125},
	} {
		s, err := spec.Parse("f.yaml", []byte("service: shop\n"+text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(routingOf(s))
		if err != nil {
			t.Fatal(err)
		}
		var got routing
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Traces, want) {
			t.Errorf("%s is %s (%v)", text, b, err)
		}
		table := edge.Table{Routes: []edge.Route{{Service: "shop", Listen: "127.0.0.1:80", Traces: got.Traces}}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestHedgeOf(t *testing.T) {
	for text, want := range map[string]*edge.Hedge{
		"":                             nil,
		"route: {hedge: {after: p95}}": {Percentile: 95},
		"route: {hedge: {after: 50ms}, timeouts: {try: 1s}}": {After: 50 * time.Millisecond},
	} {
		s, err := spec.Parse("f.yaml", []byte("service: shop\n"+text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(routingOf(s))
		if err != nil {
			t.Fatal(err)
		}
		var got routing
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Hedge, want) {
			t.Errorf("%s is %s (%v)", text, b, err)
		}
		table := edge.Table{Routes: []edge.Route{{Service: "shop", Listen: "127.0.0.1:80", Hedge: got.Hedge}}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
