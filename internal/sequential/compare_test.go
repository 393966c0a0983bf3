package sequential

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func both() Options { return Options{Errors: true, Latency: true} }

func text(t testing.TB, c *Compare) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A small release that answers nothing but errors must not get far, nor one where only the third failure could be chance.
func TestFewFailuresSuffice(t *testing.T) {
	c := mustNew(t, Options{Errors: true})
	served := uint64(0)
	for c.State() != Worse && served < 1000 {
		c.Add(Sample{Old: Arm{Requests: 19}, New: Arm{Requests: 1, Failures: 1}, Weight: 0.05})
		served++
	}
	if served > 4 { // two pools of two
		t.Errorf("a release that only fails served %d requests", served)
	}

	c = mustNew(t, both())
	failures := 0
	for i := 0; c.State() != Worse && i < 1000; i++ {
		s := Sample{Old: Arm{Requests: 19 * 20}, New: Arm{Requests: 20}, Weight: 0.05}
		if i%5 == 4 { // one in a hundred
			s.New.Failures, failures = 1, failures+1
		}
		c.Add(s)
	}
	if failures != 2 {
		t.Errorf("it took %d failures of new, and none of old, to find it worse; want 2", failures)
	}
	if v := c.Verdict(); !strings.Contains(v.Errors.Text, "new fails 1 % (of 200), old 0 % (of 3,800): worse, with a chance of a false alarm of at most 1 %") {
		t.Error(v.Errors.Text)
	}
}

func TestSlowerIsFound(t *testing.T) {
	for times, most := range map[float64]int{1.2: 1500, 1.5: 350, 3: 60} {
		for seed := range uint64(5) {
			w := world{r: rand.New(rand.NewPCG(seed, 1)), times: times, latency: true}
			o := both()
			if seed%2 == 0 {
				o.Before.Latency = lognormal(600, 1)
			} else {
				most += 20 // bets begin when something is known of old
			}
			c := mustNew(t, o)
			for c.State() != Worse && c.Closed.New.Requests < 20000 {
				c.Add(w.serve(20, 0.05))
			}
			if n := c.Closed.New.Requests; n > uint64(most) {
				t.Errorf("seed %d: %v times as slow: %d requests", seed, times, n)
			}
			if v := c.Verdict(); v.Latency.State != Worse || v.Errors.State == Worse || !strings.HasPrefix(v.Latency.Text, "new's p95 is ") {
				t.Errorf("%+v, %+v", v.Errors, v.Latency)
			}
		}
	}
}

func TestFasterAndSoundIsNeverWorse(t *testing.T) {
	w := world{r: rand.New(rand.NewPCG(1, 1)), oldFail: 0.02, fails: 0.01, times: 0.7, latency: true}
	c := mustNew(t, both())
	for range 300 {
		c.Add(w.serve(200, 0.3))
	}
	if v := c.Verdict(); v.State != NotWorse || v.Errors.LogEvidence > 0 || v.Latency.LogEvidence > 0 {
		t.Errorf("%+v, %+v", *v.Errors, *v.Latency)
	}
}

// A leak, a cache that is full, the first weight that hurts: a release may be good for long before it is bad.
func TestLateRegressionIsFound(t *testing.T) {
	w := world{r: rand.New(rand.NewPCG(1, 1)), oldFail: 0.001, fails: 0.001, times: 1}
	c := mustNew(t, Options{Errors: true})
	for range 1500 {
		c.Add(w.serve(100, 0.1))
	}
	if s := c.State(); s == Worse {
		t.Fatal("worse before it was")
	}
	before := c.Closed.New.Requests
	w.fails = 0.02
	for c.State() != Worse && c.Closed.New.Requests < before+5000 {
		c.Add(w.serve(100, 0.1))
	}
	if n := c.Closed.New.Requests - before; n > 1000 {
		t.Errorf("after %d good requests it took %d bad ones", before, n)
	}
}

