package edge

import (
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Eject says when an instance that answers badly is left out for a while (passive health checking, as Envoy's outlier
// detection does it). Only the other instances of the same release take its share: a release that fails as a whole goes on
// getting its traffic, so that whoever judges it sees how it fares.
type Eject struct {
	Failures int           `json:"failures,omitempty"` // 5xx answers and requests it did not answer, in a row; 0 for never
	For      time.Duration `json:"for,omitempty"`      // the first time; see maxGrowth
	Slower   int           `json:"slower,omitempty"`   // how many times as long as the others it takes to answer, usually; 0 for never
}

// maxGrowth bounds the time an instance is left out, as a multiple of [Eject.For].
const maxGrowth = 10

// endpointState is how an instance at an address did lately; it outlives table changes.
type endpointState struct {
	avoidUntil atomic.Int64 // it took no connection, or was ejected; ns since 1970
	failures   atomic.Int64 // in a row
	back       atomic.Int64 // when its last ejection ends, or ended

	pace atomic.Pointer[pace] // nil where nobody asks

	table uint64 // generation of the last one that named it; of who compiles tables

	mu     sync.Mutex
	growth int64 // how often it was ejected lately, at most maxGrowth
}

// avoid leaves the endpoint out until t, unless it is left out for longer already.
func (s *endpointState) avoid(t time.Time) {
	n := t.UnixNano()
	for old := s.avoidUntil.Load(); old < n && !s.avoidUntil.CompareAndSwap(old, n); old = s.avoidUntil.Load() {
	}
}

// avoided reports whether the endpoint is left out at now, in ns since 1970.
func (s *endpointState) avoided(now int64) bool { return s.avoidUntil.Load() > now }

// judge takes one request's outcome at an endpoint into account. That the client went away says nothing of the instance.
func (e *endpoint) judge(g *Guard, o outcome, now time.Time) {
	switch {
	case g == nil || g.Eject.Failures == 0 || o.aborted || o.refused:
	case !o.failed && o.status < http.StatusInternalServerError:
		if e.state.failures.Load() != 0 {
			e.state.failures.Store(0)
		}
	case now.UnixNano() < e.state.back.Load(): // it was on its way when the instance was ejected
	case e.state.failures.Add(1) >= int64(g.Eject.Failures):
		e.eject(g.Eject, now)
	}
}

// eject leaves an endpoint out, for longer each time that it comes back and fails as before. It stays when it is the last
// one of its release: an instance that may fail is better than none.
func (e *endpoint) eject(rule Eject, now time.Time) {
	for _, peer := range e.release.endpoints {
		if peer != e && !peer.state.avoided(now.UnixNano()) {
			e.state.eject(rule, now)
			return
		}
	}
}

func (s *endpointState) eject(rule Eject, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	well := now.UnixNano() - s.back.Load()
	if well < 0 {
		return // by another request, just now
	}
	// One that was well for as long as it had been left out begins anew.
	if well > s.growth*int64(rule.For) {
		s.growth = 0
	}
	s.growth = min(s.growth+1, maxGrowth)
	s.failures.Store(0)
	until := now.Add(time.Duration(s.growth) * rule.For)
	s.back.Store(until.UnixNano())
	s.avoid(until)
}

// stateKey names an instance where it is: neither a release that gets the port of another one, nor an instance that was
// started again elsewhere, answers for what was before.
func stateKey(r Route, b Backend, e Endpoint) string {
	return slotKey{r.Service, r.Environment, b.Release, e.Instance}.String() + " " + e.Addr
}

// stateAt finds or makes an instance's state.
func stateAt(states map[string]*endpointState, key string) *endpointState {
	s := states[key]
	if s == nil {
		s = &endpointState{}
		states[key] = s
	}
	return s
}

// forget drops the states of instances that no table since generation named.
func forget(states map[string]*endpointState, generation uint64) {
	maps.DeleteFunc(states, func(_ string, s *endpointState) bool { return s.table < generation })
}
