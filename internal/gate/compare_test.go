package gate_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/sequential"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

var both = spec.Gate{Compare: []string{"errors", "latency"}, FalseAlarm: 1000, Margin: 25_000}

// pair is what both releases do. Each serves in a fixed pattern: chance is the business of internal/sequential's tests.
type pair struct {
	*asker
	every  uint64        // one of so many of new's requests fails; 0 for none
	slow   time.Duration // what new's take; old's take 20 ms
	served uint64        // by new
	beside uint64        // by old
}

const usual = 20 * time.Millisecond

// spread gives request n its place in a distribution with a tail, as real ones have: d at the least, 2.5 d at the 95th
// percentile. The golden ratio's multiples lie evenly between 0 and 1.
func spread(d time.Duration, n uint64) time.Duration {
	_, u := math.Modf(float64(n+1) * math.Phi)
	return time.Duration(float64(d) * (1 - math.Log(u)/2))
}

// look lets both serve for a quarter of a second, 400 requests a second in all, and asks.
func (p *pair) look(percent uint64) rollout.Answer {
	const each = 100
	for range each * percent / 100 {
		p.served++
		failed := uint64(0)
		if p.every > 0 && p.served%p.every == 0 {
			failed = 1
		}
		p.f.serve(newer, 1, failed, spread(p.slow, p.served))
	}
	for range each - each*percent/100 {
		p.beside++
		p.f.serve(older, 1, 0, spread(usual, p.beside))
	}
	return p.ask(250 * time.Millisecond)
}

// until looks again and again until the answer is another than unsure.
func (p *pair) until(percent uint64, most time.Duration) rollout.Answer {
	p.t.Helper()
	for {
		if a := p.look(percent); a.Verdict != rollout.Unsure {
			return a
		}
		if p.m.Elapsed > most {
			p.t.Fatalf("unsure for %s", p.m.Elapsed)
		}
	}
}

func comparing(t *testing.T, f *fake, g spec.Gate) *pair {
	t.Helper()
	p := &pair{asker: asking(t, f, g), slow: usual}
	p.wants(p.ask(0), rollout.Unsure)
	return p
}

// What is worse goes back as soon as that is known, with what is worse as the reason; the step's time does not matter.
func TestWorseIsABreachAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name   string
		every  uint64
		slow   time.Duration
		within time.Duration
		says   string
	}{
		{"5 % errors", 20, usual, 5 * time.Second, "new fails "},
		{"3 times as slow", 0, 3 * usual, 10 * time.Second, "new's p95 is "},
	} {
		bubble(t, tc.name, func(t *testing.T) {
			p := comparing(t, &fake{}, both)
			p.every, p.slow = tc.every, tc.slow
			a := p.until(20, tc.within)
			p.wants(a, rollout.Breach, tc.says, "worse, with a chance of a false alarm of at most 1 %")
			v, ok := a.Evidence.(sequential.Verdict)
			if !ok || v.State != sequential.Worse || a.Else != rollout.Back || p.m.Elapsed >= watched {
				t.Errorf("after %s: %+v", p.m.Elapsed, a)
			}
			other := v.Errors
			if tc.every > 0 {
				other = v.Latency
			}
			if strings.Contains(a.Reason, other.Text) {
				t.Errorf("the reason is about what is not worse, too: %s", a.Reason)
			}
			if p.slow = usual; p.look(20).Verdict != rollout.Breach {
				t.Error("what was found worse stays so")
			}
		})
	}
}

