//go:build unix

package edge

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"

	"github.com/fairlead-dev/fairlead/internal/home"
)

func openStats(t *testing.T, path string, edge bool) *Stats {
	t.Helper()
	s, err := OpenStats(path, edge)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestCountersEqualWhatClientsSaw(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscanf(r.URL.Path, "/%d", &code)
		w.WriteHeader(code)
		io.WriteString(w, "12345")
	}, says("12345"))
	saw, n, bytes := map[int]uint64{}, uint64(0), uint64(0)
	c := client(t)
	for range 20 {
		for _, code := range []int{200, 201, 301, 404, 500, 503} {
			res, body := get(t, c, fmt.Sprintf("%s/%d", g.url(), code))
			saw[res.StatusCode/100]++
			n, bytes = n+1, bytes+uint64(len(body))
		}
	}
	got := g.settled(n)
	in := g.counts(1, 1).Add(g.counts(1, 2))
	for _, c := range []Counts{got, in} {
		var hist uint64
		for _, b := range c.Hist {
			hist += b
		}
		if c.Requests != n || c.Bytes != bytes || c.Failed != saw[5] || c.Undone+c.Aborted+c.Retried != 0 || hist != n || c.Nanos == 0 {
			t.Errorf("%+v", c)
		}
		for class, m := range c.Classes {
			if m != saw[class] {
				t.Errorf("class %d: %d, clients saw %d", class, m, saw[class])
			}
		}
	}
	// No route is nobody's request.
	g.set(Table{Routes: []Route{route1("shop", anyPort, "127.0.0.1:1", "a.example")}})
	if res, _ := get(t, c, g.url()); res.StatusCode != http.StatusNotFound || g.counts(0, 0).Requests != n {
		t.Errorf("%s", res.Status)
	}
}

