package edge

import (
	"cmp"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// TLS is how a route is served encrypted.
type TLS struct {
	certs.Source
	Clients string `json:"clients,omitempty"` // PEM file of authorities: only clients with a certificate of theirs get in
	Min     string `json:"min,omitempty"`     // the least version: 1.2, which is meant by "" too, or 1.3
}

// alpnChallenge is the protocol of TLS-ALPN-01 challenges (RFC 8737).
const alpnChallenge = "acme-tls/1"

// checkTLS reports what no edge could serve: one address is either encrypted or not, and a redirection leads to one that is.
func (t *Table) checkTLS() error {
	shared, first := make(map[string]*Route, len(t.Routes)), map[string]*Route{} // by address and host, and by address alone
	for i := range t.Routes {
		breathe(i)
		r := &t.Routes[i]
		if r.Datagrams != nil { // its port is another one, whatever its number
			continue
		}
		for _, h := range hostsOf(r) {
			at := r.Listen + " " + h
			if was, ok := shared[at]; ok && r.TLS != nil && was.TLS != nil && *was.TLS != *r.TLS {
				return fail.New(fail.Usage, "routing table", "%s and %s share %s and have other certificates or clients", was.Key(), r.Key(), cmp.Or(h, r.Listen)).
					Hinted("a handshake knows no path: give both the same route.tls, certificate, acme, clients and tls_min")
			}
			shared[at] = r
		}
		switch was, ok := first[r.Listen]; {
		case !ok:
			first[r.Listen] = r
		case was.encrypts() != r.encrypts():
			return fail.New(fail.Usage, "routing table", "%s is with TLS for one service and without for another", r.Listen).
				Hinted("set route.tls of %s as the other service has it, or give it its own route.listen", r.Service)
		case was.Introduced != r.Introduced:
			return fail.New(fail.Usage, "routing table", "connections to %s begin with the PROXY protocol for one of %s and %s, and not for the other", r.Listen, was.Key(), r.Key()).
				Hinted("set route.proxy_protocol of %s as the other service has it, or give it its own route.listen", r.Service)
		}
	}
	for i := range t.Routes {
		r := &t.Routes[i]
		if r.Redirect == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(r.Redirect); err != nil || !r.encrypts() {
			return fail.New(fail.Usage, "routing table", "%s: plain HTTP on %q cannot be redirected", r.Key(), r.Redirect)
		}
		if to, ok := first[r.Redirect]; ok && to.encrypts() {
			return fail.New(fail.Usage, "routing table", "%s is with TLS, and %s redirects plain HTTP there", r.Redirect, r.Service).Hinted("set route.http to another address, or to off")
		}
	}
	return nil
}

// addresses are all that a table's routes listen on.
func (r Route) addresses() []string {
	switch {
	case r.Datagrams != nil:
		return []string{datagramName + r.Listen}
	case r.Redirect == "":
		return []string{r.Listen}
	}
	return []string{r.Listen, r.Redirect}
}

// wanted are the certificates that a table needs.
func (t *Table) wanted() []certs.Wanted {
	port := func(addr string) int {
		_, p, err := net.SplitHostPort(addr)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(p)
		return n
	}
	var out []certs.Wanted
	for _, r := range t.Routes {
		if r.TLS != nil {
			names := slices.DeleteFunc(slices.Clone(hostsOf(&r)), func(h string) bool { return h == "" })
			out = append(out, certs.Wanted{Names: names, Source: r.TLS.Source, HTTPPort: port(r.Redirect), TLSPort: port(r.Listen)})
		}
	}
	return out
}

// secure makes the form in which a route's handshakes are configured.
func (rt *route) secure(store *certs.Store) error {
	t := rt.TLS
	if t == nil || rt.tls != nil {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1", alpnChallenge},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return store.Get(t.Source, h) }}
	if rt.Stream != nil {
		c.NextProtos = nil // see [route.offers]
	}
	if t.Min == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if t.Clients != "" {
		pool, err := certs.Pool(t.Clients)
		if err != nil {
			return err
		}
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool
	}
	rt.tls = c
	return nil
}

// encrypted reports whether the routes of an address are.
func (c *routes) encrypted(addr string) bool {
	for _, all := range c.byListen[addr] {
		for _, rt := range all {
			if rt.Listen == addr {
				return rt.encrypts()
			}
		}
	}
	return false
}

// strangers reports whether a request came by a connection whose handshake was for another route, and this one asks its clients
// for certificates: browsers send requests for several names over one HTTP/2 connection (RFC 9113, section 9.1.1).
func (p *proxy) strangers(listen string, rt *route, r *http.Request) bool {
	if rt.TLS == nil || rt.TLS.Clients == "" {
		return false
	}
	return r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || !sameClients(p.current().ofHost(listen, r.TLS.ServerName), rt)
}

// sameClients reports whether who got through one route's handshake got through the other's.
func sameClients(a, b *route) bool { return a != nil && a.TLS != nil && *a.TLS == *b.TLS }

// redirect sends a client of plain HTTP to where the route is encrypted.
func (rt *route) redirect(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	if _, port, err := net.SplitHostPort(rt.Listen); err == nil && port != "443" {
		host = net.JoinHostPort(host, port)
	}
	w.Header().Set("Connection", "close")
	http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect)
}

// aside answers what no instance is asked, and reports whether it was that.
func (p *proxy) aside(listen string, rt *route, w http.ResponseWriter, r *http.Request) bool {
	switch {
	case rt == nil:
		if methods := p.current().methodsAt(listen, r); len(methods) > 0 {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			http.Error(w, "nobody answers to this method here", http.StatusMethodNotAllowed)
			return true
		}
		http.Error(w, "no service answers to this host here", http.StatusNotFound)
	case rt.encrypts() && r.TLS == nil:
		rt.redirect(w, r)
	case rt.Stream != nil || p.strangers(listen, rt, r), r.ProtoMajor == 3 && !rt.HTTP3:
		http.Error(w, "this connection is for another host", http.StatusMisdirectedRequest)
	default:
		return rt.moved(w, r)
	}
	return true
}
