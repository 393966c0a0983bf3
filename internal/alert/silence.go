package alert

import (
	"crypto/rand"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Silence keeps the alerts that all its matchers fit from being told, until a moment. The end of an alert that was told
// before is told all the same: who was woken wants to know that it is over, and tools close what they opened. An Alertmanager
// is not told of a silenced alert any more, and takes it as over a few minutes later.
type Silence struct {
	ID       string    `json:"id"`
	Matchers []Matcher `json:"matchers"`
	Until    time.Time `json:"until"`
	By       string    `json:"by"`
	Why      string    `json:"why"`
	Made     time.Time `json:"made"`
}

func (s Silence) fits(labels map[string]string, now time.Time) bool {
	return now.Before(s.Until) && allFit(s.Matchers, labels)
}

func (s Silence) check(now time.Time) error {
	const op = "silence alerts"
	switch {
	case len(s.Matchers) == 0 || slices.ContainsFunc(s.Matchers, func(m Matcher) bool { return m.compiled == nil }):
		return fail.New(fail.Usage, op, "no condition was given").Hinted("say which alerts, such as service=shop")
	case !slices.ContainsFunc(s.Matchers, func(m Matcher) bool { return !m.compiled.Matches("") }):
		return fail.New(fail.Usage, op, "each condition fits alerts that lack its label: every alert of any other kind would be silent").
			Hinted("add one with a value, such as service=shop")
	case !s.Until.After(now):
		return fail.New(fail.Usage, op, "it would be over already")
	case s.By == "" || s.Why == "":
		return fail.New(fail.Usage, op, "it must say who silences, and why").Hinted("the next one on call will want to know")
	}
	return nil
}

// maxSilences are kept at once: each alert is held against each of them.
const maxSilences = 1000

// Silence makes s hold from now on; it is on disk when the call returns. Who, why, until when and at least one matcher that
// does not fit everything must be given; ID and Made are set here. The error is of kind [fail.Usage], or says why it could
// not be written, and then nothing is silent.
func (d *Dispatcher) Silence(s Silence) (Silence, error) {
	now := time.Now()
	if err := s.check(now); err != nil {
		return Silence{}, err
	}
	s.ID, s.Made = rand.Text()[:10], now.Round(0)
	s.Matchers = slices.Clone(s.Matchers)
	err := d.store.changeSilences(func(all []Silence) ([]Silence, error) {
		if all = living(all, now); len(all) >= maxSilences {
			return nil, fail.New(fail.Usage, "silence alerts", "there are %d silences", len(all)).Hinted("end some first")
		}
		return append(all, s), nil
	})
	if err != nil {
		return Silence{}, err
	}
	d.knockAll()
	return s, nil
}

// Unsilence ends a silence. What it kept back, and still fires, is told. The error is of kind [fail.NotFound]
// when there is none of that ID.
func (d *Dispatcher) Unsilence(id string) error {
	err := d.store.changeSilences(func(all []Silence) ([]Silence, error) {
		all = living(all, time.Now())
		rest := slices.DeleteFunc(slices.Clone(all), func(s Silence) bool { return s.ID == id })
		if len(rest) == len(all) {
			return nil, fail.New(fail.NotFound, "end the silence "+id, "there is no such silence, or it is over already")
		}
		return rest, nil
	})
	if err == nil {
		d.knockAll()
	}
	return err
}

// Silences returns those in force, the one that ends first first.
func (d *Dispatcher) Silences() []Silence {
	all := living(d.store.silences(), time.Now())
	slices.SortStableFunc(all, func(a, b Silence) int { return a.Until.Compare(b.Until) })
	return all
}

// SilencedBy returns the IDs of the silences that keep an alert of these labels from being told, for lists of alerts.
func (d *Dispatcher) SilencedBy(labels map[string]string) (ids []string) {
	now := time.Now()
	for _, s := range d.Silences() {
		if s.fits(labels, now) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func (d *Dispatcher) knockAll() {
	for _, w := range d.workers {
		w.in.knock()
	}
}

// living returns a copy of all without those that are over.
func living(all []Silence, now time.Time) []Silence {
	return slices.DeleteFunc(slices.Clone(all), func(s Silence) bool { return !now.Before(s.Until) })
}
