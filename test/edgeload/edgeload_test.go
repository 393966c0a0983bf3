//go:build unix

// Package edgeload holds the promise that no client of the edge is harmed by what is changed behind it: 215 connections of every
// kind, while traffic is switched, weights change, certificates are renewed and the edge itself is replaced.
package edgeload

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	connections  = 215
	switches     = 20
	weights      = 20
	replacements = 10
	reloads      = 10
)

// patience is how long a machine may take to come right.
const patience = 30 * time.Second

// shop moves between two releases that both stay up; till's traffic moves in small steps.
const (
	shopSpec = `service: shop
route:
  hosts: [shop.test]
  listen: %q
  tls: own
  http3: true
  certificate: {cert: %q, key: %q}
run: {instances: 2}
release: {watch: 100ms, warm: 10m, keep: 50}
`
	tillSpec = `service: till
route: {hosts: [till.test], listen: %q}
run: {instances: 2}
release: {strategy: canary, steps: [10%%, 30%%, 50%%, 70%%, 90%%], watch: 100ms, keep: 50}
`
)

// service writes a copy of the program with a spec of its own.
func service(t *testing.T, name, spec string) string {
	t.Helper()
	return rig.Service(t, "test/edgeload/testdata/app", name, spec)
}

// phase does something under load and judges what the clients saw of it.
func (l *load) phase(t *testing.T, name string, f func()) {
	t.Helper()
	requests, messages, failed, begun := l.requests.Load(), l.messages.Load(), l.failed.Load(), time.Now()
	f()
	n := l.failed.Load() - failed
	t.Logf("%-44s %6d requests, %6d messages, %d failed, %s", name, l.requests.Load()-requests, l.messages.Load()-messages, n, time.Since(begun).Round(time.Millisecond))
	if n > 0 {
		t.Errorf("%s: %d failed%s", name, n, l.why())
	}
}

func TestNobodyIsHarmed(t *testing.T) {
	m, ca := rig.NewMachine(t), newAuthority(t)
	shop := site{"shop.test", rig.Free(t), &tls.Config{RootCAs: ca.pool, ServerName: "shop.test"}}
	till := site{"till.test", rig.Free(t), nil}
	m.Up(t, service(t, "shop", fmt.Sprintf(shopSpec, shop.addr, ca.certFile, ca.keyFile)))
	m.Move(t, "restart", "shop") // the release to switch to
	m.Up(t, service(t, "till", fmt.Sprintf(tillSpec, till.addr)))

	l := newLoad(t)
	for name, s := range map[string]site{"TLS, ": shop, "plain, ": till} {
		l.run(30, name+"HTTP/1.1 kept", s, l.one(true))
		l.run(25, name+"HTTP/1.1 anew", s, l.one(false))
		l.run(20, name+"HTTP/2", s, l.two)
	}
	l.run(15, "HTTP/3", shop, l.three)
	l.run(25, "WebSocket over TLS that stays", shop, l.socket(0))
	l.run(25, "short WebSocket", till, l.socket(3))
	if l.clients != connections {
		t.Fatalf("%d clients", l.clients)
	}
	rig.Eventually(t, patience, "load", func() bool { return l.requests.Load() > 1000 && l.messages.Load() > 100 })

	l.phase(t, "switches, and certificates meanwhile", func() { l.switching(t, m, ca) })
	var replaced []proc.ID
	l.phase(t, "weights, and replacements of the edge meanwhile", func() {
		t.Run("meanwhile", func(t *testing.T) {
			t.Run("weights", func(t *testing.T) { t.Parallel(); stepping(t, m, "till", weights) })
			t.Run("replacements", func(t *testing.T) { t.Parallel(); replaced = l.replacing(t, m, shop) })
		})
	})
	l.end()
	t.Logf("%d requests, %d messages, %d sent again as the protocol says, %d failed%s", l.requests.Load(), l.messages.Load(), l.again.Load(), l.failed.Load(), l.why())
	if l.failed.Load() > 0 {
		t.Fail()
	}
	rig.Eventually(t, patience, "the end of the edges that were replaced", func() bool {
		for _, id := range replaced {
			if id.Alive() {
				return false
			}
		}
		return true
	})
	if n := m.Sums(t)["fairlead_edge_requests_total"]; n != l.requests.Load() {
		t.Errorf("the load counts %d requests, the edges %d", l.requests.Load(), n)
	}
}

// switching moves all traffic to and fro, and replaces the certificate every other time.
func (l *load) switching(t *testing.T, m *rig.Machine, ca *authority) {
	t.Helper()
	number := ""
	for i := range switches {
		if i%(switches/reloads) == 0 {
			number = ca.renew(t)
		}
		if r := m.Move(t, "rollback", "--service", "shop"); r.Failed != 0 || r.From == r.To {
			t.Errorf("the receipt says %+v", r)
		}
		if (i+1)%(switches/reloads) == 0 {
			rig.Eventually(t, patience, "the new certificate", func() bool {
				_, seen := l.serials.Load(number)
				return seen
			})
		}
	}
}

// replacing replaces the edge. Each new one gets a socket that stays. It returns which processes were replaced.
func (l *load) replacing(t *testing.T, m *rig.Machine, s site) (replaced []proc.ID) {
	t.Helper()
	for range replacements {
		pid := m.PID(t, "edge")
		old, err := proc.Identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		replaced = append(replaced, old)
		if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
			t.Fatalf("agent upgrade: %s", stderr)
		}
		if now := m.PID(t, "edge"); now == pid {
			t.Fatalf("the edge is still %d", now)
		}
		l.run(1, "WebSocket over TLS that stays, opened later", s, l.socket(0))
	}
	return replaced
}
