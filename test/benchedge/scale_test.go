package benchedge

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
)

// The size of a large machine: every service in each environment is a route of its own.
const (
	services     = 200
	environments = 5
	swaps        = 50
	slowSwap     = 200 * time.Millisecond // what one may take on a busy machine, so that all of them find their time in a round
)

// scale is what the benchmark found.
type scale struct {
	first       float64 // ms the first table took
	table       int     // bytes of JSON
	idle        []float64
	calm        []sample // rounds without swaps
	one, all    swapped  // rounds in which each swap moves the routes of one service, or of all
	empty, full float64  // MB without a table and with it
	conns       int
	lasts       time.Duration
	held        float64 // MB with the connections
}

// swapped is what rounds with swaps gave.
type swapped struct {
	took   []float64 // ms a swap
	rounds []sample
}

// bigTable sends the routes of each service to the release of its two.
func bigTable(w *world, listen string, releases [services]int) edge.Table {
	var t edge.Table
	for i := range services * environments {
		service := i % services
		release := releases[service]
		r := edge.Route{Service: fmt.Sprintf("service%d", service), Environment: fmt.Sprintf("env%d", i/services), Listen: listen,
			Hosts: []string{fmt.Sprintf("host%d.test", i)}}
		for n := 1; n <= 2; n++ {
			back := edge.Backend{Release: n, Endpoints: []edge.Endpoint{{Instance: 1, Addr: w.backend.More[(service+n*services/2)%services]}}}
			if n == release {
				back.Weight = 100
			}
			r.Backends = append(r.Backends, back)
		}
		t.Routes = append(t.Routes, r)
	}
	return t
}

// BenchmarkSwap measures an edge with 1,000 routes of 200 services and 10,000 idle connections: how long it takes to put a whole table
// in force, what memory it needs, and what 50 swaps do to requests meanwhile: such as a rollout makes, which move one service, and such
// as nothing makes, which move all.
func BenchmarkSwap(b *testing.B) {
	limit := prepare(b)
	if !chosen("ONLY", "swap") {
		b.Skip("not in ONLY")
	}
	w := newWorld(b, services)
	pid, client := newEdge(b, w)
	listen := freeAddr(b)
	for range b.N {
		s := &scale{empty: residentMB(b, pid), conns: min(manyIdle, limit/2)} // the other half is for the backend's side and the load
		releases := [services]int{}
		swap := func(moved ...int) float64 {
			for _, n := range moved {
				releases[n] = releases[n]%2 + 1
			}
			t := bigTable(w, listen, releases)
			begun := time.Now()
			if _, err := client.Set(b.Context(), t); err != nil {
				b.Fatal(err)
			}
			return time.Since(begun).Seconds() * 1e3
		}
		var whole [services]int
		for n := range whole {
			whole[n] = n
		}
		all := func() float64 { return swap(whole[:]...) }
		one := func() float64 { return swap(rand.IntN(services)) }
		s.first = all()
		s.full = residentMB(b, pid)
		text, err := json.Marshal(bigTable(w, listen, releases))
		if err != nil {
			b.Fatal(err)
		}
		s.table = len(text)
		conns := idleLoad{false, s.conns}.open(b, w, listen, "host7.test")
		pause(b, 2*time.Second)
		s.held = residentMB(b, pid)
		for range swaps {
			s.idle = append(s.idle, all())
		}
		edgeAt := running{name: "fairlead", addr: listen, pid: pid}
		hosts := load{shape{false, "1k", false}, max(duration(b), swaps*slowSwap)}
		s.lasts = hosts.lasts
		hosts.hosts(b, w, edgeAt) // to warm up
		for range rounds {
			s.calm = append(s.calm, hosts.hosts(b, w, edgeAt))
			s.one.round(b, hosts, w, edgeAt, one)
			s.all.round(b, hosts, w, edgeAt, all)
		}
		conns.stillServed(b, 100)
		s.report(b)
		write(b, scalePart, s.page(w))
	}
}

// round loads every route in turn while swap is called so often.
func (s *swapped) round(b *testing.B, l load, w *world, r running, swap func() float64) {
	b.Helper()
	stop := make(chan struct{})
	done := make(chan []float64)
	go func() { done <- every(l.lasts/(swaps+1), stop, swap) }()
	s.rounds = append(s.rounds, l.hosts(b, w, r))
	close(stop)
	s.took = append(s.took, <-done...)
}

