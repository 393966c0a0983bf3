//go:build unix

package edge

import (
	"io"
	"net"
	"net/http"
	"testing"
)

func benchTable(b *testing.B, body int) (*rig, []byte) {
	g := startEdge(b, newDirs(b))
	text := make([]byte, body)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(text) })}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	g.set(quickly("", l.Addr().String()))
	return g, text
}

// BenchmarkHTTP3 compares the versions of HTTP: client, edge and instance in one process.
func BenchmarkHTTP3(b *testing.B) {
	for name, size := range map[string]int{"small": 100, "large": 10 << 20} {
		for proto, client := range map[string]func(*rig) *http.Client{
			"h3": func(g *rig) *http.Client { return g.client3(nil) }, "h2": func(g *rig) *http.Client { return g.client(nil) },
		} {
			b.Run(name+"/"+proto, func(b *testing.B) {
				g, text := benchTable(b, size)
				c := client(g)
				b.SetBytes(int64(len(text)))
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						res, err := c.Get("https://shop.localhost/")
						if err != nil {
							b.Error(err)
							return
						}
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
				})
			})
		}
	}
}
