package alert

import (
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// restoreGrace is how long an alert that was told before a restart may go without being told of again: rules are evaluated
// anew, and those with a `for` take up where they were.
const restoreGrace = 10 * time.Minute

// forgetAfter bounds how long the end of an alert is tried to be told to a receiver that does not answer.
const forgetAfter = 24 * time.Hour

// worker delivers to one receiver. All its state is its goroutine's; the others reach it through the inbox and the store.
type worker struct {
	d      *Dispatcher
	r      Receiver
	resend time.Duration // of a channel that groups on its own; 0: we group
	in     *inbox
	groups map[string]*group
	count  int // alerts in all groups

	unsaved    bool // the store does not have what was told last
	remembered time.Time
}

func newWorker(d *Dispatcher, r Receiver) *worker {
	w := &worker{d: d, r: r, in: newInbox(), groups: map[string]*group{}}
	if rs, ok := r.To.(resender); ok {
		w.resend = rs.resend()
	}
	return w
}

// restore takes up what the receiver had been told. Each of those alerts is given time to be raised again.
func (w *worker) restore(told []told, now time.Time) {
	for _, t := range told {
		a := t.alert()
		if a.Resolved.IsZero() {
			if least := now.Add(restoreGrace); a.ValidUntil.Before(least) {
				a.ValidUntil = least
			}
		}
		g := w.group(a, now)
		id := fingerprint(a.Labels)
		w.add(g, id, a).told = true
		w.settle(g, id)
		if t.At.After(g.sent) {
			g.sent = t.At
		}
	}
}

// run is the receiver's goroutine: it takes what is new, sends what is due, and waits for either.
func (w *worker) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer w.remember() // that an alert is over, and not yet told to be
	for {
		now := time.Now()
		w.take(now)
		w.expire(now)
		due, at := w.next(now)
		if len(due) > 0 {
			if w.pass(ctx, due); ctx.Err() != nil {
				return
			}
			continue
		}
		wait := time.Hour // with nothing to wait for, it looks up now and then
		if !at.IsZero() {
			wait = min(wait, at.Sub(now))
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.in.wake:
		case <-ctx.Done():
			return
		}
	}
}

// pass tries each of the groups once. What was told is remembered at the end, and meanwhile once a second: in a storm there
// are thousands of them.
func (w *worker) pass(ctx context.Context, due []*group) {
	for _, g := range due {
		w.take(time.Now())
		if w.flush(ctx, g); ctx.Err() != nil {
			return
		}
		if w.unsaved && time.Since(w.remembered) >= time.Second {
			w.remember()
		}
	}
	if w.unsaved {
		w.remember()
	}
}

// take brings the groups up to date with the inbox.
func (w *worker) take(now time.Time) {
	news, lost := w.in.take()
	for id, a := range news {
		if !allFit(w.r.Match, a.Labels) {
			continue
		}
		g := w.group(a, now)
		known := g.alerts[id]
		switch {
		case known != nil:
			known.alert = a
			w.settle(g, id)
		case !a.Resolved.IsZero(): // it was over before this receiver heard of it, or it has been told that
		case w.count >= maxAlerts:
			lost++
		default:
			w.add(g, id, a)
		}
	}
	if lost > 0 {
		w.d.opt.Log.Error("alerts were dropped: there are too many at once", "receiver", w.r.Name, "dropped", lost, "limit", maxAlerts)
	}
}

func (w *worker) add(g *group, id string, a metrics.Alert) *tracked {
	t := &tracked{alert: a, order: groupKey(a.Labels)}
	g.alerts[id] = t
	w.count++
	return t
}

// settle lets go of an alert that is over and of which there is nothing left to tell.
func (w *worker) settle(g *group, id string) {
	t := g.alerts[id]
	if t.over() && (!t.told || w.r.FiringOnly && w.resend == 0) {
		delete(g.alerts, id)
		w.count--
	}
}

// expire ends alerts that nobody vouches for any more: their rule is gone, or whoever evaluates it.
func (w *worker) expire(now time.Time) {
	for _, g := range w.groups {
		for id, t := range g.alerts {
			if until := t.alert.ValidUntil; !t.over() && !until.IsZero() && !now.Before(until) {
				t.alert.Firing, t.alert.Resolved = false, until
				w.settle(g, id)
			} else if t.over() && now.Sub(t.alert.Resolved) >= forgetAfter {
				delete(g.alerts, id)
				w.count--
			}
		}
	}
}

