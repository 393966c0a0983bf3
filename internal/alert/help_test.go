package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is one request that a fake transport saw.
type call struct {
	at   time.Time
	host string
	path string
	body string
}

// wire is a transport that answers without a network, so that it works in virtual time. What answer returns for a host is
// its status; 0: the connection breaks; below 0: it hangs until the request's own end.
type wire struct {
	mu     sync.Mutex
	calls  []call
	answer func(host string, n int) int // nil: 200; n counts the calls of that host from 1
	header http.Header
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.calls = append(w.calls, call{time.Now(), req.URL.Host, req.URL.Path, string(b)})
	n, status := 0, 200
	for _, c := range w.calls {
		if c.host == req.URL.Host {
			n++
		}
	}
	if w.answer != nil {
		status = w.answer(req.URL.Host, n)
	}
	header := maps.Clone(w.header)
	w.mu.Unlock()
	switch {
	case status == 0:
		return nil, io.ErrUnexpectedEOF
	case status < 0:
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	// Hostile enough: the answer repeats what it was asked.
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: header, Request: req,
		Body: io.NopCloser(strings.NewReader("you asked for " + req.URL.RequestURI()))}, nil
}

func (w *wire) to(host string) (out []call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if c.host == host {
			out = append(out, c)
		}
	}
	return out
}

// says is a hook's message in short: its status and each alert's id label with + for firing and - for over.
func says(t *testing.T, c call) string {
	t.Helper()
	var m hookMessage
	if err := json.Unmarshal([]byte(c.body), &m); err != nil {
		t.Fatalf("%v: %s", err, c.body)
	}
	out := m.Status
	for _, a := range m.Alerts {
		sign := " +"
		if a.Status == "resolved" {
			sign = " -"
		}
		out += sign + a.Labels["id"]
	}
	return out
}

// saw compares what a host was told and when, in seconds since start.
func (w *wire) saw(t *testing.T, host string, start time.Time, want ...string) {
	t.Helper()
	var got []string
	for _, c := range w.to(host) {
		got = append(got, c.at.Sub(start).Round(time.Second).String()+" "+says(t, c))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s was told\n%s\nwant\n%s", host, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func hook(name string) Receiver {
	return Receiver{Name: name, To: Webhook{URL: Secret("http://" + name + "/secret-path/T0KEN?key=S3CRETKEY")}}
}

func firing(id string, more ...string) metrics.Alert {
	labels := map[string]string{"alertname": "QueueLong", "service": "shop", "id": id}
	for i := 0; i+1 < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	now := time.Now()
	return metrics.Alert{Name: labels["alertname"], Labels: labels, Annotations: map[string]string{"summary": "too long"}, Expr: "queue > 10",
		Value: 12, Firing: true, Active: now, Fired: now, ValidUntil: now.Add(4 * time.Minute)}
}

func over(a metrics.Alert) metrics.Alert {
	a.Firing, a.Resolved, a.ValidUntil = false, time.Now(), time.Now().Add(4*time.Minute)
	return a
}

// again is what the rule manager says each minute while an alert fires.
func again(a metrics.Alert) metrics.Alert {
	a.ValidUntil = time.Now().Add(4 * time.Minute)
	return a
}

// keepFiring tells of alerts each minute until stopped.
func keepFiring(d *Dispatcher, alerts ...metrics.Alert) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			for i := range alerts {
				alerts[i] = again(alerts[i])
			}
			d.Notify(ctx, alerts)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func start(t *testing.T, o Options) *Dispatcher {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// withWire is what most tests in virtual time use.
func withWire(w *wire, names ...string) Options {
	o := Options{Client: &http.Client{Transport: w}}
	for _, n := range names {
		o.Receivers = append(o.Receivers, hook(n))
	}
	return o
}

func matcher(t *testing.T, text string) Matcher {
	t.Helper()
	m, err := ParseMatcher(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func stateFile(t *testing.T) string { return filepath.Join(t.TempDir(), "alerts.json") }

// logText is a log that can be read while it is written to.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logText) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// amSays is a post to Alertmanager in short: each id with the moment it is over, since begin.
func amSays(t *testing.T, body string, begin time.Time) (out string) {
	t.Helper()
	var all []wireAlert
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, a := range all {
		sign := " +"
		if !a.EndsAt.After(begin.Add(150 * time.Second)) {
			sign = " -"
		}
		out += sign + a.Labels["id"] + "(" + a.EndsAt.Sub(begin).String() + ")"
	}
	return out
}
