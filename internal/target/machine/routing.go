package machine

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/fairlead-dev/fairlead/internal/certs"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

const routeFile = "route.json"

// routing is what a release says of its route: going back restores it.
type routing struct {
	Hosts   []string       `json:"hosts,omitempty"`
	Mode    string         `json:"mode,omitempty"`
	Paths   []string       `json:"paths,omitempty"`
	Strip   bool           `json:"strip,omitempty"`
	Headers edge.Headers   `json:"headers,omitzero"`
	Trusted []netip.Prefix `json:"trusted,omitempty"`
	TLS     *edge.TLS      `json:"tls,omitempty"`
	Route   spec.Route     `json:"route,omitzero"` // for where plain HTTP is sent on, which depends on the address that was chosen
	Sticky  string         `json:"sticky,omitempty"`
	Preview edge.Preview   `json:"preview,omitzero"`
	Mirror  int            `json:"mirror,omitempty"`
	Guard   *edge.Guard    `json:"guard,omitempty"`
	Faults  []edge.Fault   `json:"faults,omitempty"`
}

func routingOf(s *spec.Spec) routing {
	header := func(text string) edge.Header {
		name, value := spec.HeaderMatch(text)
		return edge.Header{Name: name, Value: value}
	}
	r := routing{Hosts: s.Route.Hosts, Sticky: s.Release.Sticky, Preview: edge.Preview{Host: s.Route.Preview.Host, Header: header(s.Route.Preview.Header)}}
	r.Paths, r.Strip = s.Route.Paths, s.Route.Strip
	if s.Route.Mode != "proxy" {
		r.Mode = s.Route.Mode
	}
	r.Headers = edge.Headers{Request: edge.Change(s.Route.Headers.Request), Response: edge.Change(s.Route.Headers.Response)}
	r.Trusted = networks(s.Route.Trusted)
	if x := s.Route; x.TLS != "off" && x.TLS != "" {
		r.TLS = &edge.TLS{Clients: x.Clients, Min: x.TLSMin, Source: certs.Source{Kind: x.TLS, Cert: x.Certificate.Cert, Key: x.Certificate.Key,
			Directory: x.ACME.Directory, Email: x.ACME.Email, Roots: x.ACME.Roots}}
		r.Route = spec.Route{TLS: x.TLS, HTTP: x.HTTP}
	}
	if s.Release.Mirror.For > 0 {
		r.Mirror = int(s.Release.Mirror.Share.Float())
	}
	r.Guard = guardOf(s.Route)
	for _, f := range s.Route.Faults {
		r.Faults = append(r.Faults, edge.Fault{Share: f.Share.Float(), Header: header(f.Header), Delay: f.Delay.D(), Abort: f.Abort})
	}
	return r
}

// Redirect is where plain HTTP is sent on.
func (r routing) Redirect(listen string) string { return r.Route.Redirect(listen) }

// RouteOf is a service's route as its spec wants it at an address, without anybody behind it.
func RouteOf(s *spec.Spec, env, listen string) edge.Route {
	r := routingOf(s)
	return edge.Route{Service: s.Service, Environment: env, Listen: listen, Redirect: r.Redirect(listen), Mode: r.Mode, Hosts: r.Hosts, Paths: r.Paths, TLS: r.TLS, Preview: r.Preview}
}

func (t *Target) routing(id release.ID) (r routing, err error) {
	if id == 0 {
		return r, nil
	}
	err = home.ReadJSON(filepath.Join(t.m.dirs.Release(t.service, t.env, int(id)), routeFile), &r)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	return r, err
}