// next returns the groups whose message is due, the longest due first, or else the moment of the next thing to happen: a
// message, an alert that runs out, or the end of a silence. Groups in which there is nothing left are dropped here.
func (w *worker) next(now time.Time) (due []*group, at time.Time) {
	quiet := w.d.store.silences()
	since := map[*group]time.Time{}
	for key, g := range w.groups {
		if len(g.alerts) == 0 && g.attempts == 0 {
			delete(w.groups, key)
			continue
		}
		if t := w.due(g, g.glance(quiet, now)); !t.IsZero() && !t.After(now) {
			due, since[g] = append(due, g), t
		} else {
			at = sooner(at, t)
		}
		for _, t := range g.alerts {
			if !t.over() {
				at = sooner(at, t.alert.ValidUntil)
			}
		}
	}
	for _, s := range quiet {
		if s.Until.After(now) {
			at = sooner(at, s.Until)
		}
	}
	slices.SortFunc(due, func(a, b *group) int { return since[a].Compare(since[b]) })
	return due, at
}

// sooner returns the earlier of two moments, of which zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// flush tries once to deliver a group's message, as it is now.
func (w *worker) flush(ctx context.Context, g *group) {
	v := g.view(w.d.store.silences(), time.Now())
	if len(v.alerts) == 0 { // over, or silenced, while it was being tried
		if g.attempts > 0 {
			w.record(g, Overtaken, g.failure)
		}
		g.attempts, g.retry = 0, time.Time{}
		return
	}
	g.attempts++
	g.tried = v.alerts
	sending, cancel := context.WithTimeout(ctx, w.d.opt.Timeout)
	err := w.r.To.send(sending, w.d.client, w.message(g, v))
	cancel()
	if err != nil && ctx.Err() != nil {
		return // we are being closed; it is told again after the restart
	}
	f := judge(err, w.r.To.secrets())
	g.failure = f.text
	switch {
	case f.delivered:
		w.delivered(g, v, f)
	case f.permanent || g.attempts >= w.d.opt.Attempts:
		w.giveUp(g, f)
	default:
		g.retry = time.Now().Add(max(backoff(g.attempts), f.after))
		w.d.opt.Log.Info("an alert could not be sent yet", "receiver", w.r.Name, "group", g.key, "attempt", g.attempts, "error", f.text)
	}
}

func (w *worker) delivered(g *group, v view, f failure) {
	if w.resend == 0 || v.changed || g.attempts > 1 || f.text != "" { // else the log would be full of an Alertmanager being reminded
		w.record(g, Delivered, f.text)
	}
	if g.pauses > 0 {
		w.d.opt.Log.Info("alerts can be sent again", "receiver", w.r.Name, "group", g.key)
	}
	if f.text != "" {
		w.d.opt.Log.Warn("an alert was sent, but not to all", "receiver", w.r.Name, "group", g.key, "error", f.text)
	}
	for _, id := range v.ids {
		if t := g.alerts[id]; t.over() {
			delete(g.alerts, id)
			w.count--
		} else {
			t.told = true
		}
	}
	g.attempts, g.pauses, g.retry, g.sent = 0, 0, time.Time{}, time.Now()
	w.unsaved = true
}

// giveUp ends a round of attempts. The alerts stay, and are tried again after a pause that grows with each round.
func (w *worker) giveUp(g *group, f failure) {
	w.record(g, GaveUp, f.text)
	pause := w.resend
	if pause == 0 {
		pause = min(w.d.opt.GroupInterval<<min(g.pauses, 10), max(w.d.opt.GroupInterval, time.Hour))
	}
	w.d.opt.Log.Error("an alert could not be sent", "receiver", w.r.Name, "group", g.key, "attempts", g.attempts, "again_in", pause, "error", f.text)
	g.pauses++
	g.attempts, g.retry = 0, time.Now().Add(pause)
}

// remember gives the store what this receiver has been told.
func (w *worker) remember() {
	var all []told
	for _, g := range w.groups {
		for _, t := range g.alerts {
			if t.told {
				all = append(all, toldOf(t.alert, g.sent))
			}
		}
	}
	w.d.store.setTold(w.r.Name, all)
	w.unsaved, w.remembered = false, time.Now()
}

// record writes one line of the log of what was sent.
func (w *worker) record(g *group, o Outcome, problem string) {
	s := Sent{At: time.Now().Round(0), Receiver: w.r.Name, Group: g.labels, Outcome: o, Attempts: g.attempts, Error: problem, key: g.key}
	s.list(g.tried)
	w.d.store.add(s)
}

// message is what the channel is given.
func (w *worker) message(g *group, v view) message {
	return message{receiver: w.r.Name, key: g.key, group: g.labels, alerts: v.alerts, link: w.d.opt.URL}
}

// group returns the group that an alert belongs to, a new one if need be.
func (w *worker) group(a metrics.Alert, now time.Time) *group {
	labels := map[string]string{}
	if w.resend == 0 {
		for _, name := range w.d.opt.GroupBy {
			if v := a.Labels[name]; v != "" {
				labels[name] = v
			}
		}
	}
	key := groupKey(labels)
	g := w.groups[key]
	if g == nil {
		g = &group{key: key, labels: labels, alerts: map[string]*tracked{}, made: now}
		w.groups[key] = g
	}
	return g
}
