//go:build unix

package edge_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// name is the host of what is served with TLS here: clients of every kind take names below localhost for this machine.
const name = "shop.localhost"

// both is one edge before one instance, with TLS by the machine's own authority and without.
type both struct {
	plain  string // where it listens
	secure string
	root   []byte // the authority's certificate in PEM
}

// inBoth starts an edge before an instance.
func inBoth(t *testing.T, instance string) both {
	t.Helper()
	p := rig.FreePorts(t, 2)
	b := both{plain: fmt.Sprintf("127.0.0.1:%d", p[0]), secure: fmt.Sprintf("127.0.0.1:%d", p[1])}
	plain, secure := shop(b.plain, instance), shop(b.secure, instance)
	secure.Service, secure.TLS = "secure", &edge.TLS{Source: certs.Source{Kind: certs.Local}}
	secure.HTTP3 = true
	dir := startEdge(t, edge.Table{Routes: []edge.Route{plain, secure}})
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	store := certs.Open(certs.Options{Dir: d.Certificates(), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(store.Close)
	var err error
	if b.root, err = store.LocalRoot(); err != nil {
		t.Fatal(err)
	}
	return b
}

// client makes one of net/http's that speaks one protocol and verifies the edge.
func (b both) client(t *testing.T, p *http.Protocols) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b.root) {
		t.Fatalf("no certificate: %q", b.root)
	}
	tr := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: name}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}
