package rollout

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Gate is a question asked of evidence, again and again while a step is watched.
type Gate interface {
	// Ask answers for the moment. It does not wait for evidence to come: [Unsure] is an answer.
	Ask(ctx context.Context, m Moment) Answer
}

// Moment is where a rollout stands when a gate is asked.
type Moment struct {
	Plan    Plan
	Step    int           // index of the step
	Before  bool          // the new release has no traffic yet
	Elapsed time.Duration // since this step's watch began
	For     time.Duration // how long the step is watched when nothing speaks against going on
	Orders  Orders
}

// Verdict is what a gate says.
type Verdict string

// The verdicts.
const (
	Pass   Verdict = "pass"   // nothing speaks against going on
	Sure   Verdict = "sure"   // and nothing will: the step may end before its time
	Unsure Verdict = "unsure" // not known yet: the step is watched on
	Breach Verdict = "breach" // Else says what follows
)

// Else is what follows a breach.
type Else string

// What may follow.
const (
	Back  Else = "rollback"
	Pause Else = "pause" // stay as it is until somebody says how to go on
	Warn  Else = "warn"  // tell, and go on
)

// Answer is a gate's verdict with what it rests on.
type Answer struct {
	Gate     string   `json:"gate"` // as it stands in the spec; "" for what every rollout is asked, which is told of only when it says no
	Verdict  Verdict  `json:"verdict"`
	Else     Else     `json:"else,omitempty"`     // of a breach
	Reason   string   `json:"reason"`             // one sentence with the numbers
	Evidence any      `json:"evidence,omitempty"` // the numbers themselves
	Lines    []string `json:"lines,omitempty"`    // log lines that belong to a breach
	Hint     string   `json:"hint,omitempty"`
	Person   bool     `json:"person,omitempty"` // unsure until somebody says something
}

func (a Answer) err() error {
	return fail.New(fail.Unhealthy, "", "%s", a.Reason).WithLines(a.Lines).Hinted("%s", a.Hint)
}

// Decision is an answer that the rollout's course rests on: a gate's first one at a step, each that is another than the one
// before, and its last.
type Decision struct {
	Time   time.Time `json:"time"`
	Step   int       `json:"step"` // index
	Last   bool      `json:"last,omitempty"`
	Answer `json:"answer"`
}

// Orders are what people, and gates that pause, have told a rollout.
type Orders struct {
	Paused string `json:"paused,omitempty"` // why it stays as it is; "" when it does not
	Frozen bool   `json:"frozen,omitempty"` // nor does it go back by itself
	Past   int    `json:"past,omitempty"`   // steps with a lower index are not watched on: somebody promoted them

	Approved int    `json:"approved,omitempty"` // steps with a lower index were approved
	Approval string `json:"approval,omitempty"` // by whom, and why
}

// checkEvery is how often gates are asked while a release is watched.
const checkEvery = 250 * time.Millisecond

// watcher is the watch of one step.
type watcher struct {
	*Engine
	moment Moment
	last   []Answer
	paused bool // somebody was told
	waits  bool // likewise, that the time is over and evidence is missing
}

// watch asks the gates until the step may end: its time is over, or all are sure before, and nobody paused it. A breach that
// leads back is its error.
func (e *Engine) watch(ctx context.Context, p Plan, i int) error {
	s := p.Steps[i]
	w := &watcher{Engine: e, last: make([]Answer, len(e.Gates)), moment: Moment{Plan: p, Step: i, Before: s.Do == Verify, For: s.For}}
	for began := time.Now(); ; {
		w.moment.Elapsed = time.Since(began)
		done, err := w.look(ctx)
		if done || err != nil {
			w.conclude(ctx)
			return err
		}
		d := checkEvery
		if left := s.For - w.moment.Elapsed; left > 0 {
			d = min(d, left)
		}
		if err := wait.For(ctx, d); err != nil {
			return err
		}
	}
}

