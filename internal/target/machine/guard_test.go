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

func TestGuardOf(t *testing.T) {
	for text, want := range map[string]*edge.Guard{
		"":                                 nil,
		"route: {listen: ':80'}":           nil,
		"route: {timeouts: {request: 0s}}": nil,
		"route: {timeouts: {request: 30s, try: 2s}}":  {Request: 30 * time.Second, Try: 2 * time.Second},
		"route: {eject: {slower: 3, for: 1m}}":        {Eject: edge.Eject{Failures: 5, For: time.Minute, Slower: 3}},
		"route: {eject: {}}":                          {Eject: edge.Eject{Failures: 5, For: 10 * time.Second}},
		"route: {concurrency: {limit: 20}}":           {Concurrency: edge.Concurrency{Limit: 20, Queue: 100, Wait: 2 * time.Second}},
		"route: {concurrency: {limit: auto}}":         {Concurrency: edge.Concurrency{Auto: true, Queue: 100, Wait: 2 * time.Second}},
		"route: {concurrency: {limit: 20, queue: 0}}": {Concurrency: edge.Concurrency{Limit: 20, Wait: 2 * time.Second}},
		"route: {rate: [{limit: 100/s}, {limit: 30/min, burst: 5, by: 'header:X-Key'}, {limit: 90/min, by: route}]}": {Rates: []edge.Rate{
			{Requests: 100, Per: time.Second, Burst: 100, By: "client"},
			{Requests: 30, Per: time.Minute, Burst: 5, By: "header:X-Key"},
			{Requests: 90, Per: time.Minute, Burst: 1, By: "route"}}},
		"route: {body: 10MiB, allow: [10.0.0.0/8, '2001:db8::/32', 192.0.2.7]}": {Body: 10 << 20,
			Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.7/32")}},
	} {
		s, err := spec.Parse("f.yaml", []byte("service: shop\n"+text), "/srv", "")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		// As it travels: to the release's folder, and in the table to the edge.
		b, err := json.Marshal(routingOf(s))
		if err != nil {
			t.Fatal(err)
		}
		var got routing
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Guard, want) {
			t.Errorf("%s is %s (%v)", text, b, err)
		}
		table := edge.Table{Routes: []edge.Route{{Service: "shop", Listen: "127.0.0.1:80", Guard: got.Guard}}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
