package edge

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
)

// While the new release's weight grows, nobody leaves it, and its share is what was asked for.
func TestStickyClientsStay(t *testing.T) {
	const clients = 4000
	for _, sticky := range []string{"client", "cookie:session", "header:X-Tenant"} {
		at := make([]int, clients)
		for i := range at {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			switch sticky {
			case "client":
				r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:%d", i/250, i%250, 1000+i)
			case "cookie:session":
				r.Header.Set("Cookie", fmt.Sprintf("a=b; session=%d", i))
			default:
				r.Header.Set("X-Tenant", fmt.Sprint("tenant-", i))
			}
			at[i] = point(&route{Route: Route{Sticky: sticky}}, r)
		}
		old := &backend{release: 6, endpoints: []*endpoint{{addr: "old", slot: &slot{}}}}
		fresh := &backend{release: 7, endpoints: []*endpoint{{addr: "new", slot: &slot{}}}}
		on := map[int]bool{}
		for _, w := range []int{1, 5, 25, 50, 99, 100} {
			old.weight, fresh.weight = 100-w, w
			n := 0
			for i := range clients {
				isNew := draw([]*backend{old, fresh}, at[i], true) == fresh
				if on[i] && !isNew {
					t.Fatalf("%s: client %d left the new release at %d %%", sticky, i, w)
				}
				if on[i] = isNew; isNew {
					n++
				}
			}
			if share := 100 * float64(n) / clients; math.Abs(share-float64(w)) > 2 {
				t.Errorf("%s: %.1f %% of the clients at a weight of %d", sticky, share, w)
			}
		}
	}
}

func TestPointOfWhomItCannotTell(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "192.0.2.7:1234"
	if point(&route{}, r) != anywhere {
		t.Error("a route that is not sticky has a point for everybody")
	}
	same := point(&route{Route: Route{Sticky: "client"}}, r)
	r.RemoteAddr = "192.0.2.7:9999"
	if point(&route{Route: Route{Sticky: "client"}}, r) != same || point(&route{Route: Route{Sticky: "cookie:none"}}, r) != same || point(&route{Route: Route{Sticky: "header:None"}}, r) != same {
		t.Error("without the cookie or header the address does not count")
	}
}