func TestNotWorseIsFound(t *testing.T) {
	w := world{r: rand.New(rand.NewPCG(7, 1)), oldFail: 0.001, fails: 0.001, times: 1, latency: true}
	c := mustNew(t, both())
	for c.State() == Unknown && c.Closed.New.Requests < 100000 {
		c.Add(w.serve(100, 0.25))
	}
	v := c.Verdict()
	if n := c.Closed.New.Requests; v.State != NotWorse || n > 6000 {
		t.Fatalf("%v after %d requests", v.State, n)
	}
	if e := v.Errors; e.High > 0.005 || e.Low > 0 || e.High <= e.Low || !strings.Contains(e.Text, "not worse, at most ") {
		t.Errorf("%+v", *e)
	}
	if l := v.Latency; l.Low >= l.New || l.High <= l.New || !strings.Contains(l.Text, "not worse, at most 25 % longer (wrong with a chance of at most 1 %)") {
		t.Errorf("%+v", *l)
	}
	t.Log(v.Errors.Text + "\n" + v.Latency.Text)
}

// A service whose requests all take the same has nothing above its p95 to compare with; it is found sound all the same, and
// soon. A new one of which more than 5 % take far longer is not.
func TestSteadyServices(t *testing.T) {
	o := Options{Latency: true}
	c := mustNew(t, o)
	w := world{r: rand.New(rand.NewPCG(7, 2)), times: 1, latency: true, steady: true}
	for c.State() == Unknown && c.Closed.New.Requests < 2000 {
		c.Add(w.serve(50, 0.1))
	}
	if n := c.Closed.New.Requests; c.State() != NotWorse || n > 600 {
		t.Errorf("%s after %d requests of new: %s", c.State(), n, text(t, c))
	}

	c = mustNew(t, o)
	for range 400 {
		s := w.serve(50, 0.5)
		for range s.New.Requests / 12 { // 8 %, each with its counterpart taken out
			s.New.Latency[bucketOf(0.2)]++
		}
		c.Add(s)
		if c.State() == NotWorse {
			t.Fatalf("8 %% take five times as long, and it is found %s", text(t, c))
		}
	}
	if c.State() != Worse {
		t.Errorf("8 %% take five times as long, and it is found %s", text(t, c))
	}
}

func TestMinRequestsHoldNotWorseBack(t *testing.T) {
	o := Options{Errors: true, FalsePass: 0.5, MinRequests: 5000}
	c := mustNew(t, o)
	for range 40 {
		c.Add(Sample{Old: Arm{Requests: 100}, New: Arm{Requests: 100}})
	}
	if v := c.Verdict(); v.State != Unknown || v.Errors.State != Unknown || v.Errors.LogPass < math.Log(2) {
		t.Errorf("%v, %+v", v.State, *v.Errors)
	}
}

func drawArm(latency bool) *rapid.Generator[Arm] {
	return rapid.Custom(func(t *rapid.T) Arm {
		a := Arm{Requests: rapid.Uint64Range(0, 300).Draw(t, "requests")}
		a.Failures = rapid.Uint64Range(0, a.Requests).Draw(t, "failures")
		if latency {
			a.Latency = make([]uint64, 178)
			for range rapid.IntRange(0, 5).Draw(t, "buckets") {
				a.Latency[rapid.IntRange(60, 120).Draw(t, "bucket")] += rapid.Uint64Range(0, 60).Draw(t, "count")
			}
		}
		return a
	})
}

// What came together is one thing, in whatever order and however finely it is told.
func TestOrderInAPoolDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		pieces := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Sample {
			return Sample{Old: drawArm(true).Draw(t, "old"), New: drawArm(true).Draw(t, "new"), Weight: 1e-6}
		}), 1, 8).Draw(r, "pieces") // so small a weight makes the pool wait for all
		a, b, whole := mustNew(t, both()), mustNew(t, both()), mustNew(t, both())
		var sum Sample
		for _, p := range pieces {
			a.Add(p)
			sum.Old.add(p.Old, 178)
			sum.New.add(p.New, 178)
		}
		for _, p := range rapid.Permutation(pieces).Draw(r, "permuted") {
			b.Add(p)
		}
		sum.Weight = 1e-6
		whole.Add(sum)
		last := Sample{Old: Arm{Requests: 1}, Weight: 0.5}
		a.Add(last)
		b.Add(last)
		whole.Add(last)
		if text(t, a) != text(t, b) || text(t, a) != text(t, whole) {
			r.Fatalf("%s\n%s\n%s", text(t, a), text(t, b), text(t, whole))
		}
	})
}

