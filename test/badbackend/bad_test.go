//go:build unix

package badbackend

import (
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
)

// Every badness under every protection, with few requests: what holds whatever the times are.
func TestBadBackends(t *testing.T) {
	const requests = 100 // so that the budget for retries is not spent in any cell
	r := newWorld(t).measure(t, plan{load{requests, 20 * time.Millisecond}, 12, tryTime * 4 / 5, 1})
	check(t, r, 25)
	for _, name := range []string{reset1, garbage} {
		if c := r[name][none]; c.calm && c.get[answered] != requests*3/4 {
			t.Errorf("%s: %v of the GETs, which are sent again elsewhere", c, c.get)
		}
	}
}

// check checks all cells. Shares of two cells are compared with that much slack, in percentage points: which instance gets how many
// requests is left to chance.
func check(t testing.TB, r results, slack float64) {
	t.Helper()
	for _, b := range badnesses {
		row := r[b.name]
		bare := row[none]
		requests := len(bare.took)
		quiet := true
		for _, c := range row {
			quiet = quiet && c.calm
			t.Logf("%s: %.1f %% answered well, longest %v, sent again %d, at the bad %d, GET %v, POST %v, noise %v", c, c.share(answered), c.longest(), c.again, c.atBad, c.get, c.post, c.noise)
			if most := uint64(100 + requests/5 + 20); c.again > most && b.name != refusing && b.name != reset0 {
				t.Errorf("%s: sent again %d times, of which the budget allows some %d", c, c.again, most)
			}
		}
		switch b.name {
		case reset1, reset2, garbage, failing:
			// Only where there is no timeout: on a busy machine the others are late, too, and the bad one can be the last.
			if c := row[eject]; c.atBad*4 > bare.atBad*3 {
				t.Errorf("%s: %d requests came to the bad one, without it %d", c, c.atBad, bare.atBad)
			}
		}
		if !quiet {
			t.Logf("%s: the machine is too busy to say more", b.name)
			continue
		}
		checkOne(t, row, slack)
		checkAll(t, row)
	}
}

// checkOne checks what clients see of a badness.
func checkOne(t testing.TB, row []*cell, slack float64) {
	t.Helper()
	bare := row[none]
	requests := len(bare.took)
	for p, c := range row {
		if c.share(answered) < bare.share(answered)-slack {
			t.Errorf("%s: %.1f %% are answered well, without it %.1f", c, c.share(answered), bare.share(answered))
		}
		if g := protections[p].guard; g != nil && g.Request > 0 && c.sum(gaveUp) > 0 {
			t.Errorf("%s: %d requests took longer than %v", c, c.sum(gaveUp), patience)
		}
	}
	switch bare.name {
	case hanging, halfway:
		if bare.sum(gaveUp) == 0 {
			t.Errorf("%s: nobody met the one that hangs", bare)
		}
		for _, p := range []int{try, tryEject} { // three tries end before the client's patience does
			if c := row[p]; bare.name == hanging && c.sum(gaveUp) > 0 {
				t.Errorf("%s: %d requests took longer than %v", c, c.sum(gaveUp), patience)
			}
		}
	case refusing, slowly:
		if bare.sum(answered) != requests {
			t.Errorf("%s: GET %v, POST %v", bare, bare.get, bare.post)
		}
	case reset0:
		if bare.sum(answered)+bare.post[badGateway] != requests {
			t.Errorf("%s: GET %v, POST %v", bare, bare.get, bare.post)
		}
	}
}

// checkAll checks where all instances are bad in the same way: none may be left out for it.
func checkAll(t testing.TB, row []*cell) {
	t.Helper()
	bare := row[none]
	requests := len(bare.took)
	switch bare.name {
	case onePath:
		for p, c := range row {
			if c.sum(failed) > requests/10 || (p == none || p == eject) && (c.sum(failed) != requests/10 || c.sum(answered) != requests-requests/10) {
				t.Errorf("%s: GET %v, POST %v", c, c.get, c.post)
			}
		}
	case outage:
		if bare.sum(gaveUp) != requests {
			t.Errorf("%s: GET %v, POST %v", bare, bare.get, bare.post)
		}
		for _, p := range []int{try, tryEject} {
			if c := row[p]; c.sum(gatewayTimeout) != requests {
				t.Errorf("%s: GET %v, POST %v, %v", c, c.get, c.post, c.text)
			}
		}
	case disaster:
		for _, p := range []int{none, eject} {
			if c := row[p]; c.sum(failed) != requests || c.atBad != requests {
				t.Errorf("%s: GET %v, POST %v, %v", c, c.get, c.post, c.text)
			}
		}
	}
}

// An instance costs its clients as many requests as eject.failures says, and not one more. The requests are POSTs, which nobody sends
// again, and come one after the other: so nothing is under way when it is left out.
func TestEjectionBoundsTheCost(t *testing.T) {
	const failures, long = 5, time.Second
	w, tr := newWorld(t), newClient(t)
	rule := edge.Eject{Failures: failures, For: time.Hour}
	var done sync.WaitGroup
	for _, b := range badnesses {
		g := &edge.Guard{Eject: rule}
		switch b.name {
		case hanging:
			g.Try = long
		case halfway:
			g.Request = long
		case reset1, reset2, garbage, failing:
		default:
			continue
		}
		instances := b.instances(t)
		host, leave := w.service(t, g, instances)
		t.Cleanup(leave)
		done.Go(func() {
			lost := 0
			for n := 1; n < 400; n += 4 {
				if a := w.ask(t.Context(), tr, host, n); a.outcome == answered {
					continue
				} else if instances[0].got(idOf(host, n)) > 0 {
					lost++
				} else if !b.hangs() { // on a busy machine a good one may be late, too
					t.Errorf("%s: a request to a good instance was lost: outcome %d, %s", b.name, a.outcome, a.text)
				}
			}
			if bad := instances[0].came(); bad != failures || lost != failures {
				t.Errorf("%s: %d requests were lost, %d came to the bad instance", b.name, lost, bad)
			}
		})
	}
	done.Wait()
}

// The last instance that is not left out stays, though it fails as the others did.
func TestTheLastInstanceStays(t *testing.T) {
	w, tr := newWorld(t), newClient(t)
	for _, b := range badnesses {
		if b.name != disaster {
			continue
		}
		instances := b.instances(t)
		host, leave := w.service(t, &edge.Guard{Eject: edge.Eject{Failures: 3, For: time.Hour}}, instances)
		t.Cleanup(leave)
		const requests = 100
		for n := range requests {
			if a := w.ask(t.Context(), tr, host, n); a.outcome != failed {
				t.Fatalf("request %d: outcome %d, %s", n, a.outcome, a.text)
			}
		}
		out, last := 0, 0
		for _, i := range instances {
			if i.came() == 3 {
				out++
			}
			last = max(last, i.came())
		}
		if out != 2 || last != requests-6 {
			t.Errorf("%d were left out, the last one got %d of %d requests", out, last, requests)
		}
	}
}
