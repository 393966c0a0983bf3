package edge

import (
	"context"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"slices"
	"time"
)

const (
	// shadowWait bounds a copy: nobody waits for it.
	shadowWait = 30 * time.Second
	// maxShadows is how many copies may be under way; what would be one more is not made.
	maxShadows = 128
)

// shadow is a request's copy on its way to a release that has no traffic of its own. What it answers goes nowhere; what counts
// is how it fared.
type shadow struct {
	primary chan int // the status that the client got; 0 for none
}

// hidden is the newest release that has instances and no share of the traffic.
func (rt *route) hidden() *backend {
	for _, b := range slices.Backward(rt.backs) {
		if b.weight == 0 && len(b.endpoints) > 0 {
			return b
		}
	}
	return nil
}

// cast begins a copy of r, which was made for an instance already, if it is one of the share that is copied and can do no harm:
// methods that ask for nothing but an answer (RFC 9110, section 9.2.1), without a body.
func (p *proxy) cast(key string, r *http.Request) *shadow {
	table := p.current()
	rt := table.byKey[key]
	if rt == nil || rt.Mirror <= 0 || (r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions) ||
		r.Body != nil && r.Body != http.NoBody || r.Header.Get("Upgrade") != "" || mrand.IntN(100) >= rt.Mirror {
		return nil
	}
	b := rt.hidden()
	if b == nil {
		return nil
	}
	select {
	case p.shadows <- struct{}{}:
	default:
		return nil
	}
	end := twoChoices(b.endpoints, p.stats)
	if !p.enter(table, end) {
		<-p.shadows
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), shadowWait)
	out := r.Clone(ctx)
	out.URL.Host, out.Body = end.addr, nil
	out.Header.Set("X-Fairlead-Mirror", "1")
	s := &shadow{primary: make(chan int, 1)}
	go func() {
		defer func() { <-p.shadows }()
		defer cancel()
		defer p.stats.end(end.slot)
		status := p.follow(out, end)
		if theirs := <-s.primary; theirs != 0 {
			end.slot.mirrored.Add(1)
			if status != theirs {
				end.slot.differed.Add(1)
			}
		}
	}()
	return s
}

// follow sends a copy, reads its answer to the end and counts it. It returns the status, 0 for no answer.
func (p *proxy) follow(r *http.Request, end *endpoint) int {
	start := time.Now()
	o := outcome{}
	res, err := p.transport(r).RoundTrip(r)
	if err == nil {
		o.status = res.StatusCode
		o.bytes, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	o.took, o.failed = time.Since(start), err != nil
	end.slot.count(o)
	return o.status
}

// answered tells a copy what the client got.
func (s *shadow) answered(status int) {
	if s != nil {
		s.primary <- status
	}
}
