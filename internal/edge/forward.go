package edge

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
)

// Headers are what is changed on the way.
type Headers struct {
	Request  Change `json:"request,omitzero"`
	Response Change `json:"response,omitzero"`
}

// Change sets headers, in place of what they were, and removes others.
type Change struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

func (c Change) apply(h http.Header) {
	for _, name := range c.Remove {
		h.Del(name)
	}
	for name, value := range c.Set {
		h.Set(name, value)
	}
}

// hops are headers that belong to the connection and not to the message (RFC 9110, section 7.6.1). Content-Length is among
// them: the edge writes its own.
var hops = []string{"te", "trailer", "upgrade", "connection", "keep-alive", "content-length", "proxy-connection", "transfer-encoding", "proxy-authenticate", "proxy-authorization"}

// addrPort is a TCP address in the form in which addresses are compared.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := t.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

// peer is who is at the other end of a connection; the zero address where that cannot be told.
func peer(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

// client is who asks: the peer, or what trusted proxies say of who stood before them. Their words are read from the last one
// back, up to the first that is not trusted: what stands before it anybody may have written.
func (rt *route) client(r *http.Request) netip.Addr {
	at := peer(r)
	if !allowed(rt.Trusted, at) {
		return at
	}
	said := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(said) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(said[i]))
		if err != nil {
			return at
		}
		if at = a.Unmap(); !allowed(rt.Trusted, at) {
			return at
		}
	}
	return at
}

// trusts reports whether who sent a request is believed what he says of how it came to him.
func (rt *route) trusts(r *http.Request) bool {
	return len(rt.Trusted) > 0 && allowed(rt.Trusted, peer(r))
}

// said is by which scheme and to which host a request was made, as a trusted proxy says; "" for what none does.
func (rt *route) said(r *http.Request) (scheme, host string) {
	if !rt.trusts(r) {
		return "", ""
	}
	return r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host")
}

// schemeOf is that by which a request came in here.
func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// tell sets what an instance learns of the client and of how the request came. What others say of that is dropped, unless they
// are trusted. A trace that came in is continued, otherwise one is begun (W3C Trace Context, level 1).
func (rt *route) tell(r *httputil.ProxyRequest) {
	trusted := rt.trusts(r.In)
	if trusted {
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	}
	r.SetXForwarded()
	if trusted {
		for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Host"} {
			if v := r.In.Header.Get(name); v != "" {
				r.Out.Header.Set(name, v)
			}
		}
	}
	rt.strip(r)
	rt.Headers.Request.apply(r.Out.Header)
	if r.Out.Header.Get("Traceparent") == "" {
		r.Out.Header.Set("Traceparent", traceparent())
	}
}

// traceparent begins a trace that nobody records.
func traceparent() string { return newContext().String() }

// strip takes off the path by which the route was found.
func (rt *route) strip(r *httputil.ProxyRequest) {
	if !rt.Strip {
		return
	}
	for _, p := range pathsOf(&rt.Route) {
		cut := strings.TrimSuffix(p, "/")
		escaped := r.Out.URL.EscapedPath()
		rest, ok := strings.CutPrefix(escaped, cut)
		if cut == "" || !ok || rest != "" && rest[0] != '/' || strings.Contains(escaped, "/.") {
			continue // a path that climbs is left as it is: what is cut off must be what was found
		}
		if rest == "" {
			rest = "/"
		}
		if u, err := r.Out.URL.Parse(rest); err == nil && !strings.HasPrefix(rest, "//") {
			r.Out.URL.Path, r.Out.URL.RawPath = u.Path, u.RawPath
			r.Out.Header.Set("X-Forwarded-Prefix", cut)
		}
		return
	}
}
