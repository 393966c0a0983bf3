package edge

import (
	"cmp"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Datagrams says that a route is one of UDP. What a client sends from one port is a flow: all of it goes to one instance, whose answers
// go back to the client.
type Datagrams struct {
	Idle  time.Duration `json:"idle,omitempty"`  // how long nothing may go over a flow until it is forgotten; 0 for ever
	Drain time.Duration `json:"drain,omitempty"` // how long an instance is left its flows that gets no new ones, before it is stopped
}

// datagramName begins the names of the UDP sockets of such routes. Other than those of HTTP/3 they are no part of an address for TCP.
const datagramName = "datagrams:"

// datagramAddress is the address in the name of such a socket.
func datagramAddress(name string) (addr string, ok bool) {
	return strings.CutPrefix(name, datagramName)
}

// checkDatagrams reports what no edge could do with a route's datagrams.
func (r *Route) checkDatagrams() error {
	d := r.Datagrams
	if d == nil {
		return nil
	}
	wrong := func(what string) error {
		return fail.New(fail.Internal, "routing table", "%s: datagrams are passed on as they are, with %s", r.Key(), what)
	}
	switch g := cmp.Or(r.Guard, &Guard{}); {
	case d.Idle < 0 || d.Drain < 0:
		return wrong("a negative time")
	case r.Stream != nil || r.TLS != nil || r.Redirect != "" || r.Introduced || r.HTTP3 || r.Mode != "":
		return wrong("something of connections")
	case len(r.Hosts) > 0 || r.Preview.Host != "":
		return wrong("hosts that nobody names")
	case len(r.Paths) > 0 || len(r.Methods) > 0 || r.Match != Header{} || r.Strip || !r.Headers.zero() || r.Preview.Header.Name != "" || r.Mirror > 0 || r.Sticky != "" && r.Sticky != "client":
		return wrong("something of requests")
	case g.Request != 0 || g.Try != 0 || g.Body != 0 || g.Concurrency.Auto || slices.ContainsFunc(g.Rates, func(x Rate) bool { return strings.HasPrefix(x.By, ByHeader) }):
		return wrong("limits of requests")
	}
	return nil
}

// checkUDP reports who shares a UDP port with a route that takes all that comes there.
func (t *Table) checkUDP() error {
	for i := range t.Routes {
		r := &t.Routes[i]
		if err := r.checkDatagrams(); err != nil {
			return err
		}
		if r.Datagrams == nil {
			continue
		}
		for j := range t.Routes {
			o := &t.Routes[j]
			if i == j || o.Datagrams == nil && !o.HTTP3 || !overlap(r.Listen, o.Listen) {
				continue
			}
			if o.HTTP3 {
				return fail.New(fail.Usage, "routing table", "%s is answered over HTTP/3 at the UDP port of %s, which %s has for itself", o.Key(), o.Listen, r.Key()).
					Hinted("give %s another route.listen, or leave route.http3 of %s out", r.Service, o.Service)
			}
			return fail.New(fail.Usage, "routing table", "%s takes all datagrams to %s, as they name no host: %s cannot be there, too", r.Key(), r.Listen, o.Key()).
				Hinted("give one of them its own route.listen")
		}
	}
	return nil
}

// overlap reports whether there is a port that two addresses have in common. One that the kernel chooses is nobody else's, but of the
// same name.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return a == b || portA == portB && portA != "0" && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

// everywhere reports whether a host stands for all addresses of the machine.
func everywhere(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }

// datagrams is the route of what comes to a UDP address, nil where there is none.
func (c *routes) datagrams(addr string) *route {
	for _, b := range c.byListen[datagramName+addr][""] {
		return b.route
	}
	return nil
}
