//go:build unix

package edge

import (
	"net/netip"
	"slices"
	"strings"
)

// compile builds the form requests use. Endpoint states (how an address did lately) are carried over.
// The counters of the table still in force are kept: its requests count into them until the swap and after.
// So are the routes of before, its compiled form, that read says are there as they were (read may be nil), and the endpoints of the
// others: to find their counters anew is most of the work.
func (s *Server) compile(t *Table, read []*Route, before *routes) (*routes, error) {
	c := &routes{generation: t.Generation, byListen: map[string]map[string][]claim{}, byKey: make(map[string]*route, len(t.Routes)), introduced: map[string][]netip.Prefix{}, passes: map[string]bool{}}
	if err := s.stats.recycle(func() map[string]bool { return slotNames(t, s.last) }); err != nil {
		return nil, err
	}
	for i := range t.Routes {
		breathe(i)
		key := t.Routes[i].Key()
		cr := before.named(key)
		if read == nil || !cr.still(read[i]) {
			var err error
			if cr, err = s.compileRoute(t.Routes[i].advertised(), cr); err != nil {
				return nil, err
			}
		}
		if read != nil {
			cr.read = read[i]
		}
		cr.inUse(t.Generation)
		c.add(cr)
	}
	for _, hosts := range c.byListen {
		for _, all := range hosts {
			slices.SortStableFunc(all, narrower)
		}
	}
	forget(s.states, s.last.Generation)
	return c, nil
}

// compileRoute makes a route ready for requests; old is the one that it takes the place of.
func (s *Server) compileRoute(r Route, old *route) (*route, error) {
	cr := &route{Route: r, key: r.Key(), stats: old.stats, access: compileAccess(&r), traces: compileTraces(&r)}
	var err error
	if cr.stats == nil {
		if cr.stats, err = s.stats.slot(slotKey{Service: r.Service, Environment: r.Environment}); err != nil {
			return nil, err
		}
	}
	change := r.Headers.Request
	auth := r.Guard != nil && r.Guard.Auth != nil
	cr.changes = auth || r.Strip || len(r.Trusted) > 0 || len(change.Set) > 0 || len(change.Remove) > 0
	cr.changesAnswer = len(r.Headers.Response.Set) > 0 || len(r.Headers.Response.Remove) > 0
	cr.looks = cr.changes || r.Preview.on() || r.Mirror > 0 || r.Sticky != "" && r.Sticky != "client"
	for _, b := range r.Backends {
		cr.looks = cr.looks || len(b.Faults) > 0
		cb := &backend{route: cr.key, release: b.Release, weight: b.Weight}
		for _, e := range b.Endpoints {
			ce := &endpoint{instance: e.Instance, addr: e.Addr, faults: b.Faults, release: cb}
			if had := old.endpoint(b.Release, e); had != nil {
				ce.slot, ce.state = had.slot, had.state
			} else {
				if ce.slot, err = s.stats.slot(slotKey{r.Service, r.Environment, b.Release, e.Instance}); err != nil {
					return nil, err
				}
				ce.state = stateAt(s.states, stateKey(r, b, e))
			}
			cb.endpoints = append(cb.endpoints, ce)
		}
		cr.backs = append(cr.backs, cb)
	}
	return cr, nil
}

// still reports whether the route is what was read into r, and whatever it was made of besides cannot have changed.
func (rt *route) still(r *Route) bool {
	return rt.read == r && r != nil && (r.TLS == nil || r.TLS.Clients == "")
}

// inUse keeps what is known of the route's endpoints.
func (rt *route) inUse(generation uint64) {
	for _, b := range rt.backs {
		for _, e := range b.endpoints {
			e.state.table = generation
		}
	}
}

// add puts a route where requests find it. What it is beside there is sorted when all are.
func (c *routes) add(cr *route) {
	r := &cr.Route
	c.byKey[cr.key] = cr
	c.passes[r.Listen] = c.passes[r.Listen] || r.passes()
	for _, addr := range r.addresses() {
		if c.byListen[addr] == nil {
			c.byListen[addr] = map[string][]claim{}
		}
		if r.Introduced {
			c.introduced[addr] = append(c.introduced[addr], r.Trusted...)
		}
		for _, h := range hostsOf(r) {
			for _, p := range pathsOf(r) {
				h = strings.TrimPrefix(h, "*")
				c.byListen[addr][h] = append(c.byListen[addr][h], claim{p, r.Methods, r.Match, cr})
			}
		}
	}
}
