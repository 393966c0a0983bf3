package edge

import (
	"net/http"
	"net/netip"
	"slices"
)

// Preview says which requests go to the newest release that has instances: those of which any of this is true.
type Preview struct {
	Host    string              `json:"host,omitempty"` // lower case
	Header  Header              `json:"header,omitzero"`
	Table   map[string][]string `json:"table,omitempty"`   // headers, and the values of each that count
	Clients []netip.Prefix      `json:"clients,omitempty"` // who asks from there
}

func (p Preview) on() bool {
	return p.Host != "" || p.Header != Header{} || len(p.Table) > 0 || len(p.Clients) > 0
}

// previews reports whether a request goes to the newest release.
func (rt *route) previews(r *http.Request) bool {
	p := rt.Preview
	if p.Host != "" && p.Host == hostname(r.Host) || p.Header.Name != "" && p.Header.in(r.Header) || len(p.Clients) > 0 && allowed(p.Clients, rt.client(r)) {
		return true
	}
	for name, values := range p.Table {
		if slices.ContainsFunc(r.Header.Values(name), func(v string) bool { return slices.Contains(values, v) }) {
			return true
		}
	}
	return false
}
