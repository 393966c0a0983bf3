package agent

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/journal"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// sampleEvery and samplesKept make the minute before a rollout known.
const (
	sampleEvery = 2 * time.Second
	samplesKept = 31
)

// counters are sums by service, environment and release; release 0 is the route as a whole.
type counters map[counterKey]edge.Counts

type counterKey struct {
	service, env string
	release      int
}

// sampler remembers the edge's counters of the last minute.
type sampler struct {
	mu  sync.Mutex
	at  []time.Time
	all []counters
}

func (a *Agent) sample() {
	a.samples.add(a.count())
	a.every(sampleEvery, func() { a.samples.add(a.count()) })
}

// count reads the counters now.
func (a *Agent) count() counters {
	a.machine.Count()
	c := counters{}
	for _, r := range a.stats.Read() {
		k := counterKey{r.Service, r.Environment, r.Release}
		c[k] = c[k].Add(r.Counts)
	}
	return c
}

func (s *sampler) add(c counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.all = append(s.at, time.Now()), append(s.all, c)
	if len(s.at) > samplesKept {
		s.at, s.all = s.at[1:], s.all[1:]
	}
}

// ago returns the counters from about d ago, or the oldest there are, and when that was.
func (s *sampler) ago(d time.Duration) (counters, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.at) - 1; i >= 0; i-- {
		if i == 0 || time.Since(s.at[i]) >= d {
			return s.all[i], s.at[i]
		}
	}
	return counters{}, time.Now()
}

// baseline is what the edge had counted when a rollout began; it is kept in the journal, so that the receipt is whole even
// if another agent writes it.
type baseline struct {
	Route  edge.Counts `json:"route"`
	New    edge.Counts `json:"new"`    // of the release it goes to, which may have served before
	Before edge.Counts `json:"before"` // of the old release, in the minute before
}

func (a *Agent) baseline(p rollout.Plan) baseline {
	now := a.count()
	key := func(id release.ID) counterKey { return counterKey{p.Service, p.Environment, int(id)} }
	b := baseline{Route: now[key(0)], New: now[key(p.New)]}
	if p.Old != 0 {
		then, _ := a.samples.ago(time.Minute)
		b.Before = now[key(p.Old)].Sub(then[key(p.Old)])
	}
	return b
}

// receipt says what the rollout cost its clients, from the edge's counters.
func (a *Agent) receipt(ro journal.Rollout, o rollout.Outcome, listen string) *api.Receipt {
	p := ro.Plan
	var b baseline
	if err := json.Unmarshal(ro.Baseline, &b); err != nil {
		a.log.Error("the receipt lacks its beginning", "rollout", ro.ID, "error", err)
	}
	now := a.count()
	route := now[counterKey{p.Service, p.Environment, 0}].Sub(b.Route)
	after := now[counterKey{p.Service, p.Environment, int(p.New)}].Sub(b.New)
	return &api.Receipt{
		Service: p.Service, Environment: p.Environment, From: p.Old, To: p.New, Outcome: string(o), URL: a.url(p.Service, p.Environment, listen),
		Took: time.Since(ro.Started).Round(time.Millisecond), Requests: route.Requests - min(route.Requests, route.Refused), Failed: route.Failed, Undelivered: route.Undone,
		Aborted: route.Aborted, Gap: a.stats.Gap(p.Service, p.Environment), Before: latency(b.Before), After: latency(after),
	}
}

func latency(c edge.Counts) api.Latency {
	return api.Latency{Requests: c.Requests, P50: c.Quantile(0.5), P95: c.Quantile(0.95), P99: c.Quantile(0.99)}
}
