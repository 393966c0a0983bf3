//go:build unix

package edge

import (
	"net"
	"testing"
)

// BenchmarkFlow is a question and its answer over one flow.
func BenchmarkFlow(b *testing.B) {
	g := startEdge(b, newDirs(b))
	g.set(flowing(Datagrams{Idle: minute}, udpService(b, itself)))
	c := g.caller()
	buf := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(buf)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNewFlow is that over a new one each time, as DNS resolvers ask.
func BenchmarkNewFlow(b *testing.B) {
	g := startEdge(b, newDirs(b))
	g.set(flowing(Datagrams{Idle: minute}, udpService(b, itself)))
	at := g.flowAddr(anyPort)
	buf := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.DialUDP("udp", nil, at)
		if err != nil {
			b.Fatal(err)
		}
		c.Write(buf)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
