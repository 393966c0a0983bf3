package edge

import (
	"cmp"
	"iter"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
)

// hostsOf returns the hosts a route answers to, "" standing for all others.
func hostsOf(r *Route) []string {
	hosts := r.Hosts
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	if h := r.Preview.Host; h != "" && !slices.Contains(hosts, h) {
		hosts = append(slices.Clone(hosts), h)
	}
	return hosts
}

// pathsOf returns the paths a route answers to, each with a slash at its end.
func pathsOf(r *Route) []string {
	out := []string{}
	for _, p := range r.Paths {
		out = append(out, strings.TrimSuffix(p, "/")+"/")
	}
	if len(out) == 0 {
		out = append(out, "/")
	}
	return out
}

// claim is what a route answers to at a host of an address: requests for what lies below a path, and only those that it matches.
type claim struct {
	path    string   // with a slash at its end
	methods []string // any when empty
	header  Header   // any without a name
	*route
}

// asks is what a claim looks at of a request besides its host and its path; nil is a request of which no more is known.
type asks interface {
	has(method string, h Header) bool
}

func (c *claim) takes(q asks) bool {
	return q == nil || c.header == Header{} && len(c.methods) == 0 || q.has("", c.header) && (len(c.methods) == 0 || slices.ContainsFunc(c.methods, func(m string) bool { return q.has(m, Header{}) }))
}

// read is a request that net/http read.
type read struct{ *http.Request }

// has implements [asks].
func (r read) has(method string, x Header) bool {
	return (method == "" || method == r.Method) && (x.Name == "" || x.in(r.Header))
}

// methodsOf returns the methods that a route is asked by, "" standing for all.
func methodsOf(r *Route) []string {
	if len(r.Methods) == 0 {
		return []string{""}
	}
	return r.Methods
}

// narrower orders claims: the longest path first, and of the same path the one that takes less.
func narrower(a, b claim) int {
	narrow := func(c claim) int {
		n := 0
		if c.header.Name != "" {
			n = 2
		}
		return n + min(len(c.methods), 1)
	}
	return cmp.Or(len(b.path)-len(a.path), narrow(b)-narrow(a))
}

// find picks the route for a request's host and path: the exact name, then the nearest wildcard, then the one for all; of these
// the one with the longest path.
func (c *routes) find(listen, host, path string, q asks) *route {
	hosts := c.byListen[listen]
	if hosts == nil {
		return nil
	}
	for name := range namesFor(hostname(host)) {
		if r := longest(hosts[name], path, q); r != nil {
			return r
		}
	}
	return nil
}

// namesFor are those under which a host's routes stand, the nearest first: its own, ".example.com" for all below that, "" for all.
func namesFor(host string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if host != "" && !yield(host) {
			return
		}
		for i := range len(host) {
			if host[i] == '.' && !yield(host[i:]) {
				return
			}
		}
		yield("")
	}
}

// longest returns the first claim that a path lies below. What it lies below is what it means, not how it is written:
// "/api/../admin" is below "/admin", as the instance will read it.
func longest(all []claim, where string, q asks) *route {
	if len(all) == 1 && all[0].path == "/" && all[0].takes(q) {
		return all[0].route
	}
	if strings.Contains(where, "//") || strings.Contains(where, "/.") {
		where = path.Clean("/" + where)
	}
	for i := range all {
		c := &all[i]
		if (strings.HasPrefix(where, c.path) || len(where) == len(c.path)-1 && strings.HasPrefix(c.path, where) || c.path == "/") && c.takes(q) {
			return c.route
		}
	}
	return nil
}

// ofHost returns a route for a host, whatever its path: they have their handshakes in common.
func (c *routes) ofHost(listen, host string) *route {
	if r := c.find(listen, host, "/", nil); r != nil {
		return r
	}
	for _, h := range []string{hostname(host), ""} {
		if all := c.byListen[listen][h]; len(all) > 0 {
			return all[0].route
		}
	}
	return nil
}

// hostname is a Host header's name, without its port, as names are compared.
func hostname(host string) string {
	if strings.IndexByte(host, ':') >= 0 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// methodsAt lists the methods that some route takes at a place where none took a request by its own; none where there is no such.
func (c *routes) methodsAt(listen string, r *http.Request) (methods []string) {
	for _, rt := range c.byKey {
		for _, m := range rt.Methods {
			as := *r
			if as.Method = m; c.find(listen, r.Host, r.URL.Path, read{&as}) == rt && !slices.Contains(methods, m) {
				methods = append(methods, m)
			}
		}
	}
	slices.Sort(methods)
	return methods
}
