//go:build unix

package edge

import "time"

const (
	// sweepEvery is how exactly silence is measured.
	sweepEvery = 100 * time.Millisecond
	// keepFor is how long what was sent last is kept. A refusal comes at once.
	keepFor = time.Second
	// moveBefore is how long before an instance is stopped its flows are given to others, at most: a third of that is for answers that are
	// under way.
	moveBefore = time.Second
)

// sweepAll ends what has been silent for too long until close is called.
func (fl *flows) sweepAll() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-fl.stop:
			return
		case <-t.C:
			fl.sweep(fl.s.current())
			fl.closeUnused()
		}
	}
}

// sweep looks at every flow once.
func (fl *flows) sweep(table *routes) {
	fl.still.Lock()
	defer fl.still.Unlock()
	now := fl.now()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	changed := table.generation != fl.seen
	fl.seen = table.generation
	for f := range fl.all {
		if f.look(table, now, changed) {
			fl.drop(f)
			f.end("")
		}
	}
}

// closeUnused closes listeners that no route wants, once their last answers have gone.
func (fl *flows) closeUnused() {
	fl.s.mu.Lock()
	defer fl.s.mu.Unlock()
	for addr, l := range fl.listeners {
		if l.unused && !fl.any(l) {
			l.conn.Close()
			delete(fl.listeners, addr)
		}
	}
}

// any reports whether a listener has flows.
func (fl *flows) any(l *datagramListener) bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for f := range fl.all {
		if f.key.l == l {
			return true
		}
	}
	return false
}

// look reports whether a flow is to end. It is taken from its instance where that is about to be stopped. fl.mu is held.
func (f *flow) look(table *routes, now int64, changed bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	silent := now - f.last.Load()
	if silent > int64(keepFor) {
		f.forget()
	}
	if f.over || f.up == nil {
		return false // one that waits for an instance knows itself for how long
	}
	if f.rank == rankNone {
		return silent > f.linger
	}
	rt := table.byKey[f.at.release.route]
	if rt == nil || rt.Datagrams == nil {
		f.fl.detach(f, lingerFor)
		return false
	}
	if changed {
		switch here := rt.endpoint(f.at.release.release, Endpoint{f.at.instance, f.at.addr}) != nil; {
		case here:
			f.absent = 0
		case f.absent == 0:
			f.absent = now
		}
	}
	before := min(moveBefore, rt.Datagrams.Drain/2)
	if f.absent != 0 && now-f.absent >= int64(rt.Datagrams.Drain-before) {
		f.fl.detach(f, before/3)
		return false
	}
	return rt.Datagrams.Idle > 0 && silent > int64(rt.Datagrams.Idle)
}

// detach has what a client says next begin another flow. Answers still come over this one, until there was none for a while. mu is held.
func (fl *flows) detach(f *flow, linger time.Duration) {
	if f.rank != rankNone {
		fl.drop(f)
		f.linger = int64(linger)
	}
}

// detachAll does so with the flows of a listener, or with all.
func (fl *flows) detachAll(l *datagramListener, linger time.Duration) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for f := range fl.all {
		if l == nil || f.key.l == l {
			fl.detach(f, linger)
		}
	}
}
