package sequential

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// State is an answer.
type State string

// The answers.
const (
	Unknown  State = "unknown"   // not known yet
	Worse    State = "worse"     // go back at once. Once given it stays
	NotWorse State = "not-worse" // by more than the margin, so far: the step may end. Later counts may take it back
)

// A Verdict is what is known so far.
type Verdict struct {
	// State is Worse as soon as one finding is, NotWorse while all are.
	State   State    `json:"state"`
	Errors  *Finding `json:"errors,omitempty"`
	Latency *Finding `json:"latency,omitempty"`
}

// A Finding is what is known of one metric. For errors, Old and New are the shares of requests that failed, and Low and High
// bound by how much new's is greater. For latency they are the quantile in seconds, and Low and High bound new's; until enough was
// served High is the greatest time there is a bucket for. Each bound holds at all times together with a chance of 1 - FalsePass.
type Finding struct {
	State       State   `json:"state"`
	LogEvidence float64 `json:"log_evidence"` // that new is worse: natural logarithm of the e-value
	LogPass     float64 `json:"log_pass"`     // that it is not worse by the margin
	Old         float64 `json:"old"`
	New         float64 `json:"new"`
	OldRequests uint64  `json:"old_requests"`
	NewRequests uint64  `json:"new_requests"`
	Low         float64 `json:"low"`
	High        float64 `json:"high"`
	Text        string  `json:"text"` // a sentence for people
}

// State returns the answer alone; it costs less than [Compare.Verdict].
func (c *Compare) State() State {
	if c.worse() {
		return Worse
	}
	if c.Closed.New.Requests < c.opt.MinRequests {
		return Unknown
	}
	bar := -math.Log(c.opt.FalsePass)
	switch {
	case c.opt.Latency && (c.Slow.most(0) < bar || c.Slow.logE(0) < bar),
		c.opt.Errors && (max(c.Points.most(max(c.opt.ErrorPoints, 0)), c.Ratio.most(0)) < bar || c.passErrors() < bar):
		return Unknown
	}
	return NotWorse
}

// passErrors returns the evidence against "worse by the greater of the two margins": whoever is, is worse by each of them, so
// both kinds of evidence count, half each.
func (c *Compare) passErrors() float64 {
	return logSum([]float64{c.Points.logE(max(c.opt.ErrorPoints, 0)), c.Ratio.logE(0)}) - math.Ln2
}

// Verdict returns what is known so far, with estimates, bounds and a sentence for each metric.
func (c *Compare) Verdict() Verdict {
	v := Verdict{State: c.State()}
	n := len(c.opt.Bounds)
	seen := Sample{}
	for _, s := range []Sample{c.Closed, c.Pool} {
		seen.Old.add(s.Old, n)
		seen.New.add(s.New, n)
	}
	if c.opt.Errors {
		f := c.finding(c.errors(), c.passErrors())
		f.OldRequests, f.NewRequests = seen.Old.Requests, seen.New.Requests
		f.Old, f.New = share(seen.Old.Failures, seen.Old.Requests), share(seen.New.Failures, seen.New.Requests)
		f.High, f.Low = c.Points.solve(c.opt.FalsePass), -c.Floor.solve(c.opt.FalsePass)
		f.Text = fmt.Sprintf("new fails %s (of %s), old %s (of %s): ", percent(f.New), commas(f.NewRequests), percent(f.Old), commas(f.OldRequests)) +
			c.ending(f.State, "at most "+points(f.High)+" points more", points(f.Low)+" to "+points(f.High)+" points more")
		v.Errors = f
	}
	if c.opt.Latency {
		v.Latency = c.latencyFinding(seen)
	}
	return v
}

func (c *Compare) finding(m scored, pass float64) *Finding {
	f := &Finding{State: Unknown, LogEvidence: m.logE(), LogPass: pass}
	switch {
	case m.Worse:
		f.State = Worse
	case c.Closed.New.Requests >= c.opt.MinRequests && pass >= -math.Log(c.opt.FalsePass):
		f.State = NotWorse
	}
	return f
}