func TestMoreFailuresAreMoreEvidence(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := Sample{Old: drawArm(false).Draw(r, "old"), New: drawArm(false).Draw(r, "new")}
		if s.Old.Requests+s.New.Requests < 41 || s.New.Failures == s.New.Requests || s.Old.Failures == 0 {
			return
		}
		more := s
		more.New.Failures++
		more.Old.Failures-- // the same total
		a, b := mustNew(t, Options{Errors: true}), mustNew(t, Options{Errors: true})
		a.Add(s)
		b.Add(more)
		x, y := a.Verdict().Errors, b.Verdict().Errors
		if x.LogEvidence > y.LogEvidence || x.LogPass < y.LogPass || x.High > y.High || x.Low > y.Low {
			r.Fatalf("%+v\n%+v", *x, *y)
		}
	})
}

// One pool cannot speak against both; and with the same counts on both sides it speaks against neither.
func TestReleasesCanBeExchanged(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		x, y := drawArm(true).Draw(r, "x"), drawArm(true).Draw(r, "y")
		o := both()
		o.Before.Latency = lognormal(1000, 1)
		worse := func(old, newer Arm) bool {
			c := mustNew(t, o)
			c.Add(Sample{Old: old, New: newer, Weight: 0.5})
			c.weigh()
			return c.State() == Worse
		}
		if x.Failures > 0 && y.Failures > 0 && total(x.Latency) == 0 && worse(x, y) && worse(y, x) {
			r.Fatal("both are worse than the other")
		}
		c := mustNew(t, o)
		c.Add(Sample{Old: x, New: x, Weight: 0.5})
		c.weigh()
		if v := c.Verdict(); v.Errors.LogEvidence > 1e-9 || v.Latency.LogEvidence > 1e-9 {
			r.Fatalf("worse than itself: %+v %+v", *v.Errors, *v.Latency)
		}
	})
}

func TestStoredItGoesOnAsIfNothingHappened(t *testing.T) {
	for _, o := range []Options{both(), {Errors: true, Tolerance: 0.2}, {Latency: true, Quantile: 0.5, Tolerance: 0.1, Before: Arm{Latency: lognormal(500, 1)}}} {
		w := world{r: rand.New(rand.NewPCG(3, 1)), oldFail: 0.01, fails: 0.01, times: 1.05, latency: true}
		a := mustNew(t, o)
		b := mustNew(t, o)
		for i := range 400 {
			s := w.serve(30, []float64{0.05, 0.25, 0.5}[i/150])
			a.Add(s)
			b.Add(s)
			if i%37 == 0 {
				var back Compare
				if err := json.Unmarshal([]byte(text(t, b)), &back); err != nil {
					t.Fatal(err)
				}
				b = &back
			}
			if a.State() != b.State() {
				t.Fatal("another answer")
			}
		}
		if text(t, a) != text(t, b) {
			t.Errorf("\n%s\n%s", text(t, a), text(t, b))
		}
		if text(t, a) == text(t, mustNew(t, o)) {
			t.Error("nothing was stored")
		}
	}
}

