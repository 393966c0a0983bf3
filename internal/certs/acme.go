package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// acmeStore obtains and renews certificates. What the library does is: orders, challenges, renewal at a third of the lifetime
// or when the authority says so (ARI, RFC 9773), OCSP staples, retries with back-off, and one file store that several
// processes share, so that either of two edges answers a challenge.
type acmeStore struct {
	dir   string
	every time.Duration
	log   *slog.Logger
	cache *certmagic.Cache
	ctx   context.Context
	end   context.CancelFunc

	mu      sync.Mutex
	configs map[configKey]*certmagic.Config
	issuers map[configKey]*certmagic.ACMEIssuer
	names   map[string]configKey // who has which
	errs    map[string]string    // why the last attempt failed
	closed  bool
}

// configKey is what needs a configuration of its own.
type configKey struct {
	Source
	httpPort, tlsPort int
}

func newACME(o Options) *acmeStore {
	a := &acmeStore{dir: filepath.Join(o.Dir, "acme"), every: o.Every, log: o.Log, configs: map[configKey]*certmagic.Config{}, issuers: map[configKey]*certmagic.ACMEIssuer{}, names: map[string]configKey{}, errs: map[string]string{}}
	a.ctx, a.end = context.WithCancel(context.Background())
	return a
}

// open starts the library's cache, when the first certificate is wanted: it has goroutines of its own. a.mu is held.
func (a *acmeStore) open() {
	if a.cache != nil {
		return
	}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{Logger: zap.NewNop(), RenewCheckInterval: a.every, GetConfigForCert: func(c certmagic.Certificate) (*certmagic.Config, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, n := range c.Names {
			if key, ok := a.names[n]; ok {
				return a.configs[key], nil
			}
		}
		return nil, fmt.Errorf("%v are not wanted any more", c.Names)
	}})
}

// follow begins to manage the names that are new.
func (a *acmeStore) follow(wanted []Wanted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := map[string]configKey{}
	for _, w := range wanted {
		key := configKey{w.Source, w.HTTPPort, w.TLSPort}
		for _, n := range w.Names {
			names[n] = key
		}
	}
	was := a.names
	a.names = names
	if len(names) == 0 || a.closed {
		return
	}
	a.open()
	fresh := map[configKey][]string{}
	for n, key := range names {
		if was[n] != key {
			fresh[key] = append(fresh[key], n)
			delete(a.errs, n)
		}
	}
	for key, list := range fresh {
		cfg := a.config(key)
		slices.Sort(list)
		go func() {
			if err := cfg.ManageAsync(a.ctx, list); err != nil && a.ctx.Err() == nil {
				a.failed(list, err)
			}
		}()
	}
}

// config returns the library's configuration for a source. a.mu is held.
func (a *acmeStore) config(key configKey) *certmagic.Config {
	if c := a.configs[key]; c != nil {
		return c
	}
	cfg := certmagic.New(a.cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: a.dir}, Logger: zap.NewNop(), OnEvent: a.event})
	roots, err := rootsOf(key.Roots)
	if err != nil {
		a.log.Error("the roots of the ACME directory cannot be read", "error", err)
	}
	directory := key.Directory
	if directory == "" {
		directory = certmagic.LetsEncryptProductionCA
	}
	template := certmagic.ACMEIssuer{CA: directory, TestCA: directory, Email: key.Email, Agreed: true, TrustedRoots: roots, Logger: zap.NewNop(),
		DisableHTTPChallenge: key.httpPort == 0, AltHTTPPort: key.httpPort, AltTLSALPNPort: key.tlsPort}
	if key.DNS != "" {
		template.DNS01Solver = dnsHook{key.DNS} // it is the only kind then
	}
	issuer := certmagic.NewACMEIssuer(cfg, template)
	cfg.Issuers = []certmagic.Issuer{issuer}
	a.configs[key], a.issuers[key] = cfg, issuer
	return cfg
}

// event notes what became of an attempt.
func (a *acmeStore) event(_ context.Context, name string, data map[string]any) error {
	who, _ := data["identifier"].(string)
	switch name {
	case "cert_failed":
		err, _ := data["error"].(error)
		a.failed([]string{who}, err)
	case "cert_obtained":
		a.log.Info("obtained a certificate", "name", who, "renewal", data["renewal"])
		a.mu.Lock()
		delete(a.errs, who)
		a.mu.Unlock()
	}
	return nil
}

func (a *acmeStore) failed(names []string, err error) {
	a.log.Error("no certificate", "names", names, "error", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range names {
		a.errs[n] = fmt.Sprint(err)
	}
}

// get returns the certificate, or what answers a TLS-ALPN-01 challenge (RFC 8737).
func (a *acmeStore) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	key, ok := a.names[hello.ServerName]
	if _, above, dot := strings.Cut(hello.ServerName, "."); !ok && dot {
		key = a.names["*."+above]
	}
	cfg := a.configs[key]
	a.mu.Unlock()
	if cfg == nil {
		return nil, fmt.Errorf("there is no certificate for %q", hello.ServerName)
	}
	return cfg.GetCertificate(hello)
}

// Challenge answers r if it is an HTTP-01 challenge (RFC 8555, section 8.3), and reports whether it was.
func (s *Store) Challenge(w http.ResponseWriter, r *http.Request) bool {
	if !certmagic.LooksLikeHTTPChallenge(r) {
		return false
	}
	s.acme.mu.Lock()
	issuers := slices.Collect(maps.Values(s.acme.issuers))
	s.acme.mu.Unlock()
	return slices.ContainsFunc(issuers, func(i *certmagic.ACMEIssuer) bool { return i.HandleHTTPChallenge(w, r) })
}

// state describes what is there for a name.
func (a *acmeStore) state(name string) Certificate {
	c := Certificate{Names: []string{name}, Kind: Auto}
	a.mu.Lock()
	cache, why := a.cache, a.errs[name]
	a.mu.Unlock()
	if cache != nil {
		for _, x := range cache.AllMatchingCertificates(name) {
			if x.Leaf != nil && x.Leaf.NotAfter.After(c.NotAfter) {
				c = described(x.Leaf, Auto)
			}
		}
	}
	if c.Error = why; why == "" && c.NotAfter.IsZero() {
		c.Error = "it is being obtained"
	}
	return c
}

func (a *acmeStore) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	a.end()
	if a.cache != nil {
		go a.cache.Stop() // it waits for what is under way
	}
}
