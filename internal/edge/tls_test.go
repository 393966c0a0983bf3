//go:build unix

package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/certs"
)

// secured is a table in which two hosts are served with the machine's own authority, and plain HTTP is sent on.
func secured(t *testing.T, clients string) Table {
	t.Helper()
	local := certs.Source{Kind: certs.Local}
	return Table{Routes: []Route{
		{Service: "shop", Environment: "prod", Listen: anyPort, Redirect: "127.0.0.1:00", Hosts: []string{"shop.localhost"}, TLS: &TLS{Source: local},
			Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "shop "+r.Header.Get("X-Forwarded-Proto"))
			}))}}},
		{Service: "bank", Environment: "prod", Listen: anyPort, Hosts: []string{"bank.localhost"}, TLS: &TLS{Source: local, Clients: clients, Min: "1.3"},
			Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(serveOn(t, says("bank")))}}},
	}}
}

// client trusts the machine's authority and finds every name at the edge.
func (g *rig) client(change func(*tls.Config)) *http.Client {
	g.t.Helper()
	root, err := g.s.certs.LocalRoot()
	if err != nil {
		g.t.Fatal(err)
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(root)
	if change != nil {
		change(conf)
	}
	addr := g.addr()
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// fetch returns status, protocol and body.
func fetch(t *testing.T, c *http.Client, url, host string) (status int, proto, body string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		r.Host = host
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Proto, string(b), err
}

func TestTLS(t *testing.T) {
	g := startEdge(t, newDirs(t))
	ca, mine := authority(t)
	g.set(secured(t, ca))
	c := g.client(nil)
	if code, proto, body, err := fetch(t, c, "https://shop.localhost/", ""); err != nil || code != 200 || proto != "HTTP/2.0" || body != "shop https" {
		t.Errorf("%d %s %q %v", code, proto, body, err)
	}
	one := g.client(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
	one.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	if code, proto, _, err := fetch(t, one, "https://shop.localhost/", ""); err != nil || code != 200 || proto != "HTTP/1.1" {
		t.Errorf("%d %s %v", code, proto, err)
	}
	if _, _, _, err := fetch(t, c, "https://nobody.localhost/", ""); err == nil {
		t.Error("a handshake for a name that nobody has")
	}
	if _, _, _, err := fetch(t, c, "https://bank.localhost/", ""); err == nil {
		t.Error("a client without a certificate got in")
	}
	if code, _, body, _ := fetch(t, c, "https://shop.localhost/", "bank.localhost"); code != http.StatusMisdirectedRequest || strings.Contains(body, "bank") {
		t.Errorf("by the other host's connection: %d %q", code, body)
	}
	with := g.client(func(c *tls.Config) { c.Certificates = []tls.Certificate{mine} })
	if code, _, body, err := fetch(t, with, "https://bank.localhost/", ""); err != nil || code != 200 || body != "bank" {
		t.Errorf("with a certificate: %d %q %v", code, body, err)
	}
	old := g.client(func(c *tls.Config) { c.Certificates, c.MaxVersion = []tls.Certificate{mine}, tls.VersionTLS12 })
	if _, _, _, err := fetch(t, old, "https://bank.localhost/", ""); err == nil {
		t.Error("TLS 1.2 got in where 1.3 is the least")
	}
	plain := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.addrOf("127.0.0.1:00")+"/a?b=c", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "shop.localhost:80"
	res, err := plain.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != "https://shop.localhost:0/a?b=c" {
		t.Errorf("%d to %q", res.StatusCode, res.Header.Get("Location"))
	}
}

// An address may change from plain to encrypted and back by a table: its socket stays.
func TestTLSComesAndGoes(t *testing.T) {
	g := newRig(t, says("plain"))
	if code, body := g.ask(http.MethodGet, "", nil); code != 200 || body != "plain" {
		t.Fatalf("%d %q", code, body)
	}
	addr := g.addr()
	table := oneRoute(serveOn(t, says("secret")))
	table.Routes[0].TLS = &TLS{Source: certs.Source{Kind: certs.Local}}
	g.set(table)
	if g.addr() != addr {
		t.Error("the address changed")
	}
	if code, _, body, err := fetch(t, g.client(nil), "https://any.localhost/", ""); err != nil || code != 200 || body != "secret" {
		t.Errorf("%d %q %v", code, body, err)
	}
	table.Routes[0].TLS = &TLS{Source: certs.Source{Kind: certs.Own, Cert: "/nowhere", Key: "/nowhere"}}
	if _, err := g.s.Set(table); err == nil {
		t.Error("a table whose certificate is not there came into force")
	}
	if code, _, body, err := fetch(t, g.client(nil), "https://any.localhost/", ""); err != nil || code != 200 || body != "secret" {
		t.Errorf("after a table that was refused: %d %q %v", code, body, err)
	}
}

func TestTablesWithTLSThatCannotBe(t *testing.T) {
	local := &TLS{Source: certs.Source{Kind: certs.Local}}
	for says, routes := range map[string][]Route{
		"with TLS for one service and without": {{Service: "a", Listen: ":1", Hosts: []string{"a"}, TLS: local}, {Service: "b", Listen: ":1", Hosts: []string{"b"}}},
		"cannot be redirected":                 {{Service: "a", Listen: ":1", Redirect: ":2"}},
		"redirects plain HTTP there":           {{Service: "a", Listen: ":1", Hosts: []string{"a"}, TLS: local}, {Service: "b", Listen: ":2", Hosts: []string{"b"}, TLS: local, Redirect: ":1"}},
		"a on :2 already goes to":              {{Service: "a", Listen: ":1", Hosts: []string{"a"}, TLS: local, Redirect: ":2"}, {Service: "b", Listen: ":2", Hosts: []string{"a"}}},
	} {
		table := Table{Routes: routes}
		if err := table.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// authority makes an authority for clients, as a file, and a client's certificate of it.
func authority(t *testing.T) (file string, client tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
	sign := func(c *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	file = filepath.Join(t.TempDir(), "clients.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(ca)}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, tls.Certificate{Certificate: [][]byte{sign(leaf)}, PrivateKey: key}
}

// Who chose HTTP/2 in the handshake does not get answers in HTTP/1.1.
func TestTLSKeepsToTheChosenProtocol(t *testing.T) {
	g := startEdge(t, newDirs(t))
	ca, _ := authority(t)
	g.set(secured(t, ca))
	root, err := g.s.certs.LocalRoot()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	c, err := tls.Dial("tcp", g.addr(), &tls.Config{RootCAs: pool, ServerName: "shop.localhost", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%q %v", b, err)
	}
}
