// Package edge takes a machine's public traffic and hands it to instances.
//
// It gets whole routing tables, never patches, and keeps the last one on disk. Several generations of the process may
// serve at once while one replaces the other: they share the table and, in one memory-mapped file, the counters.
package edge

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Table is everything the edge needs to know.
type Table struct {
	Generation uint64  `json:"generation"` // set by the edge; grows with every change
	Routes     []Route `json:"routes"`
}

// Route is one service's traffic.
type Route struct {
	Service     string         `json:"service"`
	Environment string         `json:"environment"`
	Listen      string         `json:"listen"`            // host:port
	Mode        string         `json:"mode,omitempty"`    // "kernel" or "adaptive": the machine has the kernel place connections, and the edge serves those that are left to it
	Direct      bool           `json:"direct,omitempty"`  // the kernel does: who is still here is asked to come again, to an instance
	Hosts       []string       `json:"hosts,omitempty"`   // lower case; "*.example.com" for all below; empty for all
	Methods     []string       `json:"methods,omitempty"` // only these; none for all
	Match       Header         `json:"match,omitzero"`    // only requests with it
	Paths       []string       `json:"paths,omitempty"`   // only what lies below one of them, as "/api"; none for all
	Backends    []Backend      `json:"backends"`
	Sticky      string         `json:"sticky,omitempty"`     // how a client keeps its release: client, cookie:NAME or header:NAME
	TLS         *TLS           `json:"tls,omitempty"`        // nil: plain HTTP
	Redirect    string         `json:"redirect,omitempty"`   // host:port where plain HTTP is told to come to Listen
	Strip       bool           `json:"strip,omitempty"`      // instances do not see the path of Paths that matched
	Headers     Headers        `json:"headers,omitzero"`     // what is changed in requests and answers
	Trusted     []netip.Prefix `json:"trusted,omitempty"`    // proxies in front, whose word on who the client is counts
	Introduced  bool           `json:"introduced,omitempty"` // they begin each connection with the PROXY protocol
	Preview     Preview        `json:"preview,omitzero"`     // who sees the newest release, whatever its share
	Mirror      int            `json:"mirror,omitempty"`     // percent of the safe requests that a release without a share gets a copy of
	HTTP3       bool           `json:"http3,omitempty"`      // it is answered over HTTP/3, too, at the UDP port of Listen
	Stopped     bool           `json:"stopped,omitempty"`    // answer at once that there is nobody, rather than wait
	Guard       *Guard         `json:"guard,omitempty"`      // protections; nil for none
	Moved       []Redirection  `json:"moved,omitempty"`      // what is elsewhere; the first that fits counts
	Page        string         `json:"page,omitempty"`       // HTML for a person to whom no instance can answer
	Access      *Access        `json:"access,omitempty"`     // which requests are written down; nil for none
	Hedge       *Hedge         `json:"hedge,omitempty"`      // when a second instance is asked as well; nil for never
	Traces      *Traces        `json:"traces,omitempty"`     // which leave spans; nil for none
	Compress    *Compress      `json:"compress,omitempty"`   // which answers; nil for none
	Cache       *Cache         `json:"cache,omitempty"`      // what is kept of them; nil for nothing
	Stream      *Stream        `json:"stream,omitempty"`     // connections are passed on as they are; nil for HTTP
	Datagrams   *Datagrams     `json:"datagrams,omitempty"`  // and so are datagrams, at the UDP port of Listen alone; nil for TCP
}

// Backend is one release's share of a route.
type Backend struct {
	Release   int        `json:"release"`
	Weight    int        `json:"weight"` // percent; the weights of a route's backends sum to 100, or to 0
	Endpoints []Endpoint `json:"endpoints"`
	Faults    []Fault    `json:"faults,omitempty"`
}

// Endpoint is one ready instance.
type Endpoint struct {
	Instance int    `json:"instance"`
	Addr     string `json:"addr"`
}

// Key names the route.
func (r Route) Key() string { return r.Service + "@" + r.Environment }

// Find returns the route of a service, nil where there is none.
func (t *Table) Find(service, env string) *Route {
	for i := range t.Routes {
		if t.Routes[i].Service == service && t.Routes[i].Environment == env {
			return &t.Routes[i]
		}
	}
	return nil
}

