// Package certs has the certificates of a machine's edge: from a certificate authority by ACME (RFC 8555), from files, or from an
// authority of the machine's own for development.
package certs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The kinds of sources.
const (
	Auto  = "auto"  // by ACME
	Own   = "own"   // from files
	Local = "local" // from the machine's own authority
)

// Source says where a certificate comes from.
type Source struct {
	Kind      string `json:"kind"`
	Cert      string `json:"cert,omitempty"`      // own: PEM files
	Key       string `json:"key,omitempty"`       //
	Directory string `json:"directory,omitempty"` // auto: address of the ACME directory; "" for Let's Encrypt's
	Email     string `json:"email,omitempty"`     // auto: whom the authority may write to
	DNS       string `json:"dns,omitempty"`       // auto: a command that answers DNS-01 challenges; "" for the other kinds
	Roots     string `json:"roots,omitempty"`     // auto: PEM file of what the directory's own server is verified by; "" for the system's
}

// Wanted are names that are served with certificates of a source.
type Wanted struct {
	Names    []string
	HTTPPort int // where HTTP-01 challenges come in; 0 for nowhere
	TLSPort  int // where TLS-ALPN-01 challenges do
	Source
}

// Certificate is one that is there, or that should be.
type Certificate struct {
	Names    []string  `json:"names"`
	Kind     string    `json:"kind"`
	Issuer   string    `json:"issuer,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Error    string    `json:"error,omitempty"` // why there is none, or no newer one
}

// Store keeps them in a folder. Several processes may use one folder at once. Its methods are safe for concurrent use.
type Store struct {
	log   *slog.Logger
	acme  *acmeStore
	local *authority

	mu     sync.Mutex
	files  map[Source]*pair
	wanted []Wanted
}

// Options are what a store is opened with.
type Options struct {
	Dir   string // made when it is needed
	Log   *slog.Logger
	Every time.Duration // how often certificates by ACME are looked at, whether they are to be renewed; 0 means 10 minutes
}

// Open makes a store.
func Open(o Options) *Store {
	s := &Store{log: o.Log, files: map[Source]*pair{}, local: &authority{dir: filepath.Join(o.Dir, "local")}}
	s.acme = newACME(o)
	return s
}

// Close ends what runs in the background; certificates can still be got.
func (s *Store) Close() { s.acme.close() }

// Check reports the first source that cannot work: files that are missing, that do not belong together or that are for other
// names. It asks nobody over the network.
func (s *Store) Check(wanted []Wanted) error {
	for _, w := range wanted {
		switch w.Kind {
		case Own:
			c, err := load(w.Source)
			if err != nil {
				return err
			}
			for _, n := range w.Names {
				if err := c.Leaf.VerifyHostname(strings.Replace(n, "*.", "any.", 1)); err != nil {
					return fail.New(fail.Preflight, w.Cert, "%w", err).Hinted("route.hosts has a name that the certificate has not")
				}
			}
		case Auto:
			for _, n := range w.Names {
				if strings.HasPrefix(n, "*.") && w.DNS == "" {
					return fail.New(fail.Usage, "route.tls", "no certificate for %s can be had by HTTP-01 or TLS-ALPN-01", n).Hinted("set DNS records by a command, acme: {dns: /usr/local/bin/dns-hook}; or name the hosts; or use files, tls: own")
				}
			}
			if _, err := rootsOf(w.Roots); err != nil {
				return err
			}
		}
	}
	return nil
}

// Follow replaces what is wanted. Certificates that are missing are obtained in the background, and all are renewed in time, until
// Close.
func (s *Store) Follow(wanted []Wanted) {
	s.mu.Lock()
	s.wanted = slices.Clone(wanted)
	s.mu.Unlock()
	var auto []Wanted
	for _, w := range wanted {
		if w.Kind == Auto {
			auto = append(auto, w)
		}
	}
	s.acme.follow(auto)
}

// Get returns the certificate for a client that asks for a name.
func (s *Store) Get(src Source, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	switch src.Kind {
	case Own:
		return s.file(src)
	case Local:
		return s.local.get(hello.ServerName, hello.Conn)
	}
	return s.acme.get(hello)
}

// LocalRoot returns the certificate of the machine's own authority in PEM, which a client has to trust; it is made when there is
// none.
func (s *Store) LocalRoot() ([]byte, error) { return s.local.root() }

// pair is a certificate from files.
type pair struct {
	cert    *tls.Certificate
	stamp   string    // of both files
	checked time.Time // when they were last looked at
	err     error     // why what stands there now is not used
}

// fileEvery is how often the files are looked at, at most.
const fileEvery = time.Second

// file returns what stands in the files. While something wrong stands there what was right before is used on.
func (s *Store) file(src Source) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.files[src]
	if p == nil {
		p = &pair{}
		s.files[src] = p
	}
	if time.Since(p.checked) >= fileEvery {
		p.checked = time.Now()
		if now := stamp(src); now != p.stamp || p.cert == nil {
			c, err := load(src)
			if p.err = err; err == nil {
				p.cert, p.stamp = c, now
			} else {
				s.log.Error("the certificate cannot be used", "cert", src.Cert, "error", err)
			}
		}
	}
	if p.cert == nil {
		return nil, cmp.Or(p.err, errors.New("no certificate"))
	}
	return p.cert, nil
}

func stamp(src Source) string {
	out := ""
	for _, name := range []string{src.Cert, src.Key} {
		if fi, err := os.Stat(name); err == nil {
			out += fmt.Sprint(fi.ModTime().UnixNano(), " ", fi.Size(), " ")
		}
	}
	return out
}

func load(src Source) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(src.Cert, src.Key)
	if err != nil {
		return nil, fail.New(fail.Preflight, "route.certificate", "%w", err).Hinted("both are PEM files on the machine; the first has the chain, the server's own certificate on top")
	}
	if time.Now().After(c.Leaf.NotAfter) {
		return nil, fail.New(fail.Preflight, src.Cert, "the certificate was valid until %s", c.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &c, nil
}

// List returns all that are wanted, with what is there.
func (s *Store) List() []Certificate {
	s.mu.Lock()
	wanted := slices.Clone(s.wanted)
	s.mu.Unlock()
	var out []Certificate
	for _, w := range wanted {
		switch w.Kind {
		case Own:
			c := Certificate{Names: w.Names, Kind: Own}
			if p, err := s.file(w.Source); err == nil {
				c = described(p.Leaf, Own)
			} else {
				c.Error = err.Error()
			}
			s.mu.Lock()
			if p := s.files[w.Source]; p != nil && p.err != nil {
				c.Error = p.err.Error()
			}
			s.mu.Unlock()
			out = append(out, c)
		case Auto:
			for _, n := range w.Names {
				out = append(out, s.acme.state(n))
			}
		}
	}
	return out
}

func described(leaf *x509.Certificate, kind string) Certificate {
	return Certificate{Names: leaf.DNSNames, Kind: kind, Issuer: leaf.Issuer.CommonName, NotAfter: leaf.NotAfter}
}

// rootsOf reads a PEM file of authorities; "" gives nil, which stands for the system's.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // it is what crypto/tls takes for the system's
	}
	return Pool(file)
}

// Pool reads a PEM file of authorities. A file without one is a [fail.Preflight].
func Pool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fail.New(fail.Preflight, "", "%w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fail.New(fail.Preflight, file, "there is no certificate in PEM form in it")
	}
	return pool, nil
}
