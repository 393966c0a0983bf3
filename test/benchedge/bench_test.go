// Package benchedge measures the edge beside other proxies with wrk: the same backend for all, in the same run, rounds in turns,
// medians, and ratios to no proxy at all. It asserts only that no request failed; `make bench-edge` writes docs/edge-table.md.
package benchedge

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	rounds      = 3
	connections = 64
	manyIdle    = 10000
)

// A shape is one kind of load.
type shape struct {
	close bool // a connection for each request
	size  string
	tls   bool
}

func (s shape) String() string {
	name := "keepalive-"
	if s.close {
		name = "close-"
	}
	return name + s.size + "-" + scheme(s.tls)
}

func scheme(encrypted bool) string {
	if encrypted {
		return "tls"
	}
	return "plain"
}

func shapes() []shape {
	var all []shape
	for _, tls := range []bool{false, true} {
		for _, size := range []string{"1k", "100k"} {
			all = append(all, shape{false, size, tls}, shape{true, size, tls})
		}
	}
	return all
}

// chosen reports whether a list in the environment has name; without the list everything is chosen.
func chosen(env, name string) bool {
	list := os.Getenv(env)
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

// duration of a round; wrk takes whole seconds.
func duration(b *testing.B) time.Duration {
	text := os.Getenv("DURATION")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 {
		b.Fatalf("DURATION=%q: whole seconds, as 5s", text)
	}
	return d
}

// prepare skips where there is no /proc, raises the limit of open files for everything started from here, and returns it.
func prepare(b *testing.B) int {
	if runtime.GOOS != "linux" {
		b.Skip("it reads /proc")
	}
	b.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") // where Debian has the peers, and a user's shell does not look
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		b.Fatal(err)
	}
	l.Cur = l.Max
	// Said again though Go raises it by itself: what it raises silently it takes back for the programs it starts.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		b.Fatal(err)
	}
	return int(min(l.Cur, 1<<20))
}

// A sample is what one round, or the median of several, says of one proxy.
type sample struct {
	rate     float64       // requests a second
	p50, p99 time.Duration //
	cpu      float64       // the proxy's seconds of CPU for 100,000 requests
	memory   float64       // MB
}

// medians of each figure by itself.
func medians(all []sample) sample {
	of := func(f func(sample) float64) float64 {
		var v []float64
		for _, s := range all {
			v = append(v, f(s))
		}
		return median(v)
	}
	return sample{
		rate: of(func(s sample) float64 { return s.rate }),
		p50:  time.Duration(of(func(s sample) float64 { return float64(s.p50) })),
		p99:  time.Duration(of(func(s sample) float64 { return float64(s.p99) })),
		cpu:  of(func(s sample) float64 { return s.cpu }), memory: of(func(s sample) float64 { return s.memory }),
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkEdge measures every shape for every peer, then the memory of idle connections. ONLY=keepalive-1k-plain,idle and
// PEERS=fairlead,nginx choose some.
func BenchmarkEdge(b *testing.B) {
	limit := prepare(b)
	var peers []peer
	for _, p := range allPeers(b) {
		if p.name == direct || chosen("PEERS", p.name) {
			peers = append(peers, p)
		}
	}
	w := newWorld(b, 0)
	t := &table{duration: duration(b), idle: map[string]held{}}
	for _, s := range shapes() {
		if chosen("ONLY", s.String()) {
			b.Run(s.String(), func(b *testing.B) {
				for range b.N {
					t.add(s, compare(b, w, peers, s))
				}
			})
		}
	}
	for _, encrypted := range []bool{false, true} {
		if chosen("ONLY", "idle") {
			b.Run("idle-"+scheme(encrypted), func(b *testing.B) {
				for range b.N {
					t.idleRows(b, w, peers, idleLoad{encrypted, min(manyIdle, limit-1000)})
				}
			})
		}
	}
	t.beside = w.beside.share()
	write(b, edgePart, t.page())
}

// compare plays the rounds of one shape, every peer in each, and reports the ratios.
func compare(b *testing.B, w *world, peers []peer, s shape) []row {
	var up []running
	for _, p := range peers {
		if r := p.start(b, w, s.tls); r.addr != "" {
			r.name = p.name
			answers(b, w, r, s)
			if s.tls {
				r.handshake = handshake(b, w, r)
			}
			up = append(up, r)
		}
	}
	samples := make([][]sample, len(up))
	for round := range rounds + 1 {
		for i := range up {
			n := (i + round) % len(up) // nobody is always the first
			if round == 0 {            // to warm up
				load{s, time.Second}.run(b, w, up[n])
				continue
			}
			samples[n] = append(samples[n], load{s, duration(b)}.run(b, w, up[n]))
		}
	}
	var rows []row
	for i, r := range up {
		rows = append(rows, row{r.name, r.handshake, medians(samples[i])})
	}
	base := rows[0].rate // no proxy
	for _, r := range rows {
		fmt.Printf("%s  %s\n", s, r.text(base))
		if r.name != direct {
			b.ReportMetric(r.rate/base, r.name+"-x-direct")
		}
	}
	return rows
}
