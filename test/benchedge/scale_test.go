package benchedge

import (
	"encoding/json"
	"fmt"
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
	first          float64   // ms the first table took
	table          int       // bytes of JSON
	idle, busy     []float64 // ms a swap took: with nothing else to do, and under load
	calm, swapping []sample  // rounds without swaps and with them
	empty, full    float64   // MB without a table and with it
	conns          int
	lasts          time.Duration
	held           float64 // MB with the connections
}

// bigTable sends every route to the release of its two.
func bigTable(w *world, listen string, release int) edge.Table {
	var t edge.Table
	for i := range services * environments {
		service := i % services
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
// in force, what memory it needs, and what 50 swaps, each of which moves every route, do to requests meanwhile.
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
		release := 0
		swap := func() float64 {
			release = release%2 + 1
			t := bigTable(w, listen, release)
			begun := time.Now()
			if _, err := client.Set(b.Context(), t); err != nil {
				b.Fatal(err)
			}
			return time.Since(begun).Seconds() * 1e3
		}
		s.first = swap()
		s.full = residentMB(b, pid)
		text, err := json.Marshal(bigTable(w, listen, release))
		if err != nil {
			b.Fatal(err)
		}
		s.table = len(text)
		conns := idleLoad{false, s.conns}.open(b, w, listen, "host7.test")
		pause(b, 2*time.Second)
		s.held = residentMB(b, pid)
		for range swaps {
			s.idle = append(s.idle, swap())
		}
		edgeAt := running{name: "fairlead", addr: listen, pid: pid}
		hosts := load{shape{false, "1k", false}, max(duration(b), swaps*slowSwap)}
		s.lasts = hosts.lasts
		hosts.hosts(b, w, edgeAt) // to warm up
		for range rounds {
			s.calm = append(s.calm, hosts.hosts(b, w, edgeAt))
			stop := make(chan struct{})
			done := make(chan []float64)
			go func() { done <- every(hosts.lasts/(swaps+1), stop, swap) }()
			s.swapping = append(s.swapping, hosts.hosts(b, w, edgeAt))
			close(stop)
			s.busy = append(s.busy, <-done...)
		}
		conns.stillServed(b, 100)
		s.report(b)
		write(b, scalePart, s.page(w))
	}
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
func (s *scale) ratio() float64 {
	return float64(medians(s.swapping).p99) / float64(medians(s.calm).p99)
}

func (s *scale) report(b *testing.B) {
	b.ReportMetric(median(s.idle), "swap-ms")
	b.ReportMetric(median(s.busy), "swap-under-load-ms")
	b.ReportMetric(s.ratio(), "p99-ratio")
	b.ReportMetric(s.held, "MB")
}

func (s *scale) page(w *world) string {
	calm, swapping := medians(s.calm), medians(s.swapping)
	text := fmt.Sprintf(scaleHead, services*environments, services, s.conns, float64(s.table)/1024, rounds, s.lasts, connections, machine(), 100*w.beside.share())
	text += fmt.Sprintf("| the first table put in force | %.1f ms |\n", s.first)
	text += fmt.Sprintf("| a table put in force, nothing else to do | %.1f ms (median of %d; longest %.1f) |\n", median(s.idle), len(s.idle), slices.Max(s.idle))
	text += fmt.Sprintf("| a table put in force under load | %.1f ms (median of %d; longest %.1f) |\n", median(s.busy), len(s.busy), slices.Max(s.busy))
	text += fmt.Sprintf("| memory: no table; the table; and the connections | %.0f MB; %.0f MB; %.0f MB |\n", s.empty, s.full, s.held)
	text += fmt.Sprintf("| memory after the load | %.0f MB |\n", swapping.memory)
	text += fmt.Sprintf("| requests/s, p50 / p99 without swaps | %.0f, %s / %s ms |\n", calm.rate, ms(calm.p50), ms(calm.p99))
	text += fmt.Sprintf("| with %d swaps a round | %.0f, %s / %s ms |\n", len(s.busy)/rounds, swapping.rate, ms(swapping.p50), ms(swapping.p99))
	return text + fmt.Sprintf("| **p99 with swaps / without** | **%.2f** |\n", s.ratio())
}

const scaleHead = `## A large table

%d routes of %d services, each with two releases, and %d idle keep-alive connections held. A swap sends the whole table (%.0f kB of JSON)
through the edge's socket, moves every route to its other release, and ends when the table is in force and on disk. The load asks for
all routes in turn; medians of %d rounds of %v without swaps and with them, in turns, %d connections. No request failed, and the idle connections
were still served at the end. Nothing paces the clients: what a swap takes from the cores they feel at once.

Measured on %s. Other work took about %.0f %% of the machine.

| | |
|---|---|
`
