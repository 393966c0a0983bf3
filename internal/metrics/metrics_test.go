package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log collects what is logged.
type log struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func open(t *testing.T, o Options) *DB {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "metrics")
	}
	db, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// eventually asks until f says yes.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("still not: " + what)
		}
	}
}

// now returns the values of an expression by one of its labels.
func now(t *testing.T, q Querier, expr, label string) map[string]float64 {
	t.Helper()
	got, err := q.Query(t.Context(), expr, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, s := range got {
		out[s.Labels[label]] = s.Value
	}
	return out
}

// write puts samples of a source in, round by round at the given distance in the past, and returns the database.
func (db *DB) write(t *testing.T, rounds int, step time.Duration, f func(i int, r *Round)) {
	t.Helper()
	s := &source{db: db, name: "test", series: map[string]*series{}}
	from := time.Now().Add(-time.Duration(rounds-1) * step)
	for i := range rounds {
		r := s.begin(t.Context(), from.Add(time.Duration(i)*step))
		f(i, r)
		r.endOthers()
		if err := errors.Join(r.err, r.app.Commit()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSourceSeriesComeAndGo(t *testing.T) {
	db := open(t, Options{})
	var both, broken atomic.Bool
	both.Store(true)
	var l log
	db.opt.Log = l.logger()
	stop := db.Source("edge", 20*time.Millisecond, func(_ context.Context, r *Round) error {
		r.Gauge("temperature", 1, "place", "a")
		if both.Load() {
			r.Gauge("temperature", 2, "place", "b")
		}
		if broken.Load() {
			return errors.New("no thermometer")
		}
		return nil
	})
	is := func(want ...string) func() bool {
		return func() bool {
			got := now(t, db, "temperature", "place")
			for _, w := range want {
				if got[w] == 0 {
					return false
				}
			}
			return len(got) == len(want)
		}
	}
	eventually(t, "both are there", is("a", "b"))
	both.Store(false)
	eventually(t, "the one that is not written is gone at once", is("a"))
	broken.Store(true)
	eventually(t, "a failing source has no series", is())
	broken.Store(false)
	eventually(t, "it comes back", is("a"))
	if n := strings.Count(l.String(), "no thermometer"); n != 1 {
		t.Errorf("the failure is logged %d times, once is enough:\n%s", n, l.String())
	}
	stop()
	eventually(t, "nothing is left after stop", is())
	stop()
}

func TestRoundRefuses(t *testing.T) {
	db := open(t, Options{})
	for name, f := range map[string]func(*Round){
		"has no value":      func(r *Round) { r.Gauge("x", 1, "label") },
		"twice":             func(r *Round) { r.Gauge("x", 1, "a", "b"); r.Gauge("x", 2, "a", "b") },
		"not a metric":      func(r *Round) { r.Gauge("x y", 1) },
		"2 bounds":          func(r *Round) { r.Histogram("h", Histogram{Bounds: []float64{1, 2}, Counts: []uint64{1}}) },
		"is not a metric's": func(r *Round) { r.Gauge("x", 1, "0", "b") },
	} {
		s := &source{db: db, series: map[string]*series{}}
		err := s.once(t.Context(), time.Second, func(_ context.Context, r *Round) error {
			f(r)
			r.Gauge("good", 1, "case", name)
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if now(t, db, "good", "case")[name] != 1 {
			t.Errorf("%s: the good sample of that round is lost", name)
		}
	}
}

func TestGatherIsTheSameAsScraping(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "orders_total", Help: "Orders."}, []string{"kind"})
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "wait_seconds", Help: "Waiting.", Buckets: []float64{0.5, 1, 10}})
	s := prometheus.NewSummary(prometheus.SummaryOpts{Name: "size_bytes", Help: "Sizes.", Objectives: map[float64]float64{0.5: 0.05}})
	reg.MustRegister(c, h, s)
	c.WithLabelValues("new").Add(7)
	for _, v := range []float64{0.1, 0.7, 3, 30} {
		h.Observe(v)
		s.Observe(v)
	}
	target := httptest.NewServer(handlerFor(reg))
	defer target.Close()
	db := open(t, Options{})
	db.Source("own", 50*time.Millisecond, Gather(reg, "way", "direct"))
	if err := db.Targets([]Target{{URL: target.URL + "/metrics", Interval: 50 * time.Millisecond, Labels: map[string]string{"way": "http", "job": "shop"}}}); err != nil {
		t.Fatal(err)
	}
	const all = `{__name__=~"orders_total|wait_seconds_.*|size_bytes.*",way="%s"}`
	eventually(t, "both ways brought all series", func() bool {
		return now(t, db, fmt.Sprintf("count("+all+")", "http"), "")[""] == 10
	})
	key := func(s Sample) string {
		for _, l := range []string{"way", "job", "instance"} {
			delete(s.Labels, l)
		}
		return fmt.Sprint(s.Labels)
	}
	sets := map[string]map[string]float64{}
	for _, way := range []string{"direct", "http"} {
		got, err := db.Query(t.Context(), fmt.Sprintf(all, way), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sets[way] = map[string]float64{}
		for _, s := range got {
			sets[way][key(s)] = s.Value
		}
	}
	if len(sets["direct"]) != 10 || fmt.Sprint(sets["direct"]) != fmt.Sprint(sets["http"]) {
		t.Errorf("direct %v\nhttp   %v", sets["direct"], sets["http"])
	}
}

func TestTargets(t *testing.T) {
	var mode atomic.Value
	mode.Store("ok")
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mode.Load() {
		case "ok":
			fmt.Fprintf(w, "# TYPE jobs gauge\njobs{service=\"other\"} 5\nquery{q=%q} 1\n", r.FormValue("q"))
		case "many":
			for i := range 10001 {
				fmt.Fprintf(w, "jobs{i=\"%d\"} 1\n", i)
			}
		case "garbage":
			fmt.Fprint(w, "this is { not a metric\n")
		default:
			http.Error(w, "no", http.StatusInternalServerError)
		}
	}))
	defer target.Close()
	db := open(t, Options{})
	one := Target{URL: target.URL + "/m?q=x", Interval: 50 * time.Millisecond, Labels: map[string]string{"service": "shop", "instance": "2", "job": "shop"}}
	if err := db.Targets([]Target{one}); err != nil {
		t.Fatal(err)
	}
	up := func() float64 {
		v, ok := now(t, db, `up{job="shop",instance="2",service="shop"}`, "job")["shop"]
		if !ok {
			return -1
		}
		return v
	}
	eventually(t, "it is scraped", func() bool { return up() == 1 })
	if got := now(t, db, `jobs{service="shop",exported_service="other",instance="2"}`, "job"); got["shop"] != 5 {
		t.Errorf("the target's own label is not kept beside ours: %v", got)
	}
	if got := now(t, db, `query{q="x"}`, "job"); got["shop"] != 1 {
		t.Errorf("the URL's query did not reach the target: %v", got)
	}
	if got := now(t, db, `scrape_samples_scraped`, "job"); got["shop"] != 2 {
		t.Errorf("scrape_samples_scraped: %v", got)
	}
	if got := now(t, db, `scrape_duration_seconds`, "job"); got["shop"] <= 0 {
		t.Errorf("scrape_duration_seconds: %v", got)
	}
	for _, bad := range []string{"many", "garbage", "500"} {
		mode.Store(bad)
		eventually(t, bad+": it is down and its series are gone", func() bool { return up() == 0 && len(now(t, db, "jobs", "job")) == 0 })
		mode.Store("ok")
		eventually(t, "it is up again after "+bad, func() bool { return up() == 1 })
	}
	if err := db.Targets(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a target that went has no series", func() bool { return up() == -1 && len(now(t, db, "jobs", "job")) == 0 })
}

func TestTargetsRefuses(t *testing.T) {
	db := open(t, Options{})
	for want, target := range map[string]Target{
		"must begin with http":      {URL: "ftp://x/metrics"},
		"in the URL would stand":    {URL: "http://u:secret@x/metrics"},
		"not a label's name":        {URL: "http://x/", Labels: map[string]string{"a-b": "c"}},
		`"__address__" is not`:      {URL: "http://x/", Labels: map[string]string{"__address__": "c"}},
		"timeout cannot be greater": {URL: "http://x/", Interval: time.Second, Timeout: 2 * time.Second},
		"the URL cannot be read":    {URL: "http://%zz/"},
		"a host":                    {URL: "http:///metrics"},
	} {
		err := db.Targets([]Target{target})
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", target, err)
		}
	}
}

func TestOpenTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	open(t, Options{Dir: dir})
	_, err := Open(Options{Dir: dir})
	if fail.KindOf(err) != fail.Busy {
		t.Errorf("a second Open gives %v", err)
	}
	if _, err := os.Stat(asideDir(dir)); err == nil {
		t.Error("the living database was set aside")
	}
}

func TestClosed(t *testing.T) {
	db := open(t, Options{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Targets(nil); fail.KindOf(err) != fail.Unavailable {
		t.Errorf("Targets: %v", err)
	}
	stop := db.Source("late", time.Second, func(context.Context, *Round) error { t.Error("it ran"); return nil })
	stop()
}
