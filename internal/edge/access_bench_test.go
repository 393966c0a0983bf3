//go:build unix

package edge

import (
	"io"
	"net/netip"
	"testing"
	"time"
)

// accessKinds are what a route may say of its access log.
var accessKinds = []struct {
	name   string
	access *Access
}{
	{"off", nil}, {"1%", &Access{Sample: 1, Slow: time.Second, Size: 64 << 20}},
	{"100%", &Access{Sample: 100, Size: 64 << 20, Headers: []string{"User-Agent", "X-Request-Id"}}},
}

// BenchmarkAccessLog is a request on a kept connection, with the log on a real disk.
func BenchmarkAccessLog(b *testing.B) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, kind := range accessKinds {
		b.Run(kind.name, func(b *testing.B) {
			g := startEdge(b, newDirs(b))
			g.s.proxy.access.open = kept(g.dirs)
			table := oneRoute(scripted(b, answer))
			table.Routes[0].Access = kind.access
			g.set(table)
			c := dialRaw(b, g.addr())
			c.SetDeadline(time.Time{})
			ask := []byte("GET /a/b?c=d HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench/1.0\r\nX-Request-Id: 0123456789\r\n\r\n")
			got := make([]byte, len(answer))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(ask); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c.r, got); err != nil {
					b.Fatal(err)
				}
			}
			if n := g.counts(0, 0).Unlogged; n > 0 {
				b.Errorf("%d lines were dropped", n)
			}
		})
	}
}

// fixed is a request that is always the same.
type fixed struct{}

func (fixed) told(*exchange) told {
	return told{method: "GET", host: "shop.example.com", target: "/a/b?c=d", version: "1.1", client: netip.AddrFrom4([4]byte{192, 0, 2, 7}),
		trace: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}
}

func (fixed) header(_ string, i int) (string, bool) { return "bench/1.0", i == 0 }

// nowhere takes every line.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

func recorded(t testing.TB, a *Access) (*proxy, *exchange) {
	p := &proxy{access: newAccessLog(func(string, string, int64, time.Duration) io.WriteCloser { return nowhere{} }, quiet())}
	t.Cleanup(p.access.close)
	rt := &route{Route: Route{Service: "shop", Environment: "prod", Access: a}, key: "shop@prod", stats: &slot{}}
	rt.access = compileAccess(&rt.Route)
	return p, &exchange{route: rt, start: time.Now(), gotHead: true, first: time.Millisecond, end: &endpoint{instance: 1, release: &backend{release: 3}}}
}

// BenchmarkRecord is what the log adds to a request.
func BenchmarkRecord(b *testing.B) {
	for _, kind := range accessKinds {
		b.Run(kind.name, func(b *testing.B) {
			p, ex := recorded(b, kind.access)
			o := outcome{status: 200, bytes: 2, took: time.Millisecond}
			b.ReportAllocs()
			for b.Loop() {
				p.record(ex, o, fixed{})
			}
			b.ReportMetric(float64(ex.route.stats.unlogged.Load())/float64(b.N), "dropped/op")
		})
	}
}

// A line is made in buffers that are used again.
func TestRecordAllocatesNothing(t *testing.T) {
	for _, kind := range accessKinds {
		p, ex := recorded(t, kind.access)
		o := outcome{status: 200, bytes: 2, took: time.Millisecond}
		// Now and then the pool is emptied, and the journal grows: that is less than one a request.
		if n := testing.AllocsPerRun(5000, func() { p.record(ex, o, fixed{}) }); n >= 1 {
			t.Errorf("%s: %v allocations", kind.name, n)
		}
	}
}
