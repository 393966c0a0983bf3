package steer

import (
	"net/netip"
	"testing"
)

func held(p placement) map[uint16]int {
	n := map[uint16]int{}
	for _, s := range p.Table {
		n[s]++
	}
	return n
}

func TestSharesOfBuckets(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []candidate
		want map[uint16]int
	}{
		{"nobody", nil, map[uint16]int{none: buckets}},
		{"no weight", []candidate{{1, 0, []uint16{4}}}, map[uint16]int{none: buckets}},
		{"no socket", []candidate{{1, 100, nil}}, map[uint16]int{none: buckets}},
		{"one", []candidate{{1, 100, []uint16{4}}}, map[uint16]int{4: buckets}},
		{"a canary", []candidate{{1, 95, []uint16{0}}, {2, 5, []uint16{1}}}, map[uint16]int{0: 973, 1: 51}},
		{"one of them has no socket: the other's is all there is", []candidate{{1, 95, []uint16{0}}, {2, 5, nil}}, map[uint16]int{0: buckets}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := held(place(c.in))
			for s, n := range c.want {
				if got[s] != n {
					t.Errorf("slot %d has %d buckets, want %d: %v", s, got[s], n, got)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestOnlyGrowingMovesBuckets(t *testing.T) {
	var last placement
	for w := 0; w <= 100; w++ {
		now := place([]candidate{{7, 100 - w, []uint16{0, 1}}, {8, w, []uint16{2, 3}}})
		for b, s := range now.Table {
			if w > 0 && s != last.Table[b] && s < 2 {
				t.Fatalf("%d %%: bucket %d went from slot %d to %d", w, b, last.Table[b], s)
			}
		}
		last = now
	}
	before, after := place([]candidate{{7, 100, []uint16{0, 1, 2}}}), place([]candidate{{7, 100, []uint16{0, 2}}})
	for b, s := range before.Table {
		if s != 1 && after.Table[b] != s {
			t.Fatalf("bucket %d of an instance that stayed went from slot %d to %d", b, s, after.Table[b])
		}
	}
	for _, n := range held(before) {
		if n < buckets/3-60 || n > buckets/3+60 {
			t.Errorf("three instances share unevenly: %v", held(before))
		}
	}
}

func TestRescues(t *testing.T) {
	p := place([]candidate{{8, 10, []uint16{5, 6}}, {7, 90, []uint16{1, 2, 3, 4, 9, 10, 11}}})
	if p.Rescue != [rescues]uint16{1, 2, 3, 4, 9, 10, 11, 5} {
		t.Errorf("who has the most traffic takes more: %v", p.Rescue)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]address{
		"0.0.0.0:80":     {Port: 80},
		"[::]:80":        {Port: 80},
		"127.0.0.1:8080": {Port: 8080, IP: [16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1}},
		"[::1]:1":        {Port: 1, IP: [16]byte{15: 1}},
	} {
		if got := addressOf(netip.MustParseAddrPort(in)); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}
