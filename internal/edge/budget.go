package edge

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A retry budget keeps the edge from doubling an outage: instances that fail for being overloaded would get up to three
// times the load ("Site Reliability Engineering", Beyer and others, 2016, chapter 22, "Addressing Cascading Failures":
// retries for a server's clients as a whole are held to a share of its requests; so does gRPC, gRFC A6). The window, the
// share, and the floor without which a service with few requests would get no retry are those of Finagle's RetryBudget.
const (
	budgetWindow = 10  // seconds
	budgetShare  = 0.2 // retries for each request that ended within the window
	budgetFloor  = 10  // retries a second that are always allowed, on the window's average
)

// budget counts a route's requests and retries of the last seconds.
type budget struct {
	second atomic.Int64 // the one that the window ends in, since 1970

	mu      sync.Mutex
	ended   [budgetWindow]uint64 // the route's requests at the beginning of each second; index is the second modulo the window
	retried [budgetWindow]uint64 // in each second
}

// tick notes the time. It is called for each request, and costs one comparison within a second.
func (b *budget) tick(now time.Time, sl *slot) {
	if b.second.Load() == now.Unix() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll(now.Unix(), sl.requests.Load())
}

// roll moves the window on. b.mu is held.
func (b *budget) roll(second int64, requests uint64) {
	last := b.second.Load()
	for s := max(last+1, second-budgetWindow+1); s <= second; s++ {
		b.ended[s%budgetWindow], b.retried[s%budgetWindow] = requests, 0
	}
	if second > last { // a clock that was set back stands still here
		b.second.Store(second)
	}
}

// spend reports whether one more retry may be made now, and counts it.
func (b *budget) spend(now time.Time, sl *slot) bool {
	requests := sl.requests.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll(now.Unix(), requests)
	last := b.second.Load()
	var spent uint64
	for _, n := range b.retried {
		spent += n
	}
	oldest := min(b.ended[(last+1)%budgetWindow], requests)
	if float64(spent) >= budgetFloor*budgetWindow+budgetShare*float64(requests-oldest) {
		return false
	}
	b.retried[last%budgetWindow]++
	return true
}

// again decides what follows a try that failed with err: nil is another one, an error is what the client is told of. Only a
// request that may be sent again is, where something of it was sent.
func (p *proxy) again(ex *exchange, err error, may bool, deadline time.Time) error {
	ex.span.missed(err)
	var de *dialError
	switch {
	case errors.As(err, &de):
		ex.end.state.avoid(time.Now().Add(avoidFor))
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", errNobody, err)
		}
	case may && ex.resent < retries && p.recall(ex.route).budget.spend(time.Now(), ex.route.stats):
		ex.resent++
		ex.tried = append(ex.tried, ex.end.state)
	default:
		return err
	}
	ex.repeated++
	ex.spoiled(err)
	ex.end.slot.retried.Add(1)
	return nil
}

// another returns end, or in place of one that the request was sent to already another instance of the same release, if there is one
// to use. One that breaks off at once is often the least busy, too: without this a request could spend all its tries there.
func (ex *exchange) another(end *endpoint, st *Stats) *endpoint {
	if !slices.Contains(ex.tried, end.state) {
		return end
	}
	return cmp.Or(ex.elsewhere(end.release, st), end)
}

// elsewhere is an instance of a release to use that the request neither is at nor was sent to, nil where there is none.
func (ex *exchange) elsewhere(b *backend, st *Stats) *endpoint {
	now := time.Now().UnixNano()
	rest := slices.DeleteFunc(slices.Clone(b.endpoints), func(e *endpoint) bool {
		return ex.end != nil && e.state == ex.end.state || slices.Contains(ex.tried, e.state) || e.state.avoided(now)
	})
	if len(rest) == 0 {
		return nil
	}
	return twoChoices(rest, st)
}

// repeatable reports whether sending r again cannot do its work twice.
func repeatable(r *http.Request) bool {
	return idempotent(r.Method) && (r.Body == nil || r.Body == http.NoBody) && r.Header.Get("Upgrade") == ""
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