// Check reports the first thing in t that no edge could serve.
func (t *Table) Check() error {
	type place struct {
		addr, host, path, method string
		header                   Header
	}
	if err := t.checkUDP(); err != nil {
		return err
	}
	taken, keys := make(map[place]string, len(t.Routes)), make(map[string]bool, len(t.Routes))
	for i := range t.Routes {
		breathe(i)
		r := &t.Routes[i]
		name := r.Key()
		if keys[name] {
			// A held request finds its route again by this key: with two of them it would go to the other one's instances.
			return fail.New(fail.Internal, "routing table", "%s has two routes", name)
		}
		keys[name] = true
		if err := cmp.Or(r.Guard.check(name), r.Access.check(name), r.Traces.check(name), r.Hedge.check(name), r.Compress.check(name), r.Cache.check(name), r.checkHTTP3()); err != nil {
			return err
		}
		for _, m := range r.Moved {
			if err := m.check(name); err != nil {
				return err
			}
		}
		if _, _, err := net.SplitHostPort(r.Listen); err != nil {
			return fail.New(fail.Usage, "routing table", "%s: listen %q: %w", r.Key(), r.Listen, err)
		}
		if other := t.beside(r); other != nil {
			return fail.New(fail.Usage, "routing table", "%s takes connections at %s, which %s has for itself: it is steered by the kernel, which knows no hosts", other.Key(), other.Listen, r.Key()).
				Hinted("give one of them a route.listen of its own, or set route.mode: proxy for %s", r.Service)
		}
		for _, addr := range r.addresses() {
			for _, h := range hostsOf(r) {
				for _, p := range pathsOf(r) {
					for _, m := range methodsOf(r) {
						at := place{addr, h, p, m, r.Match}
						if other, ok := taken[at]; ok {
							return fail.New(fail.Usage, "routing table", "%s on %s already goes to %s", strings.TrimSpace(m+" "+cmp.Or(h+strings.TrimSuffix(p, "/"), "everything")), addr, other).
								Hinted("give %s its own route.listen, route.hosts, route.paths, route.methods or route.header", r.Service)
						}
						taken[at] = name
					}
				}
			}
		}
		sum := 0
		for _, b := range r.Backends {
			if b.Weight < 0 || b.Weight > 100 {
				return fail.New(fail.Internal, "routing table", "%s: release %d has weight %d", r.Key(), b.Release, b.Weight)
			}
			sum += b.Weight
			for _, f := range b.Faults {
				if err := f.check(r.Key()); err != nil {
					return err
				}
			}
			for _, e := range b.Endpoints {
				if _, _, err := net.SplitHostPort(e.Addr); err != nil {
					return fail.New(fail.Internal, "routing table", "%s: endpoint %q: %w", r.Key(), e.Addr, err)
				}
			}
		}
		if r.Mirror < 0 || r.Mirror > 100 {
			return fail.New(fail.Internal, "routing table", "%s: %d %% cannot be copied", r.Key(), r.Mirror)
		}
		if sum != 0 && sum != 100 {
			return fail.New(fail.Internal, "routing table", "%s: the weights sum to %d", r.Key(), sum)
		}
	}
	return cmp.Or(t.checkStreams(), t.checkTLS())
}

// beside returns another route with the port of r, where r is steered by the kernel and must have it for itself; nil where there is none.
func (t *Table) beside(r *Route) *Route {
	if r.Mode == "" {
		return nil
	}
	for i, o := range t.Routes {
		if _, port, _ := net.SplitHostPort(o.Listen); o.Key() != r.Key() && o.Datagrams == nil && strings.HasSuffix(r.Listen, ":"+port) {
			return &t.Routes[i]
		}
	}
	return nil
}

// routes is a table made ready for requests: by listen address, then by host, then the longest path first.
type routes struct {
	generation uint64
	byListen   map[string]map[string][]claim // "*.example.com" stands there as ".example.com"
	byKey      map[string]*route
	introduced map[string][]netip.Prefix // by listen address: whose connections begin with the PROXY protocol
	passes     map[string]bool           // the listen addresses where some handshakes are for instances
}

// route is one [Route] with its counters.
type route struct {
	Route
	read  *Route // what it was made of, to be known by; nil where it was not read
	key   string
	stats *slot
	backs []*backend
	tls   *tls.Config // of handshakes; nil for plain HTTP

	looks         bool // something of the route depends on the request's headers
	changes       bool // and something is changed in it
	changesAnswer bool

	access *accessRules           // nil where nothing is written down
	traces *traceRules            // nil where there are no spans
	memory atomic.Pointer[memory] // of requests under earlier tables, too; see recall
}

type backend struct {
	route     string // its key
	release   int
	weight    int
	endpoints []*endpoint
}

type endpoint struct {
	instance int
	addr     string
	slot     *slot
	state    *endpointState
	faults   []Fault // of its release
	release  *backend
}

// named returns the route with a key; one with nothing in it where there is none.
func (c *routes) named(key string) *route {
	if c != nil && c.byKey[key] != nil {
		return c.byKey[key]
	}
	return &route{}
}

// endpoint returns a release's instance where it is now, nil where there is none.
func (rt *route) endpoint(release int, e Endpoint) *endpoint {
	for _, b := range rt.backs {
		if b.release != release {
			continue
		}
		for _, had := range b.endpoints {
			if had.instance == e.Instance && had.addr == e.Addr {
				return had
			}
		}
	}
	return nil
}

func slotNames(tables ...*Table) map[string]bool {
	names := map[string]bool{}
	for _, t := range tables {
		for _, r := range t.Routes {
			names[slotKey{Service: r.Service, Environment: r.Environment}.String()] = true
			for _, b := range r.Backends {
				for _, e := range b.Endpoints {
					names[slotKey{r.Service, r.Environment, b.Release, e.Instance}.String()] = true
				}
			}
		}
	}
	return names
}

type slotKey struct {
	Service     string
	Environment string
	Release     int
	Instance    int
}

func (k slotKey) String() string {
	return k.Service + "@" + k.Environment + "." + strconv.Itoa(k.Release) + "." + strconv.Itoa(k.Instance)
}

func parseSlotKey(s string) (k slotKey, ok bool) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return k, false
	}
	parts := strings.Split(s[at+1:], ".")
	if len(parts) != 3 {
		return k, false
	}
	k.Service, k.Environment = s[:at], parts[0]
	_, err := fmt.Sscanf(parts[1]+" "+parts[2], "%d %d", &k.Release, &k.Instance)
	return k, err == nil
}
