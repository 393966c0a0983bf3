package alert

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Outcome is how the delivery of a message ended.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	GaveUp    Outcome = "gave-up"   // after the last attempt, or at once where another one cannot help
	Overtaken Outcome = "overtaken" // all of it was over or silenced before an attempt succeeded
)

// Sent is one line of the log of what was sent. Rounds of attempts that were given up one after the other, of one group and
// for one reason, are one line that counts them all.
type Sent struct {
	At       time.Time         `json:"at"`
	Receiver string            `json:"receiver"`
	Group    map[string]string `json:"group,omitempty"`
	Alerts   []SentAlert       `json:"alerts"`         // at most 20
	More     int               `json:"more,omitempty"` // beyond those
	Outcome  Outcome           `json:"outcome"`
	Attempts int               `json:"attempts"`
	Error    string            `json:"error,omitempty"` // of the last attempt, without secrets

	key string // of the group
}

// SentAlert is an alert in the log of what was sent.
type SentAlert struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"` // as Alertmanager has it
	Firing      bool   `json:"firing"`      // false: it is over
}

// logged is how many messages the log keeps, and shown how many alerts of each.
const (
	logged = 1000
	shown  = 20
)

func (s *Sent) list(all []metrics.Alert) {
	s.Alerts = make([]SentAlert, 0, min(len(all), shown))
	for _, a := range all[:min(len(all), shown)] {
		s.Alerts = append(s.Alerts, SentAlert{Name: a.Labels[model.AlertNameLabel], Fingerprint: fingerprint(a.Labels), Firing: a.Resolved.IsZero()})
	}
	s.More = len(all) - len(s.Alerts)
}

// told is an alert that a receiver knows of, as it lies in the file. The value is left out: it may be no number, which JSON
// cannot say, and no message needs the old one.
type told struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Expr        string            `json:"expr,omitempty"`
	Active      time.Time         `json:"active,omitzero"`
	Fired       time.Time         `json:"fired,omitzero"`
	Resolved    time.Time         `json:"resolved,omitzero"`
	ValidUntil  time.Time         `json:"valid_until,omitzero"`
	At          time.Time         `json:"told"`
}

func toldOf(a metrics.Alert, at time.Time) told {
	return told{Labels: a.Labels, Annotations: a.Annotations, Expr: a.Expr, Active: a.Active, Fired: a.Fired, Resolved: a.Resolved,
		ValidUntil: a.ValidUntil, At: at}
}

func (t told) alert() metrics.Alert {
	return metrics.Alert{Name: t.Labels[model.AlertNameLabel], Labels: t.Labels, Annotations: t.Annotations, Expr: t.Expr, Active: t.Active,
		Fired: t.Fired, Resolved: t.Resolved, ValidUntil: t.ValidUntil, Firing: t.Resolved.IsZero()}
}

// state is the file.
type state struct {
	Silences []Silence         `json:"silences"`
	Told     map[string][]told `json:"told"` // by receiver
	Sent     []Sent            `json:"sent"` // oldest first
}

// store is what all receivers share, in memory and on disk. Elements of its slices are never written to, so that what was
// handed out stays what it was.
type store struct {
	path string // "": memory only
	log  *slog.Logger

	mu    sync.Mutex
	state state

	changing sync.Mutex    // one change of silences at a time, with its write
	writing  sync.Mutex    // one writer at a time, so that the newest content is written last
	dirty    chan struct{} // holds one
}

func openStore(path string, log *slog.Logger) (*store, error) {
	s := &store{path: path, log: log, dirty: make(chan struct{}, 1)}
	if path != "" {
		err := home.ReadJSON(path, &s.state)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			if _, unreadable := errors.AsType[*fs.PathError](err); unreadable {
				return nil, fail.New(fail.Internal, "read the state of alerts", "%w", err)
			}
			aside := path + ".broken"
			log.Warn("the state of alerts cannot be understood and is set aside: silences are gone", "file", aside, "error", err)
			if err := os.Rename(path, aside); err != nil {
				return nil, fail.New(fail.Internal, "set the state of alerts aside", "%w", err)
			}
			s.state = state{}
		}
	}
	if s.state.Told == nil {
		s.state.Told = map[string][]told{}
	}
	for i := range s.state.Sent {
		s.state.Sent[i].key = groupKey(s.state.Sent[i].Group)
	}
	return s, nil
}

// keep writes the file after changes until ctx ends, once a second at most: a storm of alerts is a thousand messages.
func (s *store) keep(ctx context.Context) {
	const atMostEvery = time.Second
	failed := false
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.dirty:
		case <-ctx.Done():
			return // Close writes what is left
		}
		err := s.save()
		if err != nil && !failed {
			s.log.Error("the state of alerts cannot be written", "error", err)
		}
		failed = err != nil
		pause.Reset(atMostEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *store) save() error {
	if s.path == "" {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	now := s.state
	now.Silences = living(now.Silences, time.Now())
	s.state.Silences = now.Silences
	now.Told = maps.Clone(now.Told)
	s.mu.Unlock()
	return home.WriteJSON(s.path, now, 0o600)
}

func (s *store) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// onlyFor forgets receivers that are not there any more.
func (s *store) onlyFor(workers map[string]*worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.state.Told, func(name string, _ []told) bool { return workers[name] == nil })
}

func (s *store) told(receiver string) []told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Told[receiver]
}

func (s *store) setTold(receiver string, all []told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Told[receiver] = all; len(all) == 0 {
		delete(s.state.Told, receiver)
	}
	s.touch()
}

func (s *store) silences() []Silence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Silences
}

// changeSilences replaces the silences by what f makes of a copy, on disk before it returns. What cannot be written does not
// hold either: the user was told so.
func (s *store) changeSilences(f func([]Silence) ([]Silence, error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	before := s.state.Silences
	after, err := f(slices.Clone(before))
	if err == nil {
		s.state.Silences = after
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.save(); err != nil {
		s.mu.Lock()
		s.state.Silences = before
		s.mu.Unlock()
		return fail.New(fail.Internal, "write the silences", "%w", err)
	}
	return nil
}

// add appends to the log, in which the oldest lines make room.
func (s *store) add(e Sent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.state.Sent
	if e.Outcome == GaveUp {
		for i, x := range slices.Backward(all) {
			if x.Receiver != e.Receiver || x.key != e.key {
				continue
			}
			if x.Outcome == GaveUp && x.Error == e.Error {
				e.Attempts += x.Attempts
				all = slices.Delete(slices.Clone(all), i, i+1)
			}
			break
		}
	}
	all = append(all, e)
	s.state.Sent = all[max(0, len(all)-logged):]
	s.touch()
}

// Sent returns the log of what was sent, the oldest line first: the last 1,000 messages to all receivers together. An
// Alertmanager that is only reminded of what it knows is left out.
func (d *Dispatcher) Sent() []Sent {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	return slices.Clone(d.store.state.Sent)
}