func TestWhatDoesNotBelongTogetherIsRefused(t *testing.T) {
	good := text(t, mustNew(t, both()))
	for name, bad := range map[string]string{
		"not JSON":         "{",
		"no state":         `{"options":{"errors":true}}`,
		"bad options":      `{"options":{"false_alarm":2,"errors":true},"state":{}}`,
		"too few bets":     strings.Replace(good, `"logs":[0,`, `"logs":[`, 1),
		"too few stakes":   strings.Replace(good, `"s":[0,`, `"s":[`, 1),
		"odd latency":      strings.Replace(good, `"closed":{"old":{}`, `"closed":{"old":{"latency":[1,2]}`, 1),
		"odd later starts": strings.Replace(good, `"bets":{`, `"bets":{"marks":[[1]],`, 1),
	} {
		var c Compare
		if bad == good {
			t.Fatalf("%s: nothing was changed in %s", name, good)
		}
		if err := json.Unmarshal([]byte(bad), &c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for want, o := range map[string]Options{
		"nothing to compare": {},
		"false_alarm":        {Errors: true, FalseAlarm: 1},
		"false_pass":         {Errors: true, FalsePass: math.NaN()},
		"tolerance":          {Errors: true, Tolerance: -0.1},
		"margin":             {Errors: true, ErrorPoints: 1.5},
		"quantile":           {Errors: true, Quantile: 95},
		"bounds":             {Latency: true},
		"ascending":          {Latency: true, Bounds: []time.Duration{2, 2, 3}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want something about %s", o, err, want)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 812: "812", 15410: "15,410", 1234567: "1,234,567"} {
		if got := commas(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0 %", 0.00001: "0 %", 0.051: "5.1 %", 0.001: "0.1 %", 0.0012: "0.12 %", 0.5: "50 %", 1: "100 %", -0.004: "-0.4 %"} {
		if got := percent(x); got != want {
			t.Errorf("%v: %s, want %s", x, got, want)
		}
	}
	for d, want := range map[time.Duration]string{123456789: "123ms", 1234567890: "1.23s", 65 * time.Microsecond: "65µs", 0: "0s"} {
		if got := short(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

// Whatever is counted, nothing becomes infinite or no number: JSON would refuse it.
func FuzzAnyCounts(f *testing.F) {
	f.Add(uint64(19), uint64(1), uint64(1), uint64(0), uint64(3), 7, 0.05, 0.0)
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(5), uint64(math.MaxUint64), 200, 0.5, 0.5)
	f.Add(uint64(0), uint64(0), uint64(9), uint64(9), uint64(0), -1, math.NaN(), 0.01)
	f.Add(uint64(1), uint64(1e15), uint64(1e15), uint64(0), uint64(1e12), 177, 1.0, 3.0)
	f.Fuzz(func(t *testing.T, o, n, x, y, k uint64, at int, weight, tolerance float64) {
		opt := both()
		if tolerance > 0 && tolerance <= 10 {
			opt.Tolerance = tolerance
		}
		c := mustNew(t, opt)
		for i := range 6 {
			s := Sample{Old: Arm{Requests: o, Failures: y, Latency: make([]uint64, 178)}, New: Arm{Requests: n, Failures: x}, Weight: weight}
			s.Old.Latency[(at&1023+i)%178] = k
			s.Old.Latency[80] = 50
			if i%2 == 0 {
				s.New.Latency = make([]uint64, 1+at&255)
				s.New.Latency[at&255] = k
			}
			c.Add(s)
			v := c.Verdict()
			if _, err := json.Marshal(v); err != nil {
				t.Fatalf("%v: %+v %+v", err, *v.Errors, *v.Latency)
			}
			text(t, c)
			o, n, x = n, o, x/2
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	w := world{r: rand.New(rand.NewPCG(1, 1)), oldFail: 0.01, fails: 0.01, times: 1, latency: true}
	samples := make([]Sample, 64)
	for i := range samples {
		samples[i] = w.serve(2000, 0.1) // each is a pool of its own
	}
	c := mustNew(b, both())
	i := 0
	for b.Loop() {
		c.Add(samples[i%64])
		i++
	}
}

func BenchmarkVerdict(b *testing.B) {
	w := world{r: rand.New(rand.NewPCG(1, 1)), oldFail: 0.01, fails: 0.01, times: 1, latency: true}
	c := mustNew(b, both())
	for range 100 {
		c.Add(w.serve(2000, 0.1))
	}
	for b.Loop() {
		c.Verdict()
	}
}
