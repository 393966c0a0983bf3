//go:build unix

package edge

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spanStore is a collector that takes OTLP over HTTP. It refuses what is none.
type spanStore struct {
	t   testing.TB
	url string

	mu       sync.Mutex
	spans    []*trace.Span
	resource map[string]string // of the last ones
	batches  int
}

func newSpanStore(t *testing.T) *spanStore {
	c := &spanStore{t: t}
	c.url = "http://" + serveOn(t, c.ServeHTTP)
	return c
}

// ServeHTTP implements [http.Handler].
func (c *spanStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	all := decodeSpans(c.t, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches++
	for _, of := range all.GetResourceSpans() {
		c.resource = words(of.GetResource().GetAttributes())
		for _, s := range of.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func decodeSpans(t testing.TB, r *http.Request) *trace.TracesData {
	z, err := gzip.NewReader(r.Body)
	if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v %v", r.Header, err)
		return nil
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Error(err)
	}
	var all trace.TracesData
	if err := proto.Unmarshal(b, &all); err != nil {
		t.Error(err)
	}
	return &all
}

// words are attributes as text.
func words(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			out[kv.GetKey()] = fmt.Sprintf("%T", v)
		}
	}
	return out
}

// wait returns the spans once there are n, those that began first at the front.
func (c *spanStore) wait(n int) []*trace.Span {
	c.t.Helper()
	var out []*trace.Span
	eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		out = slices.Clone(c.spans)
		return len(out) >= n
	})
	if len(out) != n {
		c.t.Fatalf("%d spans, want %d: %v", len(out), n, out)
	}
	slices.SortStableFunc(out, func(a, b *trace.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	return out
}

func (c *spanStore) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = nil
}

// spans starts a collector to which the spans of all that g serves at addrs go, with little delay.
func (g *rig) spans(sample float64, addrs ...string) (*spanStore, Table) {
	c := newSpanStore(g.t.(*testing.T))
	g.s.proxy.exporters.every = 5 * time.Millisecond
	t := oneRoute(addrs...)
	t.Routes[0].Traces = &Traces{Endpoint: c.url, Sample: sample}
	g.set(t)
	return c, t
}