func (c *Compare) latencyFinding(seen Sample) *Finding {
	f := c.finding(c.latency(), c.Slow.logE(0))
	n, q := total(seen.New.Latency), c.opt.Quantile
	f.OldRequests, f.NewRequests = seen.Old.Requests, seen.New.Requests
	name := "p" + strconv.FormatFloat(100*q, 'g', 4, 64)
	if n == 0 || total(seen.Old.Latency) == 0 {
		f.Text = name + ": " + c.ending(f.State, "", "no times yet")
		return f
	}
	old, newer := c.quantile(seen.Old.Latency, math.Floor(q*total(seen.Old.Latency))), c.quantile(seen.New.Latency, math.Floor(q*n))
	low, high := ranksWithin(n, q, c.opt.FalsePass)
	bottom, top := c.quantile(seen.New.Latency, low), c.quantile(seen.New.Latency, high)
	f.Old, f.New, f.Low, f.High = old.Seconds(), newer.Seconds(), bottom.Seconds(), top.Seconds()
	open := "between " + short(bottom) + " and " + short(top)
	if high >= n {
		open = "at least " + short(bottom)
	}
	f.Text = fmt.Sprintf("new's %s is %s (of %s), old's %s (of %s): ", name, short(newer), commas(f.NewRequests), short(old), commas(f.OldRequests)) +
		c.ending(f.State, fmt.Sprintf("at most %.3g %% longer", 100*max(c.opt.LatencyRatio, 0)), open)
	return f
}

// ending closes a sentence: with what is proved, or with what it could still be.
func (c *Compare) ending(s State, passed, open string) string {
	switch s {
	case Worse:
		return fmt.Sprintf("worse, with a chance of a false alarm of at most %.3g %%", 100*c.opt.FalseAlarm)
	case NotWorse:
		return fmt.Sprintf("not worse, %s (wrong with a chance of at most %.3g %%)", passed, 100*c.opt.FalsePass)
	}
	return "not known yet, " + open
}

func share(part, all uint64) float64 {
	if all == 0 {
		return 0
	}
	return float64(part) / float64(all)
}

func percent(x float64) string { return points(x) + " %" }

// points writes a share as percentage points, with two digits that count.
func points(x float64) string {
	x *= 100
	if math.Abs(x) < 0.005 {
		return "0"
	}
	s := strconv.FormatFloat(x, 'f', 2, 64)
	if math.Abs(x) >= 1 {
		s = strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// commas writes 15410 as 15,410.
func commas(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short rounds a time to three digits.
func short(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

// MarshalJSON writes down all that the comparison knows.
func (c *Compare) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Options Options `json:"options"`
		State   *state  `json:"state"`
	}{c.opt, &c.state})
}

// UnmarshalJSON makes c the comparison that was written down. The error says why that is none.
func (c *Compare) UnmarshalJSON(data []byte) error {
	var w struct {
		Options Options `json:"options"`
		State   *state  `json:"state"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	back, err := New(w.Options)
	if err != nil {
		return err
	}
	if w.State == nil || !w.State.fits(back) {
		return fmt.Errorf("compare: what was stored does not belong to these options, or to this version of fairlead")
	}
	back.state = *w.State
	back.known += total(back.Closed.Old.Latency)
	back.rank()
	*c = *back
	return nil
}

// fits reports whether s has the shape of what fresh, made with the same options, holds.
func (s *state) fits(fresh *Compare) bool {
	n := len(fresh.opt.Bounds)
	for _, l := range [][]uint64{s.Pool.Old.Latency, s.Pool.New.Latency, s.Closed.Old.Latency, s.Closed.New.Latency, s.Learned} {
		if len(l) != 0 && len(l) != n {
			return false
		}
	}
	for _, p := range [][2]bets{{s.Errors.Bets, fresh.state.Errors.Bets}, {s.Latency.Bets, fresh.state.Latency.Bets}} {
		if len(p[0].Logs) != len(p[1].Logs) || len(p[0].Marks) > laterParts {
			return false
		}
		for _, m := range p[0].Marks {
			if len(m) != len(p[0].Logs) {
				return false
			}
		}
	}
	if p := s.Errors.Prior; p != nil && (len(p) != len(errorRatios) || math.Abs(logSum(p)) > 1e-9) {
		return false
	}
	for _, k := range []contrast{s.Points, s.Ratio, s.Floor, s.Slow} {
		if len(k.S) != len(stakes) || len(k.A) != len(stakes) {
			return false
		}
	}
	return true
}
