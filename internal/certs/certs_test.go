package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func open(t *testing.T) *Store {
	t.Helper()
	s := Open(Options{Dir: filepath.Join(t.TempDir(), "certs"), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	return s
}

// hello is a client that asks for a name.
func hello(name string) *tls.ClientHelloInfo { return &tls.ClientHelloInfo{ServerName: name} }

func TestLocal(t *testing.T) {
	s := open(t)
	root, err := s.LocalRoot()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	other := Open(Options{Dir: filepath.Dir(s.local.dir), Log: slog.New(slog.DiscardHandler)}) // another process
	for _, name := range []string{"shop.localhost", "127.0.0.1", "shop.example.com"} {
		for _, store := range []*Store{s, other} {
			c, err := store.Get(Source{Kind: Local}, hello(name))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if again, err := store.Get(Source{Kind: Local}, hello(name)); err != nil || again != c {
				t.Errorf("%s: made twice: %v", name, err)
			}
		}
	}
	if _, err := (&x509.Certificate{}).Verify(x509.VerifyOptions{}); err == nil {
		t.Error("verifying means nothing here")
	}
	if fi, err := os.Stat(filepath.Join(s.local.dir, "root.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v %v", fi, err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := s.Get(Source{Kind: Local}, &tls.ClientHelloInfo{Conn: a}); err != nil {
		t.Errorf("a client that names nobody: %v", err)
	}
}

// write puts a certificate of a throw-away authority into files.
func write(t *testing.T, dir, name string) Source {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	c, err := a.get(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	src := Source{Kind: Own, Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for file, block := range map[string]*pem.Block{src.Cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, src.Key: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return src
}

// Files are read again when they change; what is wrong in them is told and not used.
func TestOwnFilesChange(t *testing.T) {
	dir := t.TempDir()
	src := write(t, dir, "a.example.com")
	s := open(t)
	s.Follow([]Wanted{{Names: []string{"a.example.com"}, Source: src}})
	serial := func() string {
		c, err := s.Get(src, hello("a.example.com"))
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	synctest.Test(t, func(t *testing.T) { // virtual time begins in 2000, before the certificate holds; only the time between looks counts
		was := serial()
		write(t, dir, "a.example.com")
		<-time.After(2 * fileEvery)
		now := serial()
		if now == was {
			t.Error("the files changed, and the old certificate is used")
		}
		if err := os.WriteFile(src.Key, []byte("half a ke"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * fileEvery)
		if serial() != now {
			t.Error("what was right is not used any more")
		}
		if l := s.List(); len(l) != 1 || l[0].Error == "" || l[0].NotAfter.IsZero() || l[0].Names[0] != "a.example.com" {
			t.Errorf("%+v", l)
		}
	})
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	src := write(t, dir, "a.example.com")
	other := write(t, t.TempDir(), "b.example.com")
	s := open(t)
	for name, c := range map[string]struct {
		w    Wanted
		says string
	}{
		"good":       {Wanted{Names: []string{"a.example.com"}, Source: src}, ""},
		"name":       {Wanted{Names: []string{"c.example.com"}, Source: src}, "not c.example.com"},
		"pair":       {Wanted{Source: Source{Kind: Own, Cert: src.Cert, Key: other.Key}}, "does not match"},
		"missing":    {Wanted{Source: Source{Kind: Own, Cert: "/nowhere.pem", Key: src.Key}}, "no such file"},
		"wildcard":   {Wanted{Names: []string{"*.example.com"}, Source: Source{Kind: Auto}}, "no certificate for *.example.com"},
		"roots":      {Wanted{Names: []string{"a.example.com"}, Source: Source{Kind: Auto, Roots: src.Key}}, "no certificate in PEM form"},
		"auto":       {Wanted{Names: []string{"a.example.com"}, Source: Source{Kind: Auto}}, ""},
		"local":      {Wanted{Names: []string{"*.localhost"}, Source: Source{Kind: Local}}, ""},
		"no roots":   {Wanted{Names: []string{"a.example.com"}, Source: Source{Kind: Auto, Roots: "/nowhere"}}, "no such file"},
		"wild match": {Wanted{Names: []string{"*.example.com"}, Source: src}, "not any.example.com"},
	} {
		err := s.Check([]Wanted{c.w})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if _, ok := errors.AsType[*fail.Error](err); err != nil && !ok {
			t.Errorf("%s: %T is no error for people", name, err)
		}
	}
}