// One that is not worse may end the step early, and the evidence goes on: the next step begins with what is known.
func TestNotWorseIsSure(t *testing.T) {
	bubble(t, "sure", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		p.wants(p.until(20, time.Minute), rollout.Sure, "not worse")
		before := p.served
		if before < 100 {
			t.Errorf("sure after %d requests", before)
		}
		p.at(1)
		p.wants(p.ask(0), rollout.Sure, "not worse")
		p.look(50) // of the change
		for range 8 {
			p.wants(p.look(50), rollout.Sure)
		}
		a := p.look(50)
		v := a.Evidence.(sequential.Verdict)
		if v.Errors.NewRequests <= before || v.Errors.NewRequests >= p.served {
			t.Errorf("new served %d, %d of them before this step; what counts is %d", p.served, before, v.Errors.NewRequests)
		}
		p.at(2)
		p.wants(p.ask(0), rollout.Pass, "not worse")
		p.wants(p.look(100), rollout.Pass)
	})
	bubble(t, "at 100 % nothing more will be known", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		p.wants(p.look(20), rollout.Unsure)
		p.at(2)
		p.wants(p.ask(0), rollout.Pass, "not known yet")
	})
}

// What was under way while the weights changed was given out by the ones before: it counts for nobody.
func TestCountersOfAChangeAreNotMixed(t *testing.T) {
	bubble(t, "errors", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		p.wants(p.until(20, time.Minute), rollout.Sure)
		p.f.serve(newer, 500, 500, usual) // after the last look of the step
		p.at(1)
		p.wants(p.ask(0), rollout.Sure, "new fails 0 %")
		p.f.serve(newer, 500, 500, usual) // before the weights were in force everywhere
		p.wants(p.ask(100*time.Millisecond), rollout.Sure, "new fails 0 %")
		p.f.serve(newer, 500, 500, usual)
		p.wants(p.ask(150*time.Millisecond), rollout.Sure, "new fails 0 %")
		p.f.serve(older, 500, 0, usual)
		p.f.serve(newer, 500, 500, usual)
		p.wants(p.ask(250*time.Millisecond), rollout.Breach, "new fails")
	})
}

// In the first five seconds what is slow does not count; what fails does. From then on, slow is slow.
func TestWarmUp(t *testing.T) {
	bubble(t, "slow at first", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		p.slow = 20 * usual
		for p.m.Elapsed < 4750*time.Millisecond {
			p.wants(p.look(20), rollout.Unsure, "no times yet")
		}
		p.slow = usual
		p.wants(p.until(20, time.Minute), rollout.Sure)
	})
	bubble(t, "slow later", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		for p.m.Elapsed < 6*time.Second {
			p.wants(p.look(20), rollout.Unsure)
		}
		p.slow = 3 * usual
		p.wants(p.until(20, time.Minute), rollout.Breach, "new's p95")
	})
	bubble(t, "later steps are warm", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		for p.m.Elapsed < 5*time.Second {
			p.look(20)
		}
		p.at(1)
		p.ask(0)
		p.slow = 3 * usual
		p.wants(p.until(50, 4*time.Second), rollout.Breach, "new's p95")
	})
	bubble(t, "errors count at once", func(t *testing.T) {
		p := comparing(t, &fake{}, both)
		p.every = 2
		p.wants(p.until(20, 2*time.Second), rollout.Breach, "new fails")
	})
}

// What is compared is what the spec names.
func TestCompareOnlyWhatIsNamed(t *testing.T) {
	for _, metric := range []string{"errors", "latency"} {
		bubble(t, metric, func(t *testing.T) {
			p := comparing(t, &fake{}, spec.Gate{Compare: []string{metric}, FalseAlarm: 1000, Margin: 25_000})
			if metric == "errors" {
				p.slow = 10 * usual
			} else {
				p.every = 2
			}
			p.wants(p.until(20, time.Minute), rollout.Sure)
		})
	}
}

// Without traffic a comparison stays open, and then does what the spec says.
func TestComparingNothing(t *testing.T) {
	bubble(t, "no requests", func(t *testing.T) {
		a := asking(t, &fake{}, both)
		for range 4 {
			a.wants(a.ask(10*time.Second), rollout.Unsure, "new fails 0 % (of 0)")
		}
		a.wants(a.ask(time.Minute), rollout.Breach, "inconclusive after 1m0s")
	})
}
