package metrics

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// told collects notifications.
type told struct {
	mu  sync.Mutex
	all []Alert
}

func (n *told) notify(_ context.Context, alerts []Alert) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, alerts...)
}

func (n *told) has(f func(Alert) bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.all, f)
}

func ruleFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	put(t, path, content)
	return path
}

const queueRules = `
groups:
  - name: queue
    interval: 100ms
    rules:
      - record: queue:length:max
        expr: max by (service) (queue_length)
      - alert: QueueLong
        expr: queue:length:max > 10
        for: 300ms
        labels: {severity: page}
        annotations: {summary: "{{ $labels.service }} has {{ $value }} waiting"}
`

func TestRuleFiresAndResolves(t *testing.T) {
	var n told
	db := open(t, Options{Notify: n.notify, RuleInterval: 100 * time.Millisecond})
	length := make(chan float64, 1)
	length <- 12
	v := 0.0
	db.Source("queue", 20*time.Millisecond, func(_ context.Context, r *Round) error {
		select {
		case v = <-length:
		default:
		}
		r.Gauge("queue_length", v, "service", "shop")
		return nil
	})
	if err := db.Rules([]string{ruleFile(t, queueRules)}); err != nil {
		t.Fatal(err)
	}
	fired := func(a Alert) bool { return a.Name == "QueueLong" && a.Firing && a.Resolved.IsZero() }
	eventually(t, "it is pending first", func() bool {
		return slices.ContainsFunc(db.Alerts(), func(a Alert) bool { return a.Name == "QueueLong" && !a.Firing })
	})
	if n.has(func(Alert) bool { return true }) {
		t.Error("told before the rule's time was over")
	}
	eventually(t, "it fires", func() bool { return n.has(fired) })
	n.mu.Lock()
	a := n.all[slices.IndexFunc(n.all, fired)]
	n.mu.Unlock()
	if a.Labels["severity"] != "page" || a.Labels["service"] != "shop" || a.Annotations["summary"] != "shop has 12 waiting" ||
		a.Value != 12 || a.Fired.Sub(a.Active) < 300*time.Millisecond || !strings.Contains(a.Expr, "queue:length:max > 10") || !a.ValidUntil.After(a.Fired) {
		t.Errorf("%+v", a)
	}
	eventually(t, "the alert is a series too", func() bool {
		return now(t, db, `ALERTS{alertstate="firing"}`, "alertname")["QueueLong"] == 1
	})
	length <- 3
	eventually(t, "it resolves", func() bool {
		return n.has(func(a Alert) bool { return a.Name == "QueueLong" && !a.Resolved.IsZero() })
	})
	if left := db.Alerts(); len(left) != 0 {
		t.Errorf("still active: %+v", left)
	}
}

// TestPendingOutlivesTheAgent closes the database while an alert is pending: its time does not begin again.
func TestPendingOutlivesTheAgent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	file := ruleFile(t, strings.Replace(queueRules, "for: 300ms", "for: 1h", 1))
	run := func() (active, seen time.Time) {
		db := open(t, Options{Dir: dir, RuleInterval: 100 * time.Millisecond})
		db.Source("queue", 20*time.Millisecond, func(_ context.Context, r *Round) error {
			r.Gauge("queue_length", 12, "service", "shop")
			return nil
		})
		if err := db.Rules(nil); err != nil { // as an agent starts: the built-in ones first, the services' later
			t.Fatal(err)
		}
		if err := db.Rules([]string{file}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the state is stored", func() bool { return len(now(t, db, "ALERTS_FOR_STATE", "alertname")) == 1 })
		eventually(t, "it is pending", func() bool {
			a := db.Alerts()
			if len(a) == 1 {
				active, seen = a[0].Active, time.Now()
			}
			return len(a) == 1
		})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return active, seen
	}
	first, before := run()
	second, after := run()
	// The state is kept in whole seconds, and a restored alert may be late by the time the agent was away.
	if d, away := second.Sub(first), after.Sub(before); d < -time.Second || d > time.Second+away {
		t.Errorf("pending since %s, and after a restart %s later since %s", first, away, second)
	}
}

func TestRuleErrorsHaveAPlace(t *testing.T) {
	db := open(t, Options{})
	if err := db.Rules([]string{ruleFile(t, queueRules)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ content, place, says string }{
		{"groups:\n  - name: a\n    rules:\n      - alert: X\n        expr: sum(\n", ":5:15", "could not parse expression"},
		{"groups:\n  - name: a\n    rules:\n      - alert: X\n        exprr: up\n", ":5", "field exprr not found"},
		{"groups:\n  - name: a\n  - name: a\n", ": alerts", "repeated"},
		{"groups:\n  - name: a\n    rules:\n      - alert: X\n        expr: up\n        annotations: {s: \"{{ $labels.x\"}\n", "", "unclosed action"},
		{"groups: [\n", ":", ""},
	} {
		file := ruleFile(t, c.content)
		err := db.Rules([]string{file})
		e := fail.As(err)
		if fail.KindOf(err) != fail.Usage || !strings.HasPrefix(err.Error(), file+c.place) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q:\n%v\n%v", c.content, err, e)
		}
	}
	if err := db.Rules([]string{filepath.Join(t.TempDir(), "none.yaml")}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a file that is not there: %v", err)
	}
	two := ruleFile(t, "groups:\n  - name: a\n    rules:\n      - alert: X\n        expr: sum(\n      - alert: Y\n        expr: rate(x)\n")
	if e := fail.As(db.Rules([]string{two})); e == nil || len(e.Lines) != 1 || !strings.HasPrefix(e.Lines[0], two+":7:") {
		t.Errorf("the second error is not told: %+v", e)
	}
	if got := len(db.ruler.manager.RuleGroups()); got != 2 {
		t.Errorf("the rules from before are not in force any more: %d groups", got)
	}
}