func TestMetrics(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, "hello")
	})
	for _, path := range []string{"/", "/", "/fails"} {
		get(t, client(t), g.url()+path)
	}
	g.settled(3)
	stopped := *g.s.last
	stopped.Routes = slices.Clone(stopped.Routes)
	stopped.Routes[0].Backends, stopped.Routes[0].Stopped = nil, true
	g.set(stopped)
	get(t, client(t), g.url())
	g.settled(4)
	body, err := NewClient(g.dirs.Sock(home.Edge)).c.Raw(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(body)
	if err != nil {
		t.Fatal(err)
	}
	got, latency := map[string]float64{}, uint64(0)
	for name, f := range families {
		for _, m := range f.Metric {
			l := map[string]string{}
			for _, p := range m.Label {
				l[p.GetName()] = p.GetValue()
			}
			if l["service"] != "shop" || l["environment"] != "prod" {
				t.Errorf("%s: %v", name, l)
			}
			if h := m.Histogram; h != nil {
				latency += h.GetSampleCount()
				last := uint64(0)
				for _, b := range h.Bucket {
					if b.GetCumulativeCount() < last {
						t.Errorf("%s: bucket %v holds fewer than the one below", name, b.GetUpperBound())
					}
					last = b.GetCumulativeCount()
				}
				continue
			}
			got[strings.TrimPrefix(name, "fairlead_edge_")+" "+l["release"]+"."+l["instance"]+" "+l["class"]] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	c := g.counts(1, 1)
	want := map[string]float64{
		"requests_total 1.1 2xx": 2, "requests_total 1.1 5xx": 1, "requests_total 1.1 0xx": 0, "requests_total 1.1 1xx": 0, "requests_total 1.1 3xx": 0,
		"requests_total 1.1 4xx": 0, "failures_total 1.1 ": 1, "undelivered_total 1.1 ": 0, "aborted_total 1.1 ": 0, "retries_total 1.1 ": 0,
		"response_bytes_total 1.1 ": float64(c.Bytes), "open_requests 1.1 ": 0,
		"requests_total 0.0 5xx": 1, "failures_total 0.0 ": 1, "undelivered_total 0.0 ": 1,
	}
	for k, v := range want {
		if w, ok := got[k]; !ok || w != v {
			t.Errorf("%s is %v, want %v", k, w, v)
		}
	}
	if len(got) != len(want) || latency != c.Requests {
		t.Errorf("%v, %d in the histogram", got, latency)
	}
}

func TestBuckets(t *testing.T) {
	if bucketOf(0) != 0 || bucketOf(-1) != 0 || bucketOf(math.MaxInt64) != histBuckets-1 {
		t.Error("the ends are wrong")
	}
	for i := range histBuckets - 1 {
		end := bucketEnd(i)
		if i > 0 && end <= bucketEnd(i-1) {
			t.Errorf("bucket %d ends at %d, not after the one before", i, end)
		}
		if bucketOf(end-1) != i || bucketOf(end) != i+1 {
			t.Errorf("bucket %d: its last value is in %d, the next one in %d", i, bucketOf(end-1), bucketOf(end))
		}
	}
}

func TestQuantiles(t *testing.T) {
	if (Counts{}).Quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
	rapid.Check(t, func(r *rapid.T) {
		// Around one latency, as services are, and all over the place.
		low := rapid.Int64Range(1<<firstOctave, 1<<36).Draw(r, "low")
		high := rapid.Int64Range(low, min(low*rapid.Int64Range(1, 1000).Draw(r, "spread"), 1<<(firstOctave+octaves)-1)).Draw(r, "high")
		all := rapid.SliceOfN(rapid.Int64Range(low, high), 1, 300).Draw(r, "samples")
		c := Counts{Hist: make([]uint64, histBuckets)}
		for _, d := range all {
			c.Hist[bucketOf(time.Duration(d))]++
		}
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.9, 0.95, 0.99, 1} {
			exact := float64(all[min(int(q*float64(len(all))), len(all)-1)])
			if got := float64(c.Quantile(q)); math.Abs(got-exact) > 0.07*exact {
				r.Fatalf("p%v is %v, exactly %v", q*100, got, exact)
			}
		}
	})
}

func TestAddAndSub(t *testing.T) {
	draw := rapid.Custom(func(r *rapid.T) Counts {
		n := func(name string) uint64 { return rapid.Uint64Range(0, 1<<40).Draw(r, name) }
		c := Counts{Requests: n("requests"), Failed: n("failed"), Unplaced: n("unplaced"), Undone: n("undone"), Aborted: n("aborted"), Refused: n("refused"),
			Retried: n("retried"), Bytes: n("bytes"), Nanos: n("nanos"), Hist: make([]uint64, histBuckets), Open: int64(n("open"))}
		c.Classes[2], c.Hist[0], c.Hist[histBuckets-1] = n("class"), n("first"), n("last")
		return c
	})
	rapid.Check(t, func(r *rapid.T) {
		a, b := draw.Draw(r, "a"), draw.Draw(r, "b")
		got := a.Add(b).Sub(b)
		got.Open = a.Open
		if fmt.Sprint(got) != fmt.Sprint(a) || fmt.Sprint(a.Add(b)) != fmt.Sprint(b.Add(a)) || a.Add(b).Open != a.Open+b.Open || a.Sub(b).Open != a.Open {
			r.Fatal(a, b)
		}
		// Counters that began again at zero do not wrap round.
		if d := a.Sub(a.Add(b)); d.Requests+d.Hist[0]+d.Classes[2] != 0 {
			r.Fatal(d)
		}
	})
}

func TestGapClock(t *testing.T) {
	s := openStats(t, filepath.Join(t.TempDir(), "stats"), true)
	k := slotKey{Service: "shop", Environment: "prod"}
	sl, err := s.slot(k)
	if err != nil {
		t.Fatal(err)
	}
	const second = time.Second
	at := func(n int) time.Time { return time.Unix(1000+int64(n), 0) }
	gap := func() time.Duration { return time.Duration(sl.gapMax.Load()) }
	// Answered after 2 s; then nobody asks for 100 s, which is no gap.
	s.arrive(sl, at(0))
	s.answered(sl, at(2))
	s.end(sl)
	s.arrive(sl, at(102))
	s.answered(sl, at(103))
	s.end(sl)
	if gap() != 2*second {
		t.Errorf("%s", gap())
	}
	// Two wait; one is answered: the other one's wait goes on from there.
	s.arrive(sl, at(200))
	s.arrive(sl, at(201))
	s.answered(sl, at(203))
	s.end(sl)
	s.answered(sl, at(208))
	s.end(sl)
	if gap() != 5*second {
		t.Errorf("%s", gap())
	}
	// A failure does not end the gap, nor does a quiet time after it: nobody knows that the service is back.
	s.arrive(sl, at(300))
	s.gaveUp(sl, at(301), true)
	s.end(sl)
	s.arrive(sl, at(309))
	s.answered(sl, at(310))
	s.end(sl)
	if gap() != 10*second {
		t.Errorf("%s", gap())
	}
	// A client that went away waited that long and no longer.
	s.arrive(sl, at(400))
	s.gaveUp(sl, at(420), false)
	s.end(sl)
	s.arrive(sl, at(500))
	s.answered(sl, at(501))
	s.end(sl)
	if gap() != 20*second {
		t.Errorf("%s", gap())
	}
	if n := s.unanswered(sl) + s.waiting(sl); n != 0 {
		t.Errorf("%d are left over", n)
	}
	// One that waits now counts up to now; a new measurement begins now, whatever was before.
	s.arrive(sl, time.Now().Add(-time.Hour))
	if got := s.Gap("shop", "prod"); got < time.Hour {
		t.Errorf("%s", got)
	}
	if err := s.ResetGap("shop", "prod"); err != nil {
		t.Fatal(err)
	}
	if got := s.Gap("shop", "prod"); got > time.Minute {
		t.Errorf("%s right after the reset", got)
	}
}

func TestTwoHandlesOnOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	a, b := openStats(t, path, true), openStats(t, path, false)
	var wg sync.WaitGroup
	for i := range 4 {
		s := []*Stats{a, b}[i%2]
		wg.Go(func() {
			for n := range 50 {
				if _, err := s.slot(slotKey{"shop", "prod", 1, n}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := a.head.slots.Load(); n != 50 {
		t.Errorf("%d slots for 50 names", n)
	}
	sl, err := a.slot(slotKey{"shop", "prod", 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	a.begin(sl)
	sl.count(outcome{status: 200, bytes: 5, took: time.Millisecond})
	if b.Open("shop", "prod", 1, 7) != 1 || b.Open("shop", "prod", 1, 8) != 0 || b.Open("shop", "prod", 1, 99) != 0 {
		t.Error("the other handle sees other requests under way")
	}
	if x, y := fmt.Sprint(a.Read()), fmt.Sprint(b.Read()); x != y {
		t.Errorf("%s\n%s", x, y)
	}
	if _, err := a.slot(slotKey{Service: strings.Repeat("x", keyBytes)}); err == nil {
		t.Error("a name longer than its place")
	}
}

func TestSlotsAreRecycled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	a, b := openStats(t, path, true), openStats(t, path, false)
	key := func(n int) slotKey { return slotKey{"shop", "prod", 1, n} }
	get := func(s *Stats, n int) *slot {
		t.Helper()
		sl, err := s.slot(key(n))
		if err != nil {
			t.Fatal(err)
		}
		return sl
	}
	for n := range maxSlots*3/4 - 1 {
		get(a, n).requests.Add(1)
	}
	b.Read()
	keep := map[string]bool{key(1).String(): true}
	if err := a.recycle(func() map[string]bool { return keep }); err != nil || len(b.Read()) != maxSlots*3/4-1 {
		t.Fatalf("recycled too early: %v", err)
	}
	get(a, maxSlots)
	busy := get(a, 2)
	a.begin(busy)
	if err := a.recycle(func() map[string]bool { return keep }); err != nil {
		t.Fatal(err)
	}
	if r := b.Read(); len(r) != 2 || r[0].Instance+r[1].Instance != 3 || get(a, 1).requests.Load() != 1 {
		t.Fatalf("left are %d", len(b.Read()))
	}
	// A freed place is used again from zero, and the other handle, which knew it by another name, finds it.
	fresh := get(a, 5000)
	a.begin(fresh)
	if fresh != a.at(0) || fresh.requests.Load() != 0 || b.Open("shop", "prod", 1, 5000) != 1 || get(b, 5000).requests.Load() != 0 {
		t.Error("the new owner is not found")
	}
	if b.Open("shop", "prod", 1, 0) != 0 || len(b.Read()) != 3 {
		t.Errorf("%d after one more", len(b.Read()))
	}
	for n := range maxSlots - 3 {
		get(a, 10_000+n)
	}
	if _, err := a.slot(key(99_999)); err == nil {
		t.Error("more slots than there are")
	}
}

func TestDeadLanesAreCleaned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	dead := openStats(t, path, true)
	sl, err := dead.slot(slotKey{Service: "shop", Environment: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	dead.arrive(sl, time.Now().Add(-time.Hour))
	reader := openStats(t, path, false)
	if got := reader.Processes(); len(got) != 1 || got[0] != os.Getpid() || reader.Open("shop", "prod", 0, 0) != 1 {
		t.Errorf("%v", got)
	}
	dead.head.lanes[dead.lane].start.Add(1) // as if the number were another process's by now
	if got := reader.Processes(); len(got) != 0 {
		t.Errorf("the dead are listed: %v", got)
	}
	next := openStats(t, path, true)
	if next.lane != dead.lane || reader.Open("shop", "prod", 0, 0) != 0 {
		t.Errorf("lane %d, %d under way", next.lane, reader.Open("shop", "prod", 0, 0))
	}
	// What it did not answer stays unanswered until somebody answers.
	if gap := reader.Gap("shop", "prod"); gap < time.Hour {
		t.Errorf("%s", gap)
	}
	for range maxLanes - 1 {
		openStats(t, path, true)
	}
	if s, err := OpenStats(path, true); err == nil {
		s.Close()
		t.Error("more edge processes than lanes")
	}
	if got := Processes(path); len(got) != maxLanes {
		t.Errorf("%v", got)
	}
	if Processes(path+"-none") != nil {
		t.Error("processes of no file")
	}
}
