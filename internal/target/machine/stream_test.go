package machine

import (
	"reflect"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

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
		s, err := spec.Parse("f.yaml", []byte("service: shop\nroute: "+c.text), "/srv", "")
		if err != nil {
			t.Fatal(err)
		}
		r := RouteOf(s, "prod", ":443")
		if !reflect.DeepEqual(r.Stream, c.want) || r.Redirect != c.redirect || (r.TLS != nil) != c.tls {
			t.Errorf("%s: %+v, sent on from %q, TLS of the edge's %v", c.text, r.Stream, r.Redirect, r.TLS != nil)
		}
		table := edge.Table{Routes: []edge.Route{r}}
		if err := table.Check(); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
	}
}
