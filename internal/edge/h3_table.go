package edge

import (
	"net"
	"net/http"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// checkHTTP3 reports what keeps a route from being answered over HTTP/3.
func (r Route) checkHTTP3() error {
	var why string
	switch {
	case !r.HTTP3:
		return nil
	case r.TLS == nil:
		why = "it is always encrypted: set route.tls"
	case r.Mode != "":
		why = "the kernel steers no QUIC: set route.mode: proxy"
	case r.Introduced:
		why = "its packets do not begin with the PROXY protocol: leave one of route.http3 and route.proxy_protocol out"
	default:
		return nil
	}
	return fail.New(fail.Usage, "routing table", "%s cannot be answered over HTTP/3", r.Key()).Hinted("%s", why)
}

// altSvcAge is how long a client keeps in mind that a route is answered over HTTP/3, in seconds.
const altSvcAge = "86400"

// advertised is the route with answers that tell of HTTP/3 (RFC 7838, section 3), unless it says something else there itself.
func (r Route) advertised() Route {
	if !r.HTTP3 {
		return r
	}
	_, port, _ := net.SplitHostPort(r.Listen)
	const name = "Alt-Svc"
	set := map[string]string{name: `h3=":` + port + `"; ma=` + altSvcAge}
	change := r.Headers.Response
	for k, v := range change.Set {
		change.Remove = append(change.Remove[:len(change.Remove):len(change.Remove)], k)
		set[k] = v
	}
	if slices.ContainsFunc(change.Remove, func(k string) bool { return http.CanonicalHeaderKey(k) == name }) {
		return r
	}
	r.Headers.Response.Set = set
	return r
}

// quick reports whether anything of a host is answered over HTTP/3: a handshake knows no path, and what is not gets 421.
func (c *routes) quick(listen, host string) bool {
	for name := range namesFor(hostname(host)) {
		if slices.ContainsFunc(c.byListen[listen][name], func(b claim) bool { return b.HTTP3 }) {
			return true
		}
	}
	return false
}
