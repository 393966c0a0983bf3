package alert

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// group is what makes one message.
type group struct {
	key    string
	labels map[string]string
	alerts map[string]*tracked // by fingerprint
	made   time.Time
	sent   time.Time // the last message that was delivered; zero: none

	attempts int             // to deliver the message that is under way; 0: there is none
	retry    time.Time       // not before then; zero: no attempt has failed since the last delivery
	pauses   int             // rounds of attempts given up since the last delivery
	tried    []metrics.Alert // by the last attempt
	failure  string          // of it
}

// tracked is an alert and what its receiver knows of it.
type tracked struct {
	alert metrics.Alert
	order string // among the others of a message: its labels as text
	told  bool   // that it fires
}

func (t *tracked) over() bool { return !t.alert.Resolved.IsZero() }

// glance is what decides when a group's message is due.
type glance struct {
	anything bool // there is an alert to tell of
	changed  bool // one is new, or one that was told is over
}

// view is what there is to tell of a group at one moment, in a fixed order: what fires before what is over, then by labels.
type view struct {
	glance
	ids    []string
	alerts []metrics.Alert
}

// open yields the alerts of a group that fire and are not silenced, and those whose end is not told yet.
func (g *group) open(quiet []Silence, now time.Time) iter.Seq2[string, *tracked] {
	return func(yield func(string, *tracked) bool) {
		for id, t := range g.alerts {
			silent := !t.over() && slices.ContainsFunc(quiet, func(s Silence) bool { return s.fits(t.alert.Labels, now) })
			if !silent && !yield(id, t) {
				return
			}
		}
	}
}

func (g *group) glance(quiet []Silence, now time.Time) (found glance) {
	for _, t := range g.open(quiet, now) {
		found.anything = true
		if t.over() == t.told {
			found.changed = true
			return found
		}
	}
	return found
}

func (g *group) view(quiet []Silence, now time.Time) view {
	v := view{glance: g.glance(quiet, now)}
	for id := range g.open(quiet, now) {
		v.ids = append(v.ids, id)
	}
	slices.SortFunc(v.ids, func(a, b string) int {
		x, y := g.alerts[a], g.alerts[b]
		if x.over() != y.over() {
			if x.over() {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(x.order, y.order), cmp.Compare(a, b))
	})
	for _, id := range v.ids {
		v.alerts = append(v.alerts, g.alerts[id].alert)
	}
	return v
}

// due says when a group's message is to be sent; zero: never, as things are.
func (w *worker) due(g *group, found glance) time.Time {
	switch {
	case !g.retry.IsZero() || g.attempts > 0: // also to write down that it was overtaken
		return g.retry
	case !found.anything:
		return time.Time{}
	case w.resend > 0 && found.changed:
		return g.made
	case w.resend > 0:
		return g.sent.Add(w.resend)
	case found.changed && g.sent.IsZero():
		return g.made.Add(w.d.opt.GroupWait)
	case found.changed:
		return g.sent.Add(w.d.opt.GroupInterval)
	}
	return g.sent.Add(w.d.opt.RepeatEvery)
}

// groupKey writes labels as Alertmanager does: {a="x", b="y"}.
func groupKey(labels map[string]string) string {
	set := make(model.LabelSet, len(labels))
	for k, v := range labels {
		set[model.LabelName(k)] = model.LabelValue(v)
	}
	return set.String()
}

// sendError is what a channel knows of a failure beyond its text. A plain error is worth another attempt.
type sendError struct {
	err       error
	permanent bool          // the same message will fail the same way
	delivered bool          // to some: another attempt would tell those twice
	after     time.Duration // the receiver asks not to be tried earlier
}

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

func permanent(err error) error { return &sendError{err: err, permanent: true} }

// failure is a sendError fit to be written down, on one line.
type failure struct {
	text                 string // without secrets; "" for none
	delivered, permanent bool
	after                time.Duration
}

func judge(err error, secrets []string) failure {
	if err == nil {
		return failure{delivered: true}
	}
	f := failure{text: strings.Join(strings.Fields(scrub(err.Error(), secrets)), " ")}
	if e, ok := errors.AsType[*sendError](err); ok {
		f.permanent, f.delivered, f.after = e.permanent, e.delivered, e.after
	}
	return f
}

// The pause after a failed attempt doubles from the first to the last, and each is up to a fifth longer or shorter: what
// failed together shall not come back together.
const (
	firstPause = time.Second
	lastPause  = 2 * time.Minute
	jitter     = 0.2
)

// backoff returns the pause after the attempt of that number, counted from 1.
func backoff(attempt int) time.Duration {
	d := min(firstPause<<min(attempt-1, 20), lastPause)
	return time.Duration(float64(d) * (1 + jitter*(2*rand.Float64()-1)))
}

// common returns what all the maps have in common.
func common(all []metrics.Alert, of func(metrics.Alert) map[string]string) map[string]string {
	if len(all) == 0 {
		return map[string]string{}
	}
	out := maps.Clone(of(all[0]))
	if out == nil {
		out = map[string]string{}
	}
	for _, a := range all[1:] {
		m := of(a)
		maps.DeleteFunc(out, func(k, v string) bool { got, ok := m[k]; return !ok || got != v })
	}
	return out
}
