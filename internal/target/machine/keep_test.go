package machine

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

func TestKeptOf(t *testing.T) {
	for text, want := range map[string]edge.Route{
		"":                                 {},
		"route: {compress: {}, cache: {}}": {Compress: &edge.Compress{Min: 1 << 10}, Cache: &edge.Cache{Size: 64 << 20, Object: 4 << 20, StaleIfError: time.Hour}},
		"route: {compress: {types: [text/*], min: 1B}, cache: {size: 1GiB, object: 1MiB, default: 10s, stale_if_error: 0s, across_releases: true}}": {
			Compress: &edge.Compress{Types: []string{"text/*"}, Min: 1}, Cache: &edge.Cache{Size: 1 << 30, Object: 1 << 20, Default: 10 * time.Second, Across: true}},
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
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got.Cache, want.Cache) || !reflect.DeepEqual(got.Compress, want.Compress) {
			t.Errorf("%s is %s (%v)", text, b, err)
		}
		table := edge.Table{Routes: []edge.Route{{Service: "shop", Listen: "127.0.0.1:80", Cache: got.Cache, Compress: got.Compress}}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
