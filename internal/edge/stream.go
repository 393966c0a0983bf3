package edge

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Stream says that a route's connections are passed on to instances as they are: each goes to one of them, and what goes over it
// is nobody's request. Where the route has TLS besides, the edge ends it and passes on what was in it.
type Stream struct {
	Passthrough bool          `json:"passthrough,omitempty"` // the instance ends TLS: only the name is read that the client asks for
	Introduce   int           `json:"introduce,omitempty"`   // the version of the PROXY protocol with which connections to instances begin; 0 for none
	Idle        time.Duration `json:"idle,omitempty"`        // how long nothing may go over a connection until it is ended; 0 for ever
}

// passes reports whether the route's clients have their handshakes with instances.
func (r *Route) passes() bool { return r.Stream != nil && r.Stream.Passthrough }

// encrypts reports whether the route's clients begin with a handshake, whoever they have it with.
func (r *Route) encrypts() bool { return r.TLS != nil || r.passes() }

// checkStreams reports what no edge could tell apart: of a connection it knows at most the name that its handshake asks for.
func (t *Table) checkStreams() error {
	names, users := make(map[string]*Route, len(t.Routes)), map[string][]*Route{}
	for i := range t.Routes {
		breathe(i)
		r := &t.Routes[i]
		if err := r.checkStream(); err != nil {
			return err
		}
		if r.Datagrams != nil {
			continue
		}
		for _, addr := range r.addresses() {
			users[addr] = append(users[addr], r)
		}
		for _, h := range hostsOf(r) {
			at := r.Listen + " " + h
			was := names[at]
			if was != nil && (was.Stream != nil || r.Stream != nil) {
				return fail.New(fail.Usage, "routing table", "%s and %s share %s, and the connections of one are passed on as they are: nobody reads paths there", was.Key(), r.Key(), cmp.Or(h, r.Listen)).
					Hinted("give %s its own route.hosts or route.listen", r.Service)
			}
			names[at] = r
		}
	}
	for i := range t.Routes {
		r := &t.Routes[i]
		if all := users[r.Listen]; r.Stream != nil && !r.encrypts() && len(all) > 1 {
			other := all[slices.IndexFunc(all, func(o *Route) bool { return o != r })]
			return fail.New(fail.Usage, "routing table", "%s takes every connection to %s, as plain TCP names no host: %s cannot be there, too", r.Key(), r.Listen, other.Key()).
				Hinted("give one of them its own route.listen")
		}
	}
	return nil
}

// checkStream reports what does not go with passing connections on.
func (r *Route) checkStream() error {
	s := r.Stream
	if s == nil {
		return nil
	}
	wrong := func(what string) error {
		return fail.New(fail.Internal, "routing table", "%s: connections are passed on as they are, with %s", r.Key(), what)
	}
	switch g := cmp.Or(r.Guard, &Guard{}); {
	case s.Introduce < 0 || s.Introduce > 2 || s.Idle < 0:
		return wrong("an unknown PROXY protocol, or a negative time")
	case s.Passthrough && r.TLS != nil:
		return wrong("TLS of the edge's and of the instances'")
	case !r.encrypts() && (len(r.Hosts) > 0 || r.Preview.Host != ""):
		return wrong("hosts that nobody names")
	case len(r.Paths) > 0 || r.Strip || !r.Headers.zero() || r.Preview.Header.Name != "" || r.Mirror > 0 || r.Sticky != "" && r.Sticky != "client":
		return wrong("something of requests")
	case g.Request != 0 || g.Try != 0 || g.Body != 0 || g.Concurrency.Auto || slices.ContainsFunc(g.Rates, func(x Rate) bool { return strings.HasPrefix(x.By, ByHeader) }):
		return wrong("limits of requests")
	case r.Redirect != "" && !s.Passthrough:
		return wrong("a redirection")
	}
	return nil
}

func (h Headers) zero() bool {
	return len(h.Request.Set)+len(h.Request.Remove)+len(h.Response.Set)+len(h.Response.Remove) == 0
}

// liner is a [teller] that writes its part of an access log's line itself.
type liner interface {
	line(b []byte, ex *exchange, o outcome) []byte
}
