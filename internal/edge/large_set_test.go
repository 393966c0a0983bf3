//go:build unix

package edge

import (
	"encoding/json"
	"fmt"
	"testing"
)

// A route that is in the next table as it was is in force as it was made, with all that is known of its instances, for as many tables as it
// stays in; one that changed is made anew.
func TestRoutesAreMadeOnce(t *testing.T) {
	g := startEdge(t, newDirs(t))
	set := func(weight int) *routes {
		t.Helper()
		other := oneRoute("127.0.0.1:1").Routes[0]
		other.Service, other.Hosts = "other", []string{"other.test"}
		table := oneRoute("127.0.0.1:2")
		table.Routes[0].Backends = append(table.Routes[0].Backends, Backend{Release: 2, Weight: weight, Endpoints: ends("127.0.0.1:3")})
		table.Routes[0].Backends[0].Weight -= weight
		table.Routes = append(table.Routes, other)
		b, err := json.Marshal(table)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.s.setText(b); err != nil {
			t.Fatal(err)
		}
		return g.s.table.Load()
	}
	moved, same := oneRoute().Routes[0].Key(), "other@"+oneRoute().Routes[0].Environment
	last := set(0)
	for weight := 1; weight < 5; weight++ {
		next := set(weight)
		if next.byKey[same] != last.byKey[same] || next.byKey[moved] == last.byKey[moved] {
			t.Fatal("the route that changed is as it was, or the one that did not is new")
		}
		if got := next.byKey[moved].backs[1].weight; got != weight {
			t.Errorf("weight %d, want %d", got, weight)
		}
		last = next
	}
	for key, state := range g.s.states {
		if state.table != last.generation {
			t.Errorf("%s is of table %d", key, state.table)
		}
	}
	if want := 3; len(g.s.states) != want {
		t.Errorf("%d instances are known, want %d", len(g.s.states), want)
	}
}

// BenchmarkSet measures what an edge does for a table of 1,000 routes, without who sends it: one that moves the five routes of a
// service, and one that moves all.
func BenchmarkSet(b *testing.B) {
	const services, environments = 200, 5
	text := func(moved func(service int) bool) []byte {
		var t Table
		for i := range services * environments {
			r := Route{Service: fmt.Sprintf("service%d", i%services), Environment: fmt.Sprintf("env%d", i/services), Listen: anyPort,
				Hosts: []string{fmt.Sprintf("host%d.test", i)}}
			for n := range 2 {
				back := Backend{Release: n + 1, Endpoints: []Endpoint{{Instance: 1, Addr: "127.0.0.1:1"}}}
				if moved(i%services) == (n == 1) {
					back.Weight = 100
				}
				r.Backends = append(r.Backends, back)
			}
			t.Routes = append(t.Routes, r)
		}
		out, err := json.Marshal(t)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	none := text(func(int) bool { return false })
	for name, moved := range map[string][]byte{"one": text(func(n int) bool { return n == 7 }), "all": text(func(int) bool { return true })} {
		b.Run(name, func(b *testing.B) {
			g := startEdge(b, newDirs(b))
			b.ReportAllocs()
			for i := range b.N {
				if _, err := g.s.setText([][]byte{moved, none}[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
