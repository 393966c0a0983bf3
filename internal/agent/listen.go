package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
)

// The public port when the spec names none: the first free one from here on. It is bound to loopback: nobody outside
// reaches a service that nobody said should be reached.
const (
	firstListen = 8080
	lastListen  = 8999
)

// chooseListen returns the service's public address: the spec's, the one it has, or a free one.
func (a *Agent) chooseListen(ctx context.Context, s spec.Spec, env journal.Environment) (string, error) {
	table, err := a.machine.Table(ctx)
	if err != nil {
		return "", err
	}
	listen := s.Route.Listen
	if listen == "" {
		if listen, err = a.defaultListen(s, env, table); err != nil {
			return "", err
		}
	}
	next := edge.Table{Routes: slices.DeleteFunc(slices.Clone(table.Routes), func(r edge.Route) bool {
		return r.Service == s.Service && r.Environment == env.Environment && env.Service == s.Service
	})}
	next.Routes = append(next.Routes, machine.RouteOf(&s, "new", listen))
	return listen, next.Check()
}

func (a *Agent) defaultListen(s spec.Spec, env journal.Environment, table edge.Table) (string, error) {
	if len(s.Route.Hosts) > 0 {
		if os.Geteuid() == 0 && s.Route.TLS != "" && s.Route.TLS != "off" {
			return ":443", nil
		}
		if os.Geteuid() == 0 {
			return ":80", nil
		}
		return fmt.Sprintf(":%d", firstListen), nil
	}
	if env.Listen != "" {
		return env.Listen, nil
	}
	for port := firstListen; port <= lastListen; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if slices.ContainsFunc(table.Routes, func(r edge.Route) bool { return samePort(r.Listen, addr) }) {
			continue
		}
		if free(addr, s.Route.Datagrams()) {
			return addr, nil
		}
	}
	return "", fail.New(fail.Preflight, "", "no port between %d and %d is free", firstListen, lastListen).Hinted("set route.listen")
}

// free reports whether nobody has an address, for TCP or for UDP.
func free(addr string, udp bool) bool {
	if udp {
		c, err := net.ListenPacket("udp", addr)
		return err == nil && c.Close() == nil
	}
	l, err := net.Listen("tcp", addr)
	return err == nil && l.Close() == nil
}

func samePort(a, b string) bool {
	_, x, _ := net.SplitHostPort(a)
	_, y, _ := net.SplitHostPort(b)
	return x == y
}

// url is where a person looks at the service.
func (a *Agent) url(service, env, listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	scheme, usual := "http://", "80"
	if t, err := a.machine.Table(a.ctx); err == nil {
		r := t.Find(service, env)
		if r != nil && len(r.Hosts) > 0 {
			host = r.Hosts[0]
		}
		if r != nil && r.TLS != nil {
			scheme, usual = "https://", "443"
		}
		if r != nil && r.Stream != nil {
			scheme, usual = schemeOf(*r)
		}
		if r != nil && r.Datagrams != nil {
			scheme, usual = "udp://", ""
		}
	}
	if port == usual {
		return scheme + host
	}
	return scheme + net.JoinHostPort(host, port)
}

// schemeOf is how a person reaches a service whose connections are passed on, and the port that he need not write.
func schemeOf(r edge.Route) (scheme, usual string) {
	switch {
	case r.Stream.Passthrough:
		return "https://", "443" // most that have TLS of their own are that
	case r.TLS != nil:
		return "tls://", ""
	}
	return "tcp://", ""
}
