package edge

import (
	"math"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"
)

// An instance is left out for being slow when a request to it usually takes some times as long as one to another instance of its
// release. "Usually" is a share of pairs (the statistic of Mann and Whitney, "On a Test of Whether one of Two Random Variables is
// Stochastically Larger than the Other", 1947), because it needs no idea of how times are distributed: for instances that are equal it
// lies below a half, however far apart fast and slow requests are, where means follow a few outliers and medians jump between hits and
// misses of a cache.
const (
	// slowSamples is how many of its last answers an instance is judged by.
	slowSamples = 64
	// slowWithin is in what time they must have come. Older ones tell of another load.
	slowWithin = 30 * time.Second
	// slowShare is the share of the pairs that must be slower. For equal instances that many of slowSamples pairs are 3.3 standard
	// deviations off at the worst; see slowFor.
	slowShare = 2. / 3
	// slowFor is how long an instance must stay slow, in which as many answers again must have come: by then those that one pause held
	// up are not among them.
	slowFor = time.Second
	// slowLook is after how many answers it is looked again.
	slowLook = slowSamples / 4
	// slowPeers is with how many others an instance is compared.
	slowPeers = 9
)

// pace is how soon an instance answered lately.
type pace struct {
	mu    sync.Mutex
	last  [slowSamples]answerTime
	n     uint64    // answers since it was left out
	since time.Time // when it began to look slow; zero while it does not
	from  uint64    // n then
}

type answerTime struct {
	at   int64 // ns since 1970
	took time.Duration
}

// timed takes into account how long an endpoint took to begin an answer.
func (e *endpoint) timed(rule Eject, took time.Duration, now time.Time) {
	if e.state.avoided(now.UnixNano()) {
		return // it was on its way when the instance was left out
	}
	p := e.state.pace.Load()
	if p == nil {
		e.state.pace.CompareAndSwap(nil, &pace{})
		p = e.state.pace.Load()
	}
	if p.note(took, now) && p.stays(e.slow(p, rule.Slower, now), now) && e.spare(now) {
		e.state.eject(rule, now)
		p.forget()
	}
}

// note reports whether it is time to look.
func (p *pace) note(took time.Duration, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[p.n%slowSamples] = answerTime{now.UnixNano(), took}
	p.n++
	return p.n%slowLook == 0
}

// stays notes whether an instance is slow, and reports whether it has been for long enough.
func (p *pace) stays(slow bool, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !slow:
		p.since = time.Time{}
	case p.since.IsZero():
		p.since, p.from = now, p.n
	}
	return slow && now.Sub(p.since) >= slowFor && p.n-p.from >= slowSamples
}

func (p *pace) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.since = 0, time.Time{}
}

// recent returns the last answers' times, shortest first, where there are enough.
func (p *pace) recent(now time.Time) []time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n < slowSamples || now.UnixNano()-p.last[p.n%slowSamples].at > int64(slowWithin) {
		return nil
	}
	out := make([]time.Duration, slowSamples)
	for i, a := range p.last {
		out[i] = a.took
	}
	slices.Sort(out)
	return out
}

// slow reports whether an endpoint usually takes factor times as long as most of the others.
func (e *endpoint) slow(p *pace, factor int, now time.Time) bool {
	mine := p.recent(now)
	if mine == nil {
		return false
	}
	all := e.release.endpoints
	compared, slower := 0, 0
	for i, from := 0, mrand.IntN(len(all)); i < len(all) && compared < slowPeers; i++ {
		peer := all[(from+i)%len(all)]
		theirs := peer.state.pace.Load()
		if peer == e || theirs == nil || peer.state.avoided(now.UnixNano()) {
			continue
		}
		if times := theirs.recent(now); times != nil {
			compared++
			if exceeds(mine, times, factor) >= slowShare {
				slower++
			}
		}
	}
	return compared > 0 && 2*slower > compared
}

// exceeds returns the share of the pairs in which a is more than factor times b. Both are sorted.
func exceeds(a, b []time.Duration, factor int) float64 {
	n, j := 0, 0
	for _, x := range a {
		for j < len(b) && b[j] <= math.MaxInt64/time.Duration(factor) && x > time.Duration(factor)*b[j] {
			j++
		}
		n += j
	}
	return float64(n) / float64(len(a)*len(b))
}

// spare reports whether a release can do without an endpoint that answers well: at least half of them must stay.
func (e *endpoint) spare(now time.Time) bool {
	stay := 0
	for _, peer := range e.release.endpoints {
		if peer != e && !peer.state.avoided(now.UnixNano()) {
			stay++
		}
	}
	return 2*stay >= len(e.release.endpoints)
}
