package gate

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/sequential"
)

// warmUp is how long the new release's first answers do not count as slow: caches are cold, connections are new. What fails
// counts at once.
const warmUp = 5 * time.Second

// settle is how long nothing counts after a change of weights: what is under way then was given out by the weights before,
// and the counters may have been read a moment before the change.
const settle = 200 * time.Millisecond

// compare holds the new release against the old one beside it, as [sequential.Compare] does; the evidence goes on from step
// to step.
type compare struct {
	base
	test       *sequential.Compare
	old, fresh edge.Counts
	counting   bool // the counters above were read at this step's weights
	err        error
	warm       time.Time // when the new release's latency began to count; zero before
}

func newCompare(b base) *compare {
	g := b.spec
	c := &compare{base: b}
	c.test, c.err = sequential.New(sequential.Options{
		FalseAlarm: g.FalseAlarm.Float() / 100, Errors: slices.Contains(g.Compare, "errors"), Latency: slices.Contains(g.Compare, "latency"),
		ErrorRatio: g.Margin.Float() / 100, LatencyRatio: g.Margin.Float() / 100, Bounds: edge.BucketEnds(), Before: arm(b.before), MinRequests: uint64(b.evidence.Requests),
	})
	return c
}

// Ask implements [rollout.Gate].
func (c *compare) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	if c.err != nil {
		return c.breach(c.err.Error(), nil)
	}
	if m.Before || m.Plan.Old == 0 {
		return c.pass("there is no old release beside it to compare with", nil)
	}
	old, err := c.e.Counts(m.Plan.Old)
	if err != nil {
		return c.blind(m, err)
	}
	fresh, err := c.e.Counts(m.Plan.New)
	if err != nil {
		return c.blind(m, err)
	}
	weight := weightOf(m)
	if weight == 0 { // copies are not given out by chance between the two
		return c.idle()
	}
	if !c.begins(m) && c.counting {
		c.add(m, old.Sub(c.old), fresh.Sub(c.fresh), weight)
	}
	c.old, c.fresh, c.counting = old, fresh, m.Elapsed >= settle
	v := c.test.Verdict()
	text := sentence(v)
	switch {
	case v.State == sequential.Worse:
		return c.breach(text, v)
	case weight >= 1: // nothing is served beside it any more, so nothing more will be known
		return c.pass(text, v)
	case v.State == sequential.NotWorse:
		a := c.pass(text, v)
		a.Verdict = rollout.Sure
		return a
	}
	return c.unsure(m, text, v)
}

func (c *compare) add(m rollout.Moment, old, fresh edge.Counts, weight float64) {
	s := sequential.Sample{Weight: weight, Old: arm(old), New: arm(fresh)}
	if c.warm.IsZero() && m.Elapsed >= warmUp {
		c.warm = time.Now()
	}
	if c.warm.IsZero() {
		s.Old.Latency, s.New.Latency = nil, nil
	}
	c.test.Add(s)
}

func arm(c edge.Counts) sequential.Arm {
	return sequential.Arm{Requests: c.Requests, Failures: c.Failed, Latency: c.Hist}
}

// weightOf is the share of the traffic that the new release has at this step.
func weightOf(m rollout.Moment) float64 {
	for i := m.Step; i >= 0; i-- {
		if s := m.Plan.Steps[i]; s.Do == rollout.Route {
			return float64(s.Weights[m.Plan.New]) / 100
		}
	}
	return 0
}

// sentence says what is known. When something is worse, what else there is does not matter.
func sentence(v sequential.Verdict) string {
	var parts []string
	for _, f := range []*sequential.Finding{v.Errors, v.Latency} {
		if f != nil && (v.State != sequential.Worse || f.State == sequential.Worse) {
			parts = append(parts, f.Text)
		}
	}
	return strings.Join(parts, "; ")
}
