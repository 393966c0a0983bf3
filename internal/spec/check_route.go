package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// hop are headers that belong to a connection and not to a message (RFC 9110, section 7.6.1), and those that frame it.
var hop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host"}

// checkPreview holds who sees the newest release to what a request tells.
func (d *decoder) checkPreview(p Preview) error {
	if h := p.Host; h != "" && !hostForm.MatchString(h) {
		return d.at("route.preview.host", "%q is not a host name", h)
	}
	if h := p.Header; h != "" && !headerForm.MatchString(h) {
		return d.at("route.preview.header", "%q is not a header: write X-Preview, or \"X-Preview: yes\"", h)
	}
	for _, name := range sortedKeys(p.Table) {
		at := "route.preview.table." + name
		if !headerForm.MatchString(name) || strings.Contains(name, ":") || strings.EqualFold(name, "Host") {
			return d.at(at, "%q is not the name of a header", name)
		}
		if len(p.Table[name]) == 0 {
			return d.at(at, "no value of %s is listed", name).Hinted("write table: {%s: [NZ, AU]}", name)
		}
	}
	for i, c := range p.Clients {
		if _, err := ParseNetwork(c); err != nil {
			return d.at(fmt.Sprintf("route.preview.clients[%d]", i), "%v", err)
		}
	}
	return nil
}

// checkForward holds what route says of paths, headers and proxies in front to its form.
func (d *decoder) checkForward(r Route) error {
	for i, p := range r.Paths {
		if !strings.HasPrefix(p, "/") || p != path.Clean(p) || strings.ContainsAny(p, "?#*% ") {
			return d.at(fmt.Sprintf("route.paths[%d]", i), "%q is not a path: write /api", p)
		}
	}
	for i, m := range r.Methods {
		if m == "CONNECT" || m != strings.ToUpper(m) || !headerForm.MatchString(m) || strings.Contains(m, ":") {
			return d.at(fmt.Sprintf("route.methods[%d]", i), "%q is not a method that a service can answer: write [GET, HEAD]", m)
		}
		if slices.Contains(r.Methods[:i], m) {
			return d.at(fmt.Sprintf("route.methods[%d]", i), "%s is there twice", m)
		}
	}
	if name, _ := HeaderMatch(r.Header); strings.EqualFold(name, "Host") {
		return d.at("route.header", "the host is no header here").Hinted("write hosts: [shop.example.com]")
	}
	if h := r.Header; h != "" && !headerForm.MatchString(h) {
		return d.at("route.header", "%q is not a header: write X-Tenant, or \"X-Tenant: blue\"", h)
	}
	if r.Strip && len(r.Paths) == 0 {
		return d.at("route.strip", "there is nothing to take off without route.paths")
	}
	if r.Proxied && len(r.Trusted) == 0 {
		return d.at("route.proxy_protocol", "whose word counts?").Hinted("name the proxies in front: trusted: [10.0.0.0/8]")
	}
	for i, t := range r.Trusted {
		if _, err := ParseNetwork(t); err != nil {
			return d.at(fmt.Sprintf("route.trusted[%d]", i), "%v", err)
		}
	}
	for _, side := range []struct {
		at string
		HeaderChange
	}{{"route.headers.request", r.Headers.Request}, {"route.headers.response", r.Headers.Response}} {
		at, c := side.at, side.HeaderChange
		for _, name := range append(sortedKeys(c.Set), c.Remove...) {
			if !headerForm.MatchString(name) || strings.Contains(name, ":") {
				return d.at(at, "%q is not the name of a header", name)
			}
			if slices.ContainsFunc(hop, func(h string) bool { return strings.EqualFold(h, name) }) {
				return d.at(at, "%s is the edge's own affair", name)
			}
		}
		for _, name := range sortedKeys(c.Set) {
			if strings.ContainsAny(c.Set[name], "\r\n\x00") {
				return d.at(at+".set."+name, "a header's value is one line")
			}
		}
	}
	return nil
}
