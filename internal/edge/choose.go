package edge

import (
	"context"
	mrand "math/rand/v2"
	"slices"
	"time"
)

// choose sets ex.end to the next instance to try, waiting for one when there is none.
func (p *proxy) choose(ctx context.Context, ex *exchange, deadline time.Time) error {
	if ex.end != nil {
		p.stats.end(ex.end.slot)
		last := ex.end
		ex.end = nil
		if last.state.avoided(time.Now().UnixNano()) && ex.route.only(last) && !sleep(ctx, nil, holdTick) {
			return ctx.Err() // the same one again, in a moment: it is being started again
		}
	}
	for {
		changed := p.changed()
		table := p.current()
		rt := table.byKey[ex.route.key]
		if rt == nil {
			return errStopped
		}
		ex.route = rt
		if end := rt.pick(p.stats, ex); end != nil {
			if !p.enter(table, end) {
				continue
			}
			ex.end = end
			return nil
		}
		if rt.Stopped {
			return errStopped
		}
		if time.Now().After(deadline) {
			return errNobody
		}
		wait := time.Until(deadline) + time.Millisecond
		if p.leaving() {
			wait = min(wait, holdTick) // the table changes in another process now
		}
		if !sleep(ctx, changed, wait) {
			return ctx.Err()
		}
	}
}

// enter counts a request in at an instance of a table, and reports whether that table is in force: whoever took the instance
// out of it waits until nothing is under way there, and may have looked before the request was counted.
func (p *proxy) enter(table *routes, end *endpoint) bool {
	p.stats.begin(end.slot)
	if p.current() == table {
		return true
	}
	p.stats.end(end.slot)
	return false
}

// only reports whether e is the only endpoint of the route.
func (rt *route) only(e *endpoint) bool {
	for _, b := range rt.backs {
		for _, o := range b.endpoints {
			if b.weight > 0 && o.addr != e.addr && !o.state.avoided(time.Now().UnixNano()) {
				return false
			}
		}
	}
	return true
}

// sleep waits for d or for wake; false when ctx was done first.
func sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(timeLeft(ctx, d))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// pick chooses an instance for a request: of the release that it goes to the less busy of two, drawn at random (Mitzenmacher, "The
// Power of Two Choices in Randomized Load Balancing", 2001).
func (rt *route) pick(st *Stats, ex *exchange) *endpoint {
	b := rt.goesTo(ex.point, ex.preview, true)
	if b == nil {
		return nil
	}
	return ex.another(twoChoices(b.endpoints, st), st)
}

// goesTo is the release for who stands at a point: the newest one for a request that asks for it. Where alive is wanted it is one that
// has endpoints, and nil where none has.
func (rt *route) goesTo(point int, preview, alive bool) *backend {
	if preview {
		return newest(rt.backs, alive)
	}
	return draw(rt.backs, point, alive)
}

// newest is the last backend; with alive, of those that have endpoints.
func newest(backs []*backend, alive bool) *backend {
	for _, b := range slices.Backward(backs) {
		if b.eligible(alive) {
			return b
		}
	}
	return nil
}

// draw takes a backend by weight; with alive, among those that have endpoints.
//
// Who stands at a point of his own gets the release there. The newest one begins at 0, so that it loses nobody while its
// weight grows.
func draw(backs []*backend, point int, alive bool) *backend {
	total := 0
	for _, b := range backs {
		if b.eligible(alive) {
			total += b.weight
		}
	}
	if total == 0 {
		return nil
	}
	n := point * total / points
	if point == anywhere {
		n = mrand.IntN(total)
	}
	for _, b := range slices.Backward(backs) {
		if !b.eligible(alive) {
			continue
		}
		if n -= b.weight; n < 0 {
			return b
		}
	}
	return nil
}

// eligible reports whether a backend can be drawn.
func (b *backend) eligible(alive bool) bool { return !alive || len(b.endpoints) > 0 }

func twoChoices(ends []*endpoint, st *Stats) *endpoint {
	if len(ends) == 1 {
		return ends[0]
	}
	i := mrand.IntN(len(ends))
	j := mrand.IntN(len(ends) - 1)
	if j >= i {
		j++
	}
	a, b := ends[i], ends[j]
	now := time.Now().UnixNano()
	avoidA, avoidB := a.state.avoided(now), b.state.avoided(now)
	switch {
	case avoidA && avoidB:
		for n := range ends { // from a random one on, so that not all go to the same
			if e := ends[(i+n)%len(ends)]; !e.state.avoided(now) {
				return e
			}
		}
	case avoidA:
		return b
	case avoidB:
		return a
	}
	if st.waiting(b.slot) < st.waiting(a.slot) {
		return b
	}
	return a
}
