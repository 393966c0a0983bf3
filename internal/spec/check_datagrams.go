package spec

import (
	"net"
	"time"
)

const (
	udp = "udp" // of route.protocol

	// A client that is silent for this long may begin anew: the least that RFC 4787 asks of who keeps such flows (REQ-5). It lets
	// well-known ports have less that know better; resolvers give up after five seconds.
	defaultFlowIdle    = Duration(2 * time.Minute)
	defaultFlowIdleDNS = Duration(10 * time.Second)
	portDNS            = "53"
)

// Datagrams reports whether the route is one of UDP, of which there are neither requests nor connections.
func (r Route) Datagrams() bool { return r.Protocol == udp }

// datagramDefaults fills in what a route of UDP leaves open.
func (d *decoder) datagramDefaults(r *Route) {
	if !r.Datagrams() {
		return
	}
	idle := defaultFlowIdle
	if _, port, err := net.SplitHostPort(r.Listen); err == nil && port == portDNS {
		idle = defaultFlowIdleDNS
	}
	def(d, "route.timeouts.idle", &r.Timeouts.Idle, idle)
}

// checkDatagrams refuses what needs connections, or somebody who reads requests, where there are datagrams.
func (d *decoder) checkDatagrams(s *Spec) error {
	r := s.Route
	if r.Mode != ModeProxy {
		return d.at("route.mode", "with route.mode: %s the kernel hands TCP connections over, and datagrams have none", r.Mode).Hinted("leave route.mode out: the edge passes datagrams on itself")
	}
	if s.Run.Port != 0 {
		return d.at("run.port", "the kernel gives other ports for TCP, and not for UDP").Hinted("have the service read the environment variable PORT, or pass {{.Port}} in run.args")
	}
	for _, n := range []setting{
		{"route.tls", r.TLS != "off"}, {"route.http", r.HTTP != ""}, {"route.http3", r.HTTP3}, {"route.send_proxy", r.SendProxy != ""},
		{"route.proxy_protocol", r.Proxied}, {"route.trusted", len(r.Trusted) > 0},
	} {
		if n.set {
			return d.at(n.path, "this is of connections, and with route.protocol: udp datagrams are passed on as they are").Hinted("remove it; a service that speaks DTLS or QUIC has the handshakes itself")
		}
	}
	for _, n := range []setting{{"route.hosts", len(r.Hosts) > 0}, {"route.preview.host", r.Preview.Host != ""}} {
		if n.set {
			return d.at(n.path, "a datagram names no host").Hinted("give the service a route.listen of its own")
		}
	}
	if all := d.ofRequests(s); len(all) > 0 {
		return d.at(all[0].path, "this is done by who reads requests, and with route.protocol: udp datagrams are passed on as they are").Hinted("remove it")
	}
	return nil
}
