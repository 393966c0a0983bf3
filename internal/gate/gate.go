// Package gate holds the questions that decide whether a rollout goes on.
//
// A gate looks at what was measured since the step began (a comparison: since the new release got traffic) and answers at
// once. None starts a goroutine or keeps time: it is asked a few times a second.
package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// Evidence is where gates look. What cannot be read is an error, never an empty answer.
type Evidence interface {
	// Counts returns what the edge has counted of a release so far.
	Counts(id release.ID) (edge.Counts, error)
	// Instances returns a release's instances with what they use now.
	Instances(ctx context.Context, id release.ID) ([]supervise.Instance, error)
	// Lines returns how many lines a release has logged since a time that have a level or worse, or hold a text.
	Lines(ctx context.Context, id release.ID, since time.Time, level, text string) (int, error)
	// Query evaluates a PromQL expression now.
	Query(ctx context.Context, expr string) ([]Sample, error)
	// Tail returns the last lines of an instance's log.
	Tail(id release.ID, instance int) []string
	// Machine returns what instances without limits may use: bytes of memory, and processors.
	Machine() (memory int64, cores int)
}

// Sample is one value of a PromQL answer.
type Sample struct {
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

// Known is what gates are told once, when they are made.
type Known struct {
	Before edge.Counts          // what the edge counted of the old release in the minute before; it sharpens comparisons
	Drills map[string]time.Time // when each drill last went as it should
	Run    Runner               // for gates that ask by a command
}

// A Runner runs a command as the service's own for an instance of it; the error says how it ended, if not well.
type Runner func(ctx context.Context, i supervise.Instance, argv []string) error

// Make builds the gates of a release that goes from old to new; every rollout is asked first whether its instances live.
// A query that is not
// PromQL is a [fail.Usage]; everything else was checked when the spec was loaded.
func Make(s *spec.Spec, p rollout.Plan, e Evidence, known Known) ([]rollout.Gate, error) {
	lost := map[int]int{}
	instances, err := e.Instances(context.Background(), p.New)
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		lost[i.Number] = i.Lost
	}
	out := []rollout.Gate{healthy{e: e, lost: lost}}
	for _, g := range s.Release.Gates {
		b := base{spec: g, e: e, evidence: s.Release.Evidence, before: known.Before, drills: known.Drills, step: -1}
		gate, err := b.make(s, known.Run)
		if err != nil {
			return nil, fmt.Errorf("gate %s: %w", g.Name(), err)
		}
		out = append(out, gate)
	}
	return out, nil
}

// base is what all gates of the spec have in common.
type base struct {
	spec     spec.Gate
	e        Evidence
	evidence spec.Evidence
	before   edge.Counts // the old release's latency, by bucket
	drills   map[string]time.Time
	step     int // that the rest of the gate's state is about
}

func (b base) make(s *spec.Spec, run Runner) (rollout.Gate, error) {
	g := b.spec
	switch {
	case g.Check != "":
		c, err := spec.ParseCheck(g.Check)
		if err != nil {
			return nil, err
		}
		if c.Metric == "drill" {
			return &drilled{b, c}, nil
		}
		return newThreshold(b, c, s.Run.Limits), nil
	case len(g.Compare) > 0:
		return newCompare(b), nil
	case g.PromQL != "":
		return newPromQL(b)
	case g.HTTP != "":
		x := &smoke{base: b, asked: map[asked]bool{}}
		x.ask = x.get
		return x, nil
	case len(g.Exec) > 0:
		x := &smoke{base: b, asked: map[asked]bool{}}
		x.ask = x.exec(run)
		return x, nil
	case g.Webhook != "":
		return &webhook{base: b}, nil
	case g.Window != "":
		w, err := spec.ParseWindow(g.Window)
		return &window{base: b, window: w}, err
	}
	return &approval{base: b}, nil
}

// begins reports whether m is of another step than the moment before.
func (b *base) begins(m rollout.Moment) bool {
	if b.step == m.Step {
		return false
	}
	b.step = m.Step
	return true
}

func (b *base) pass(reason string, evidence any) rollout.Answer {
	return rollout.Answer{Gate: b.spec.Name(), Verdict: rollout.Pass, Reason: reason, Evidence: evidence}
}

func (b *base) breach(reason string, evidence any) rollout.Answer {
	return rollout.Answer{Gate: b.spec.Name(), Verdict: rollout.Breach, Else: rollout.Else(b.spec.Else), Reason: reason, Evidence: evidence}
}

// unsure waits for more evidence, at most as long as the spec says, and then does what it says. It never passes in silence.
func (b *base) unsure(m rollout.Moment, reason string, evidence any) rollout.Answer {
	a := rollout.Answer{Gate: b.spec.Name(), Verdict: rollout.Unsure, Reason: reason, Evidence: evidence}
	if m.Plan.Old == 0 {
		a.Verdict, a.Reason = rollout.Pass, "first release, nothing serves that could be harmed: "+reason
		return a
	}
	limit := max(b.evidence.Wait.D(), m.For)
	if m.Elapsed < limit {
		return a
	}
	a.Reason = fmt.Sprintf("inconclusive after %s: %s", limit, reason)
	switch b.evidence.Inconclusive {
	case "promote":
		a.Verdict = rollout.Pass
	case "rollback":
		a.Verdict, a.Else = rollout.Breach, rollout.Back
	default:
		a.Verdict, a.Else = rollout.Breach, rollout.Pause
		a.Hint = fmt.Sprintf("run `fairlead promote %s` to go on, or `fairlead abort %s` to go back", m.Plan.Service, m.Plan.Service)
	}
	return a
}

// lost is the answer of a gate that cannot see: it does not pass.
func (b *base) blind(m rollout.Moment, err error) rollout.Answer {
	return b.unsure(m, "cannot be measured: "+err.Error(), nil)
}

// idle is the answer of a gate that judges traffic while there is none to judge.
func (b *base) idle() rollout.Answer { return b.pass("asked when there is traffic", nil) }

// HealthName is what the gate that every rollout has is called when it says no.
const HealthName = "instances live"

// healthy says no when an instance of the new release died or stopped being ready.
type healthy struct {
	e    Evidence
	lost map[int]int // how often each instance had been lost before the rollout began
}

// Ask implements [rollout.Gate].
func (h healthy) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	p := m.Plan
	instances, err := h.e.Instances(ctx, p.New)
	if err != nil {
		return rollout.Answer{Verdict: rollout.Unsure, Reason: err.Error()}
	}
	for _, i := range instances {
		why := ""
		switch {
		case i.Last != nil && i.Lost > h.lost[i.Number]:
			why = i.Last.Reason
		case i.State == supervise.Unready:
			why = "is not ready any more: " + i.Probe
		}
		if why != "" {
			return rollout.Answer{Gate: HealthName, Verdict: rollout.Breach, Else: rollout.Back, Lines: h.e.Tail(p.New, i.Number),
				Reason: fmt.Sprintf("instance %d of release %d %s, after it had %s", i.Number, i.Release, why, had(m)),
				Hint:   fmt.Sprintf("run `fairlead logs %s --release %d%s`", p.Service, i.Release, spec.EnvFlag(p.Environment))}
		}
	}
	return rollout.Answer{Verdict: rollout.Pass}
}

func had(m rollout.Moment) string {
	if m.Before {
		return "become ready"
	}
	return "got traffic"
}