// look asks every gate once.
func (w *watcher) look(ctx context.Context) (done bool, err error) {
	orders := w.Journal.Orders()
	w.moment.Orders = orders
	if orders.Past > w.moment.Step {
		w.say(w.moment.Plan, w.moment.Step, "promoted", event.Info, "promoted by hand: what the gates say of this step does not count")
		return true, nil
	}
	open, pause := false, ""
	for i, g := range w.Gates {
		a := g.Ask(ctx, w.moment)
		if ctx.Err() != nil {
			return false, context.Cause(ctx) // what was answered while everything ends means nothing
		}
		if a.Verdict == Breach && a.Else == Back && orders.Frozen {
			a.Else = Warn
		}
		w.note(ctx, i, a)
		switch {
		case a.Verdict == Breach && a.Else == Back:
			return false, a.err()
		case a.Verdict == Breach && a.Else == Pause:
			pause = a.Reason
		case a.Verdict == Unsure:
			open = true
		}
	}
	if pause != "" && orders.Paused == "" {
		if err := w.Journal.Pause(ctx, pause); err != nil {
			return false, err
		}
		orders.Paused = pause
	}
	if orders.Paused != "" {
		if !w.paused {
			w.say(w.moment.Plan, w.moment.Step, event.Paused, event.Warn, "paused: "+orders.Paused)
		}
		w.paused = true
		return false, nil
	}
	if w.paused {
		w.paused = false
		w.say(w.moment.Plan, w.moment.Step, "resumed", event.Info, "going on")
	}
	over := w.moment.Elapsed >= w.moment.For
	if open && over && !w.waits {
		w.waits = true
		w.sayWhatFor()
	}
	return !open && (over || w.sure()), nil
}

// sayWhatFor tells why the step goes on behind its time.
func (w *watcher) sayWhatFor() {
	for _, a := range w.last {
		if a.Verdict == Unsure && a.Gate != "" {
			typ := "gate"
			if a.Person {
				typ = event.Waits
			}
			w.say(w.moment.Plan, w.moment.Step, typ, event.Info, fmt.Sprintf("waits for %s: %s", a.Gate, a.Reason))
		}
	}
}

// sure reports whether every gate that the spec names is. One that merely passes wants the whole time: a leak takes some to
// show.
func (w *watcher) sure() bool {
	n := 0
	for _, a := range w.last {
		if a.Gate != "" && a.Verdict != Sure {
			return false
		}
		if a.Gate != "" {
			n++
		}
	}
	return n > 0
}

// note keeps an answer when it says something new.
func (w *watcher) note(ctx context.Context, i int, a Answer) {
	old := w.last[i]
	w.last[i] = a
	if a.Gate == "" || a.Verdict == old.Verdict && a.Else == old.Else {
		return
	}
	level := event.Info
	if a.Verdict == Breach {
		level = event.Warn
	}
	if old.Verdict != "" || a.Verdict == Breach {
		w.say(w.moment.Plan, w.moment.Step, "gate", level, fmt.Sprintf("%s: %s: %s", a.Gate, a.Verdict, a.Reason))
	}
	w.decide(ctx, a, false)
}

// conclude keeps the last answers, with the numbers as they were when the step ended.
func (w *watcher) conclude(ctx context.Context) {
	for _, a := range w.last {
		if a.Gate != "" {
			w.decide(context.WithoutCancel(ctx), a, true)
		}
	}
}

// decide writes a decision down. The course of the rollout does not hang on whether that can be done: a full disk must
// neither promote nor keep a bad release.
func (w *watcher) decide(ctx context.Context, a Answer, last bool) {
	if err := w.Journal.Decide(ctx, Decision{Time: time.Now(), Step: w.moment.Step, Last: last, Answer: a}); err != nil && ctx.Err() == nil {
		w.say(w.moment.Plan, w.moment.Step, "gate", event.Warn, "a decision could not be kept: "+strings.TrimSpace(err.Error()))
	}
}
