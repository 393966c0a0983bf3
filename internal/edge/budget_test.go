//go:build unix

package edge

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	sl, b, now := &slot{}, &budget{}, time.Unix(1000, 0)
	spend := func(most int) (n int) {
		for n < most && b.spend(now, sl) {
			n++
		}
		return n
	}
	b.tick(now, sl)
	if n := spend(1000); n != 100 {
		t.Errorf("%d retries without any request", n)
	}
	sl.requests.Add(500)
	if n := spend(1000); n != 100 {
		t.Errorf("%d more for 500 requests", n)
	}
	now = now.Add(9 * time.Second)
	if b.tick(now, sl); spend(1) != 0 {
		t.Error("forgotten within the window")
	}
	now = now.Add(time.Second)
	sl.requests.Add(50)
	if n := spend(1000); n != 110 { // the 500 are forgotten with what was spent on them
		t.Errorf("%d in the next window", n)
	}
	now = now.Add(-5 * time.Second)
	if spend(1) != 0 {
		t.Error("a clock that was set back makes new retries")
	}
	now = now.Add(time.Hour)
	if n := spend(1000); n != 100 {
		t.Errorf("%d after an hour", n)
	}
	// With a request a time that each needs two retries, one in five gets one.
	*b = budget{}
	b.tick(now, sl)
	all := 0
	for i := range 10_000 {
		if i%1000 == 0 {
			now = now.Add(time.Second)
			b.tick(now, sl)
		}
		sl.requests.Add(1)
		all += spend(2)
	}
	if all < 1900 || all > 2200 {
		t.Errorf("%d retries for 10000 requests", all)
	}
}

// An outage is not made worse: requests that are sent and fail get three times the load only until the budget is spent.
func TestOutageIsNotDoubled(t *testing.T) { onBothPaths(t, testOutageIsNotDoubled) }

func testOutageIsNotDoubled(t *testing.T, client clients) {
	var n atomic.Int64
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(dying(t, &n)))
	c := client(t)
	for range 300 {
		get(t, c, g.url())
	}
	if got := n.Load(); got < 400 || got > 300+100+60+10*budgetFloor { // the last: seconds that left the window meanwhile
		t.Errorf("300 requests were sent %d times", got)
	}
}

// What an instance did not answer goes to another one, by both HTTP paths.
func TestSentAgainElsewhere(t *testing.T) {
	for name, guard := range map[string]*Guard{"own": nil, "net/http": {Try: time.Minute}} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			g := startEdge(t, newDirs(t))
			table := oneRoute(dying(t, &n), serveOn(t, says("fine")))
			table.Routes[0].Guard = guard
			g.set(table)
			c := client(t)
			for range 80 { // of which one in eight would meet the dying one three times
				if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusOK {
					t.Fatal(res.Status)
				}
			}
			if n.Load() == 0 {
				t.Error("nothing was ever sent again")
			}
		})
	}
}
