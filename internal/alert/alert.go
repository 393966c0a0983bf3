// Package alert tells people and their tools of alerts: an Alertmanager, webhooks, chat rooms with Slack's kind of hook, and
// mailboxes.
//
// It sits behind [metrics.Options.Notify] and never holds that up: [Dispatcher.Notify] leaves the newest state of each alert
// in a bounded inbox of each receiver and returns. One goroutine a receiver owns all that is known for it, so that a receiver
// that does not answer holds up no other one, and a message that is tried again says what holds then, not what held at first.
//
// Grouping, repetition and silences mean what they mean in Alertmanager (its guide "Alerting: notification overview"), for
// machines that have none. Where there is one, it does the grouping itself and is told of every alert, again and again.
//
// What was told, the silences and the log of what was sent outlive a restart in one file. A message is delivered at least
// once: after a crash between the delivery and the write, twice.
package alert

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Options say who is told, and how often. Zero values are right for a small team.
type Options struct {
	Receivers []Receiver

	GroupBy       []string      // alerts that have these labels in common make one message; nil: alertname, service, environment; empty: all do
	GroupWait     time.Duration // from the first alert of a group to its message, so that those that come together go together; 0: 30 s
	GroupInterval time.Duration // between two messages of a group in which something changed; 0: 5 min
	RepeatEvery   time.Duration // a message in which nothing changed, while something fires; 0: 4 h

	Attempts int           // to deliver one message before it is given up for a while; 0: 10, which takes about 6 min
	Timeout  time.Duration // of one attempt; 0: 15 s

	State  string       // file; "": what is known ends with the process
	URL    string       // under which people reach fairlead's metrics; links in messages lead there; "": no links
	Client *http.Client // for all but mail; its own handling of redirects is not used; nil: one of this room's
	Log    *slog.Logger // nil: nothing is logged
}

