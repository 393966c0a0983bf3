//go:build unix

package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/certs"
)

// introducing dials as a proxy in front does.
func introducing(word string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = io.WriteString(c, word)
		}
		return c, err
	}
}

// Who the client is a proxy in front says once, whatever comes over the connection after it; what the client says does not count.
func TestIntroducedClients(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		g := startEdge(t, newDirs(t))
		table := oneRoute(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Forwarded-Proto"))
		}))
		table.Routes[0].Trusted, table.Routes[0].Introduced = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true
		scheme := "http"
		if encrypted {
			scheme, table.Routes[0].TLS = "https", &TLS{Source: certs.Source{Kind: certs.Local}}
		}
		g.set(table)
		root, err := g.s.certs.LocalRoot()
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(root)
		for word, want := range map[string]string{
			"PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n":                           "192.0.2.9",
			second(0x21, 0x11, "\xc0\x00\x02\x09\x0a\x00\x00\x02\x04\xd2\x00\x50"): "192.0.2.9",
			"PROXY UNKNOWN\r\n": "127.0.0.1", // the proxy itself, as when it asks how we are
		} {
			for _, h2 := range []bool{false, encrypted} {
				tr := &http.Transport{DialContext: introducing(word), TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "shop.localhost"}, ForceAttemptHTTP2: h2}
				defer tr.CloseIdleConnections()
				c := &http.Client{Transport: tr, Timeout: patience}
				for _, upgrade := range []string{"", "upgrade"} { // the second one is for net/http
					r := request(t, http.MethodGet, scheme+"://"+g.addr(), nil)
					r.Header.Set("X-Forwarded-For", "198.51.100.7") // it is the client that says this, and not the proxy
					if upgrade != "" && !h2 {
						r.Header.Set("Connection", upgrade)
					}
					expect := want + " " + scheme
					if want == "127.0.0.1" {
						expect = "198.51.100.7, " + expect // a proxy that is trusted, speaking for itself
					}
					if _, text := do(t, c, r); text != expect {
						t.Errorf("%q by %s, HTTP/2 %v: %q, want %q", word, scheme, h2, text, expect)
					}
				}
			}
		}
	}
}

func TestWhoMustIntroduce(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := oneRoute(serveOn(t, says("hello")))
	table.Routes[0].Trusted, table.Routes[0].Introduced = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, true
	g.set(table)
	for _, word := range []string{"", "PROXY nonsense\r\n"} {
		c := dialRaw(t, g.addr())
		c.send(word + "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if b, err := io.ReadAll(c.r); len(b) > 0 {
			t.Errorf("%q: a proxy that does not say for whom it speaks gets %q %v", word, b, err)
		}
	}
	other := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	nc, err := other.Dial("tcp", g.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, "PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(nc); !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		t.Errorf("who is not trusted is no proxy: %q", b)
	}
	two := Table{Routes: []Route{table.Routes[0], route1("bank", anyPort, "127.0.0.1:1", "bank.test")}}
	if _, err := g.s.Set(two); err == nil || !strings.Contains(err.Error(), "PROXY protocol") {
		t.Errorf("one address, two ways to begin: %v", err)
	}
}