// every calls f for so many swaps, one each so often or as soon as the one before has ended, until stop is closed.
func every(often time.Duration, stop chan struct{}, f func() float64) (took []float64) {
	t := time.NewTicker(often)
	defer t.Stop()
	for len(took) < swaps {
		select {
		case <-t.C:
			took = append(took, f())
		case <-stop:
			return took
		}
	}
	return took
}

// hosts loads every route in turn.
func (l load) hosts(b *testing.B, w *world, r running) sample {
	b.Helper()
	before := cpuSeconds(b, r.pid)
	var got result
	w.beside.during(b, func() {
		got = wrk(b, l.lasts, []string{"-s", "testdata/hosts.lua", r.url(false, "1k"), "--", strconv.Itoa(services * environments)})
	})
	got.check(b, "every route in turn")
	return sample{rate: float64(got.Requests) / (float64(got.Micros) / 1e6), p50: time.Duration(got.P50) * time.Microsecond,
		p99: time.Duration(got.P99) * time.Microsecond, cpu: (cpuSeconds(b, r.pid) - before) / float64(got.Requests) * 1e5,
		memory: residentMB(b, r.pid)}
}

// ratio of p99 with swaps to that without.
func (s *scale) ratio(with swapped) float64 {
	return float64(medians(with.rounds).p99) / float64(medians(s.calm).p99)
}

func (s *scale) report(b *testing.B) {
	b.ReportMetric(median(s.idle), "swap-ms")
	b.ReportMetric(median(s.one.took), "swap-under-load-ms")
	b.ReportMetric(s.ratio(s.one), "p99-ratio")
	b.ReportMetric(s.ratio(s.all), "p99-ratio-all")
	b.ReportMetric(s.held, "MB")
}

func (s *scale) page(w *world) string {
	calm := medians(s.calm)
	text := fmt.Sprintf(scaleHead, services*environments, services, s.conns, float64(s.table)/1024, rounds, s.lasts, connections, machine(), 100*w.beside.share())
	text += fmt.Sprintf("| the first table put in force | %.1f ms |\n", s.first)
	text += fmt.Sprintf("| a table put in force that moves all, nothing else to do | %.1f ms (median of %d; longest %.1f) |\n", median(s.idle), len(s.idle), slices.Max(s.idle))
	for _, with := range []struct {
		moves string
		swapped
	}{{"one service", s.one}, {"all services", s.all}} {
		text += fmt.Sprintf("| a table put in force that moves %s, under load | %.1f ms (median of %d; longest %.1f) |\n", with.moves, median(with.took), len(with.took), slices.Max(with.took))
	}
	text += fmt.Sprintf("| memory: no table; the table; and the connections | %.0f MB; %.0f MB; %.0f MB |\n", s.empty, s.full, s.held)
	text += fmt.Sprintf("| memory after the load | %.0f MB |\n", medians(s.all.rounds).memory)
	text += "\n| | requests/s | p50 / p99, ms | p99, with swaps / without |\n|---|---|---|---|\n"
	text += fmt.Sprintf("| without swaps | %.0f | %s / %s | - |\n", calm.rate, ms(calm.p50), ms(calm.p99))
	for _, with := range []struct {
		moves string
		swapped
	}{{"one service", s.one}, {"all services", s.all}} {
		m := medians(with.rounds)
		text += fmt.Sprintf("| %d swaps a round, each moves %s | %.0f | %s / %s | **%.2f** |\n", len(with.took)/rounds, with.moves, m.rate, ms(m.p50), ms(m.p99), s.ratio(with.swapped))
	}
	return text
}

const scaleHead = `## A large table

%d routes of %d services, each with two releases, and %d idle keep-alive connections held. A swap sends the whole table (%.0f kB of JSON)
through the edge's socket, and ends when the table is in force and on disk. Such as a rollout makes move the five routes of one service to
its other release; others move every route there is. The load asks for all routes in turn; medians of %d rounds of %v without swaps and with
them, in turns, %d connections. No request failed, and the idle connections were still served at the end. Nothing paces the clients: what a
swap takes from the cores they feel at once, and so what who asks for it takes, who is on the same machine.

Measured on %s. Other work took about %.0f %% of the machine.

| | |
|---|---|
`
