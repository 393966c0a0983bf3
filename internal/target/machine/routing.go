package machine

import (
	"errors"
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
	edge.Route              // without what depends on where it is served, and by whom
	Plain      spec.Route   `json:"route,omitzero"` // where plain HTTP is sent on, which depends on the address that was chosen
	Faults     []edge.Fault `json:"faults,omitempty"`
}

func routingOf(s *spec.Spec) routing {
	header := func(text string) edge.Header {
		name, value := spec.HeaderMatch(text)
		return edge.Header{Name: name, Value: value}
	}
	r := routing{Route: edge.Route{
		Hosts: s.Route.Hosts, Methods: s.Route.Methods, Match: header(s.Route.Header), Paths: s.Route.Paths, Strip: s.Route.Strip,
		Trusted: networks(s.Route.Trusted), Introduced: s.Route.Proxied, HTTP3: s.Route.HTTP3,
		Headers: edge.Headers{Request: edge.Change(s.Route.Headers.Request), Response: edge.Change(s.Route.Headers.Response)},
		Sticky:  s.Release.Sticky, Preview: edge.Preview{Host: s.Route.Preview.Host, Header: header(s.Route.Preview.Header), Table: s.Route.Preview.Table, Clients: networks(s.Route.Preview.Clients)},
		Guard: guardOf(s.Route), Page: s.Route.Unavailable, Stream: streamOf(s.Route), Datagrams: datagramsOf(s),
	}}
	if s.Route.Mode != spec.ModeProxy {
		r.Mode = s.Route.Mode
	}
	if x := s.Route; r.Stream != nil && r.Stream.Passthrough {
		r.Plain = spec.Route{TLS: x.TLS, HTTP: x.HTTP, Protocol: x.Protocol}
	} else if x.TLS != "off" && x.TLS != "" {
		r.TLS = &edge.TLS{Clients: x.Clients, Min: x.TLSMin, Source: certs.Source{Kind: x.TLS, Cert: x.Certificate.Cert, Key: x.Certificate.Key,
			Directory: x.ACME.Directory, Email: x.ACME.Email, DNS: x.ACME.DNS, Roots: x.ACME.Roots}}
		r.Plain = spec.Route{TLS: x.TLS, HTTP: x.HTTP, Protocol: x.Protocol}
	}
	if s.Release.Mirror.For > 0 {
		r.Mirror = int(s.Release.Mirror.Share.Float())
	}
	if a := s.Route.AccessLog; a.On() {
		r.Access = &edge.Access{Sample: a.Sample.Float(), Slow: a.Slow.D(), Query: a.Query, Headers: a.Headers, Size: int64(a.Size), Age: a.Age.D()}
	}
	for _, m := range s.Route.Redirects {
		r.Moved = append(r.Moved, edge.Redirection(m))
	}
	if after, percentile, err := spec.ParseAfter(s.Route.Hedge.After); err == nil && s.Route.Hedge.On() {
		r.Hedge = &edge.Hedge{After: after, Percentile: percentile}
	}
	if t := s.Route.Traces; t.On() {
		r.Traces = &edge.Traces{Endpoint: t.Endpoint, Sample: t.Sample.Float()}
	}
	if c := s.Route.Compress; c.On() {
		r.Compress = &edge.Compress{Types: c.Types, Min: int64(c.Min)}
	}
	if c := s.Route.Cache; c.On() {
		r.Cache = &edge.Cache{Size: int64(c.Size), Object: int64(c.Object), Default: c.Default.D(), StaleIfError: c.StaleIfError.D(), Across: c.Across}
	}
	for _, f := range s.Route.Faults {
		r.Faults = append(r.Faults, edge.Fault{Share: f.Share.Float(), Header: header(f.Header), Delay: f.Delay.D(), Abort: f.Abort})
	}
	return r
}

// at is the route at an address, without anybody behind it.
func (r routing) at(service, env, listen string) edge.Route {
	out := r.Route
	out.Service, out.Environment, out.Listen, out.Redirect = service, env, listen, r.Plain.Redirect(listen)
	return out
}

// RouteOf is a service's route as its spec wants it at an address, without anybody behind it.
func RouteOf(s *spec.Spec, env, listen string) edge.Route {
	return routingOf(s).at(s.Service, env, listen)
}

func (t *Target) routing(id release.ID) (r routing, err error) {
	err = home.ReadJSON(filepath.Join(t.m.dirs.Release(t.service, t.env, int(id)), routeFile), &r)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	return r, err
}
