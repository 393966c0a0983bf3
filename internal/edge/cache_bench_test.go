//go:build unix

package edge

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What a request costs on a kept connection: read by the edge itself, handed to net/http, answered out of the cache, and compressed each time.
func BenchmarkKept(b *testing.B) {
	var text strings.Builder
	for i := 0; text.Len() < 50_000; i++ {
		fmt.Fprintf(&text, `{"id":%d,"name":"thing %x","price":%d.5,"tags":["a","b"]},`+"\n", i, i*7919, i%97)
	}
	for _, k := range []struct {
		name, accept, cc string
		long             bool
		change           func(*Route)
	}{
		{"own path", "", "", false, func(*Route) {}},
		{"not kept", "", "private", false, func(r *Route) { r.Cache = &Cache{Size: 1 << 20, Object: 1 << 20} }},
		{"hit", "", "max-age=600", false, func(r *Route) { r.Cache = &Cache{Size: 1 << 20, Object: 1 << 20} }},
		{"50 KB, own path", "", "", true, func(*Route) {}},
		{"50 KB, hit", "", "max-age=600", true, func(r *Route) { r.Cache = &Cache{Size: 1 << 20, Object: 1 << 20} }},
		{"50 KB, hit, zstd", "zstd", "max-age=600", true, func(r *Route) { r.Cache, r.Compress = &Cache{Size: 1 << 20, Object: 1 << 20}, &Compress{Min: 1 << 10} }},
		{"50 KB, hit, gzip", "gzip", "max-age=600", true, func(r *Route) { r.Cache, r.Compress = &Cache{Size: 1 << 20, Object: 1 << 20}, &Compress{Min: 1 << 10} }},
	} {
		b.Run(k.name, func(b *testing.B) {
			body := "ok"
			if k.long {
				body = text.String()
			}
			g := startEdge(b, newDirs(b))
			table := oneRoute(scripted(b, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: %s\r\nContent-Length: %d\r\n\r\n%s", k.cc, len(body), body)))
			k.change(&table.Routes[0])
			g.set(table)
			c := dialRaw(b, g.addr())
			c.SetDeadline(time.Time{})
			ask := []byte("GET /a HTTP/1.1\r\nHost: a\r\nAccept-Encoding: " + k.accept + "\r\n\r\n")
			b.ReportAllocs()
			bytes := int64(0)
			for b.Loop() {
				if _, err := c.Write(ask); err != nil {
					b.Fatal(err)
				}
				res := c.response(http.MethodGet)
				n, err := io.Copy(io.Discard, res.Body)
				if bytes += n; err != nil || res.StatusCode != http.StatusOK {
					b.Fatal(res.StatusCode, err)
				}
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "bytes/op")
		})
	}
}
