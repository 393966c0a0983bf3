package machine

import (
	"net/netip"
	"reflect"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// guardOf is what a spec says of its route's protections, nil where that is nothing: an edge without any has nothing to ask.
func guardOf(r spec.Route) *edge.Guard {
	g := edge.Guard{
		Request: r.Timeouts.Request.D(), Try: r.Timeouts.Try.D(),
		Body:        int64(r.Body),
		Eject:       edge.Eject{Failures: r.Eject.Failures, For: r.Eject.For.D(), Slower: r.Eject.Slower},
		Concurrency: edge.Concurrency{Limit: max(int(r.Concurrency.Limit), 0), Auto: r.Concurrency.Limit == spec.Auto, Queue: r.Concurrency.Queue, Wait: r.Concurrency.Wait.D()},
	}
	for _, l := range r.Rate {
		if n, span, err := spec.ParseRate(l.Limit); err == nil { // it was checked when the spec was loaded
			g.Rates = append(g.Rates, edge.Rate{Requests: n, Per: span, Burst: l.Burst, By: l.By})
		}
	}
	g.Allow = networks(r.Allow)
	if a := r.Auth; a.On() {
		g.Auth = &edge.Auth{Users: a.Users, Ask: a.Ask, Headers: a.Headers, Timeout: a.Timeout.D()}
	}
	if reflect.ValueOf(g).IsZero() {
		return nil
	}
	return &g
}

// networks are addresses of a spec that was checked when it was loaded.
func networks(texts []string) (out []netip.Prefix) {
	for _, t := range texts {
		if p, err := spec.ParseNetwork(t); err == nil {
			out = append(out, p)
		}
	}
	return out
}