// TestBuiltinRules feeds each rule with what it is for, and beside it with what it must not mind.
func TestBuiltinRules(t *testing.T) {
	db := open(t, Options{RuleInterval: time.Hour})
	const step = 5 * time.Second
	var seconds Histogram
	db.write(t, 181, step, func(i int, r *Round) {
		l := func(service string) []string {
			return []string{"service", service, "environment", "production", "release", "1", "instance", "1"}
		}
		n := float64(i)
		gone, ok := 1-min(1, float64(i/120)), 1.0 // down for the last 5 minutes of 15
		r.Gauge(InstanceUp, gone, l("down")...)
		r.Gauge(InstanceUp, ok, l("fine")...)
		r.Gauge(InstanceUp, gone, "service", "half", "environment", "production", "release", "1", "instance", "1")
		r.Gauge(InstanceUp, ok, "service", "half", "environment", "production", "release", "1", "instance", "2")
		r.Counter(InstanceRestarts, float64(i/20), l("down")...) // each 100 s
		r.Counter(InstanceRestarts, float64(i/100), l("fine")...)
		for _, s := range []struct {
			name             string
			requests, failed float64
			slow             bool
		}{{"down", 10, 1, true}, {"fine", 10, 0.2, false}, {"half", 10, 1, true}, {"strict", 10, 0.2, false}, {"rare", 0.01, 0.01, true}} {
			r.Counter(EdgeRequests, s.requests*n, append(l(s.name), "class", "2xx")...)
			r.Counter(EdgeFailures, s.failed*n, l(s.name)...)
			total := uint64(s.requests * n)
			seconds = Histogram{Bounds: []float64{0.1, 1, 4}, Counts: []uint64{total, total, total}, Count: total, Sum: 1}
			if s.slow {
				seconds.Counts = []uint64{total / 2, total / 2, total}
			}
			r.Histogram(EdgeSeconds, seconds, l(s.name)...)
		}
		r.Gauge(ObjectiveErrors, 0.5, "service", "half", "environment", "production")
		r.Gauge(ObjectiveErrors, 0.01, "service", "strict", "environment", "production")
		r.Gauge(ObjectiveLatency, 10, "service", "half", "environment", "production")
		r.Gauge(InstanceMemory, 95, l("down")...)
		r.Gauge(InstanceMemory, 50, l("fine")...)
		r.Gauge(InstanceMemory, 1000, l("half")...) // without a limit
		r.Gauge(InstanceMemoryLimit, 100, l("down")...)
		r.Gauge(InstanceMemoryLimit, 100, l("fine")...)
		r.Gauge(DiskUsed, 0.95, "path", "/full")
		r.Gauge(DiskUsed, 0.5, "path", "/")
		for host, days := range map[string]int{"late": 13, "early": 30, "over": -1} {
			r.Gauge(CertificateExpiry, float64(time.Now().Add(time.Duration(days)*24*time.Hour).Unix()), "host", host)
		}
	})
	if err := db.Rules(nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"FairleadServiceDown": "down", "FairleadInstanceDown": "down half", "FairleadCrashLoop": "down", "FairleadErrorRate": "down strict",
		"FairleadLatency": "down", "FairleadMemory": "down", "FairleadDisk": "/full", "FairleadCertificate": "late over",
	}
	got := map[string]string{}
	for _, r := range db.ruler.manager.AlertingRules() {
		found, err := db.Query(t.Context(), r.Query().String(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var who []string
		for _, s := range found {
			who = append(who, s.Labels["service"]+s.Labels["path"]+s.Labels["host"])
		}
		slices.Sort(who)
		got[r.Name()] = strings.Join(who, " ")
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, name := range []string{"FairleadServiceDown", "FairleadInstanceDown"} {
		for _, r := range db.ruler.manager.AlertingRules() {
			if r.Name() == name && r.HoldDuration() != 2*time.Minute {
				t.Errorf("%s waits %s", name, r.HoldDuration())
			}
		}
	}
}

// TestNamesAreMeasured holds that each of our metrics that a built-in rule reads is one that this room knows.
func TestNamesAreMeasured(t *testing.T) {
	known := []string{EdgeRequests, EdgeFailures, EdgeSeconds + "_bucket"}
	known = slices.AppendSeq(known, maps.Keys(help))
	rules := string(BuiltinRules)
	for _, name := range known {
		rules = strings.ReplaceAll(rules, name+" ", " ")
		rules = strings.ReplaceAll(rules, name+"[", "[")
		rules = strings.ReplaceAll(rules, name+")", ")")
	}
	for line := range strings.Lines(rules) {
		if strings.Contains(line, "fairlead_") {
			t.Errorf("a rule reads what nothing writes: %s", line)
		}
	}
}
