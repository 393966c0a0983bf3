//go:build unix

package edge

import (
	mrand "math/rand/v2"
	"testing"
	"time"
)

// load plays a service that works on capacity requests at once, each in base, with as many clients as are let in, for d.
func (g *gradient) load(capacity, clients int, base, d time.Duration, now time.Time) time.Time {
	rnd := mrand.New(mrand.NewPCG(1, 2))
	for end := now.Add(d); now.Before(end); {
		busy := min(g.now(), clients)
		took := base * time.Duration(max(busy, capacity)) / time.Duration(capacity)
		now = now.Add(took / time.Duration(busy))
		g.sample(time.Duration(float64(took)*(0.8+0.4*rnd.Float64())), busy, now)
	}
	return now
}

func TestGradientFindsTheCapacity(t *testing.T) {
	for _, c := range []struct {
		capacity int
		base     time.Duration
	}{{3, 2 * time.Millisecond}, {10, 20 * time.Millisecond}, {50, 20 * time.Millisecond}, {400, 300 * time.Millisecond}} {
		g, now := &gradient{}, time.Unix(1000, 0)
		now = g.load(c.capacity, 100_000, c.base, 5*time.Minute, now)
		if n := int(g.limit); n < c.capacity || n > 5*c.capacity/2+14 {
			t.Errorf("%+v: the limit is %d", c, n)
		}
		now = g.load((c.capacity+1)/2, 100_000, c.base, 5*time.Minute, now) // half of the service is gone
		if n := int(g.limit); n < c.capacity/2 || n > 5*c.capacity/4+14 {
			t.Errorf("%+v: the limit is %d with half of it", c, n)
		}
		now = g.load(c.capacity, 1, c.base, time.Second, now) // the window before ends
		before := g.limit
		if g.load(c.capacity, 1, c.base, time.Minute, now); g.limit != before {
			t.Errorf("%+v: the limit went from %v to %v with one client", c, before, g.limit)
		}
	}
}
