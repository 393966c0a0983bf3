package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	tcp         = "tcp"         // of route.protocol
	passthrough = "passthrough" // of route.tls

	defaultIdle = Duration(time.Hour)
)

// Streams reports whether the route's connections are passed on to instances as they are, and nobody reads requests.
func (r Route) Streams() bool { return r.Protocol == tcp || r.TLS == passthrough && !r.Datagrams() }

// streamDefaults fills in what a route leaves open of its connections.
func (d *decoder) streamDefaults(r *Route) {
	def(d, "route.protocol", &r.Protocol, "http")
	d.datagramDefaults(r)
	if r.Streams() && r.Mode == "proxy" {
		def(d, "route.timeouts.idle", &r.Timeouts.Idle, defaultIdle)
	}
}

// checkStream refuses what needs somebody who reads requests, where the edge passes connections on as they are.
func (d *decoder) checkStream(s *Spec) error {
	r := s.Route
	if err := d.oneOf("route.protocol", r.Protocol, "http", tcp, udp); err != nil {
		return err
	}
	if r.Datagrams() {
		return d.checkDatagrams(s)
	}
	if r.SendProxy != "" {
		if err := d.oneOf("route.send_proxy", r.SendProxy, "v1", "v2"); err != nil {
			return err
		}
	}
	if !r.Streams() {
		return d.checkNoStream(r)
	}
	why := "protocol: tcp"
	if r.Protocol != tcp {
		why = "tls: passthrough"
	}
	if all := d.ofRequests(s); len(all) > 0 {
		e := d.at(all[0].path, "this is done by who reads requests, and with route.%s connections are passed on as they are", why)
		return e.Hinted("remove it, or have the edge read HTTP: protocol: http, and tls other than passthrough")
	}
	switch {
	case r.TLS == "off" && (len(r.Hosts) > 0 || r.Preview.Host != ""):
		path := "route.hosts"
		if len(r.Hosts) == 0 {
			path = "route.preview.host"
		}
		return d.at(path, "a connection of plain TCP names no host").Hinted("give the service a route.listen of its own; with tls hosts are told apart by the name that the handshake asks for")
	case r.Protocol == tcp && r.HTTP != "" && r.HTTP != "off":
		return d.at("route.http", "what goes over these connections is no HTTP: nobody is to be sent on to them").Hinted("remove it")
	case len(r.Trusted) > 0 && !r.Proxied:
		return d.at("route.trusted", "nobody reads what proxies in front say in headers").Hinted("have them begin each connection with the PROXY protocol: proxy_protocol: true")
	}
	return nil
}

// checkNoStream refuses what is for connections that are passed on, on a route of requests.
func (d *decoder) checkNoStream(r Route) error {
	hint := "write protocol: tcp or udp, or tls: passthrough, or remove it"
	if r.SendProxy != "" {
		return d.at("route.send_proxy", "over the connections to instances go many clients' requests: who the client is stands in X-Forwarded-For").Hinted("%s", hint)
	}
	if d.places["route.timeouts.idle"] != nil {
		return d.at("route.timeouts.idle", "this is for connections that are passed on as they are").Hinted("%s", hint)
	}
	return nil
}

type setting struct {
	path string
	set  bool
}

// ofRequests are the settings in the file that are of requests.
func (d *decoder) ofRequests(s *Spec) []setting {
	r := s.Route
	sticky := s.Release.Sticky
	all := []setting{
		{"route.paths", len(r.Paths) > 0}, {"route.strip", r.Strip}, {"route.methods", len(r.Methods) > 0}, {"route.header", r.Header != ""},
		{"route.http3", r.HTTP3}, {"route.traces", r.Traces.On()}, {"route.compress", r.Compress.On()}, {"route.cache", r.Cache.On()}, {"route.hedge", r.Hedge.On()}, {"route.eject.slower", r.Eject.Slower != 0}, {"route.auth", r.Auth.On()}, {"route.redirects", len(r.Redirects) > 0}, {"route.unavailable", r.Unavailable != ""}, {"route.preview.table", len(r.Preview.Table) > 0},
		{"route.headers.request", len(r.Headers.Request.Set)+len(r.Headers.Request.Remove) > 0},
		{"route.headers.response", len(r.Headers.Response.Set)+len(r.Headers.Response.Remove) > 0},
		{"route.preview.header", r.Preview.Header != ""}, {"route.body", r.Body != 0},
		{"route.timeouts.request", r.Timeouts.Request != 0}, {"route.timeouts.try", r.Timeouts.Try != 0},
		{"route.concurrency.limit", r.Concurrency.Limit == Auto},
		{"route.access_log.query", r.AccessLog.Query}, {"route.access_log.headers", len(r.AccessLog.Headers) > 0},
		{"route.access_log.slow", d.places["route.access_log.slow"] != nil},
		{"release.mirror", s.Release.Mirror.For > 0}, {"release.sticky", sticky != "" && sticky != "client"},
		{"release.evidence.probe", s.Release.Evidence.Probe.HTTP != ""},
	}
	for i, l := range r.Rate {
		all = append(all, setting{fmt.Sprintf("route.rate[%d].by", i), strings.HasPrefix(l.By, "header:")})
	}
	for i, f := range r.Faults {
		all = append(all, setting{fmt.Sprintf("route.faults[%d].header", i), f.Header != ""})
	}
	return slices.DeleteFunc(all, func(n setting) bool { return !n.set })
}
