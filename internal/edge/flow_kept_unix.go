//go:build unix

package edge

import (
	"context"
	"time"
)

// hold keeps datagrams that wait for an instance, as far as there is room. f.mu is held.
func (f *flow) hold(all [][]byte) {
	for _, b := range all {
		if len(f.waiting) >= maxWaiting || !f.ask(len(b)) {
			return
		}
		f.waiting = append(f.waiting, append(make([]byte, 0, len(b)), b...))
	}
}

// keep keeps the datagram that was sent last, in case that it is refused. f.mu is held.
func (f *flow) keep(b []byte) {
	if cap(f.kept) < len(b) || f.kept == nil {
		f.give(cap(f.kept))
		if f.kept = nil; !f.ask(len(b)) {
			return
		}
		f.kept = make([]byte, 0, len(b))
	}
	f.kept = append(f.kept[:0], b...)
}

// forget gives back the room of a datagram that was sent long ago. f.mu is held.
func (f *flow) forget() {
	f.give(cap(f.kept))
	f.kept = nil
}

// ask asks for room to keep n bytes; give gives it back. f.mu is held.
func (f *flow) ask(n int) bool {
	if !f.fl.room(n) {
		return false
	}
	f.held += n
	return true
}

func (f *flow) give(n int) {
	f.held -= n
	f.fl.kept.Add(-int64(n))
}

// free gives all room back that the flow has.
func (f *flow) free() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.give(f.held)
	f.waiting, f.kept = nil, nil
}

// waiter is the context of who waits for a flow's sake: it ends with the flow.
type waiter struct{ f *flow }

func (w waiter) Deadline() (at time.Time, ok bool) { return at, false }
func (w waiter) Done() <-chan struct{}             { return w.f.gone }
func (w waiter) Value(any) any                     { return nil }
func (w waiter) Err() error {
	select {
	case <-w.f.gone:
		return context.Canceled
	default:
		return nil
	}
}