func (o Options) orDefaults() Options {
	if o.GroupBy == nil {
		o.GroupBy = []string{model.AlertNameLabel, "service", "environment"}
	}
	for _, d := range []struct {
		v     *time.Duration
		usual time.Duration
	}{{&o.GroupWait, 30 * time.Second}, {&o.GroupInterval, 5 * time.Minute}, {&o.RepeatEvery, 4 * time.Hour}, {&o.Timeout, 15 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.usual
		}
	}
	if o.Attempts <= 0 {
		o.Attempts = 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Dispatcher takes alerts and delivers them. Make it with [New], end it with Close.
type Dispatcher struct {
	opt     Options
	store   *store
	client  *http.Client
	own     *http.Transport // nil: the client was given
	workers map[string]*worker
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
}

// New checks the receivers, takes up what the state file says, and starts to deliver. It returns an error of kind
// [fail.Usage] for a receiver that cannot work, without any of its secrets. A state file that cannot be understood is set
// aside with a warning: a machine whose alerts are silent for a broken file would be worse off.
func New(o Options) (*Dispatcher, error) {
	o = o.orDefaults()
	if err := checkReceivers(o.Receivers); err != nil {
		return nil, err
	}
	st, err := openStore(o.State, o.Log)
	if err != nil {
		return nil, err
	}
	d := &Dispatcher{opt: o, store: st, workers: map[string]*worker{}}
	d.setClient()
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	now := time.Now()
	for _, r := range o.Receivers {
		w := newWorker(d, r)
		w.restore(st.told(r.Name), now)
		d.workers[r.Name] = w
	}
	st.onlyFor(d.workers)
	for _, w := range d.workers {
		d.tasks.Go(func() { w.run(ctx) })
	}
	d.tasks.Go(func() { st.keep(ctx) })
	return d, nil
}

// setClient makes the client that hooks are called with. Redirects are not followed: an alert does not go where nobody
// sent it, and net/http would turn the POST into a GET.
func (d *Dispatcher) setClient() {
	var c http.Client
	if d.opt.Client != nil {
		c = *d.opt.Client
	} else {
		d.own = http.DefaultTransport.(*http.Transport).Clone()
		c.Transport = d.own
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	d.client = &c
}

// Close breaks off what is being delivered, waits for it, and writes the state file. Alerts whose message was not due yet
// are not lost: whoever raised them tells of them again after a restart. A second call does nothing new.
func (d *Dispatcher) Close() error {
	d.cancel()
	d.tasks.Wait()
	if d.own != nil {
		d.own.CloseIdleConnections()
	}
	if err := d.store.save(); err != nil {
		return fail.New(fail.Internal, "write the state of alerts", "%w", err)
	}
	return nil
}

// Notify takes the newest state of alerts, which may be told any number of times. It never blocks, has the signature of
// [metrics.Options.Notify], and may be called at any time, even after Close, when nothing comes of it. Alerts that are only
// pending are passed over. An alert without a ValidUntil goes on until it is told to be over, or until nobody raises it within
// 10 minutes of a restart. Maps inside alerts must not be changed afterwards.
func (d *Dispatcher) Notify(_ context.Context, alerts []metrics.Alert) {
	news := make(map[string]metrics.Alert, len(alerts))
	for _, a := range alerts {
		if a.Firing || !a.Resolved.IsZero() {
			news[fingerprint(a.Labels)] = a
		}
	}
	if len(news) == 0 {
		return
	}
	for _, w := range d.workers {
		w.in.put(news)
	}
}

// TestName is the name of the alert that [Dispatcher.Test] sends.
const TestName = "FairleadTest"

// Test sends one made-up alert to a receiver at once, whatever it matches and whatever is silenced, and returns when it has
// been delivered or has failed. The attempt is logged as any other. The error is of kind [fail.NotFound] when there is no
// such receiver, and [fail.Unavailable] with what went wrong otherwise. An Alertmanager takes the alert as over a minute later.
func (d *Dispatcher) Test(ctx context.Context, receiver string) error {
	op := "test the alert receiver " + receiver
	w := d.workers[receiver]
	if w == nil {
		return fail.New(fail.NotFound, op, "there is no such receiver")
	}
	now := time.Now()
	labels := map[string]string{model.AlertNameLabel: TestName, "severity": "info"}
	a := metrics.Alert{Name: TestName, Labels: labels, Firing: true, Active: now, Fired: now, ValidUntil: now.Add(time.Minute),
		Annotations: map[string]string{"summary": "This is a test: alerts of fairlead reach this place."}}
	g := &group{key: groupKey(labels), labels: labels, attempts: 1, tried: []metrics.Alert{a}}
	sending, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	f := judge(w.r.To.send(sending, d.client, w.message(g, view{alerts: g.tried})), w.r.To.secrets())
	if f.text == "" {
		w.record(g, Delivered, "")
		return nil
	}
	w.record(g, GaveUp, f.text)
	return fail.New(fail.Unavailable, op, "%s", f.text).Hinted("nothing is retried after a test: run it again when the cause is gone")
}

// fingerprint names an alert by its labels, by the sum that Alertmanager uses: tools see the same alert under one name,
// whoever told them.
func fingerprint(labels map[string]string) string {
	set := make(model.LabelSet, len(labels))
	for k, v := range labels {
		set[model.LabelName(k)] = model.LabelValue(v)
	}
	return set.Fingerprint().String()
}

// maxAlerts are kept for one receiver at once. More of them are a broken rule, and 10,000 say that as well as a million.
const maxAlerts = 10_000

// inbox holds what a receiver's goroutine has not looked at yet: of each alert the newest state only.
type inbox struct {
	mu     sync.Mutex
	alerts map[string]metrics.Alert
	lost   int           // found no room
	wake   chan struct{} // holds one: there is something new, or the silences have changed
}

func newInbox() *inbox {
	return &inbox{alerts: map[string]metrics.Alert{}, wake: make(chan struct{}, 1)}
}

func (in *inbox) put(news map[string]metrics.Alert) {
	in.mu.Lock()
	for id, a := range news {
		if _, known := in.alerts[id]; !known && len(in.alerts) >= maxAlerts {
			in.lost++
			continue
		}
		in.alerts[id] = a
	}
	in.mu.Unlock()
	in.knock()
}

func (in *inbox) knock() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (in *inbox) take() (news map[string]metrics.Alert, lost int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.alerts) > 0 {
		news, in.alerts = in.alerts, map[string]metrics.Alert{}
	}
	lost, in.lost = in.lost, 0
	return news, lost
}
