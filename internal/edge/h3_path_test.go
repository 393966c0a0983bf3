//go:build unix

package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// watchedConn is a client's socket that notes from where it is answered, and takes nothing until it is opened.
type watchedConn struct {
	*net.UDPConn
	mu   sync.Mutex
	from map[string]int
	open chan bool
}

// watched makes the socket as the library takes any that is not the system's own.
func watched(t *testing.T) *watchedConn {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return &watchedConn{UDPConn: udp, from: map[string]int{}, open: make(chan bool)}
}

func (c *watchedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	<-c.open
	n, addr, err := c.UDPConn.ReadFrom(b)
	if err == nil {
		c.mu.Lock()
		c.from[addr.String()]++
		c.mu.Unlock()
	}
	return n, addr, err
}

// A client is answered from the address that it asked, by the edge with which its handshake began, also when that was replaced before
// the handshake was over and the address is one of many that the socket has.
func TestHTTP3TakeOverInHandshake(t *testing.T) {
	const everywhere = ":0"
	g := startEdge(t, newDirs(t))
	table := quickly("", serveOn(t, echo))
	for i := range table.Routes {
		table.Routes[i].Listen = everywhere
	}
	g.set(table)
	at := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: g.s.h3.listeners[everywhere].conn.LocalAddr().(*net.UDPAddr).Port}
	conn := watched(t)
	from := &quic.Transport{Conn: struct{ net.PacketConn }{conn}}
	tr := &http3.Transport{TLSClientConfig: g.trusting(), Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
		return from.Dial(ctx, at, c, q)
	}}
	defer func() {
		tr.Close()
		from.Close()
		conn.Close()
	}()
	got := make(chan error)
	go func() { got <- post3(&http.Client{Transport: tr}) }()
	eventually(t, func() bool { return g.s.conns.Load() == 1 })
	_, lines, _ := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	eventually(t, g.s.leaving.Load)
	close(conn.open)
	if err := receive(t, got); err != nil {
		t.Error(err)
	}
	if n := g.counts(0, 0).Requests; n != 1 {
		t.Errorf("%d requests are counted", n)
	}
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if len(conn.from) != 1 || conn.from[at.String()] == 0 {
		t.Errorf("%v answered, %s was asked", conn.from, at)
	}
	tr.Close()
	receive(t, g.s.Done())
}

// Of many who come at once all are answered, though they must prove their addresses.
func TestHTTP3Crowd(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(quickly("", serveOn(t, echo)))
	var all sync.WaitGroup
	g.s.h3.knocking.Add(verifyAbove)
	for range 60 {
		c := g.client3(nil)
		all.Go(func() {
			if err := post3(c); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, func() bool { return g.s.h3.knocking.Load() == verifyAbove })
}

// gRPC comes to instances by HTTP/2, as it does from clients of HTTP/2: with its trailers.
func TestHTTP3ForGRPC(t *testing.T) {
	g := startEdge(t, newDirs(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	two := new(http.Protocols)
	two.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: two, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Proto, " ", string(b), " ", r.Header.Get("Te"))
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	g.set(quickly("", l.Addr().String()))
	r := request(t, http.MethodPost, "https://shop.localhost/", io.MultiReader(strings.NewReader("x")))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	if res, got := do(t, g.client3(nil), r); got != "HTTP/2.0 x trailers" || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q %v", got, res.Trailer)
	}
}
