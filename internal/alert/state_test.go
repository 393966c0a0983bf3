package alert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/metrics"
)

func silence(t *testing.T, until time.Duration, matchers ...string) Silence {
	t.Helper()
	s := Silence{Until: time.Now().Add(until), By: "ada", Why: "moving house"}
	for _, m := range matchers {
		s.Matchers = append(s.Matchers, matcher(t, m))
	}
	return s
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "hook")
		o.Receivers = append(o.Receivers, Receiver{Name: "am", To: Alertmanager{URL: "http://am"}})
		d := start(t, o)
		begin := time.Now()
		known := firing("known", "service", "pay")
		d.Notify(t.Context(), []metrics.Alert{known})
		pass(t, begin, time.Minute)
		made, err := d.Silence(silence(t, 2*time.Hour+17*time.Second, "service=~shop|pay", "id!=loud"))
		if err != nil {
			t.Fatal(err)
		}
		quiet, loud := firing("quiet"), firing("loud")
		if got := d.SilencedBy(quiet.Labels); len(got) != 1 || got[0] != made.ID || d.SilencedBy(loud.Labels) != nil {
			t.Errorf("silenced by %v", got)
		}
		stop := keepFiring(d, quiet, loud)
		pass(t, begin, 30*time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(known)}) // was told, so its end is told too
		pass(t, begin, 3*time.Hour)
		stop()
		w.saw(t, "hook", begin, "30s firing +known", "1m30s firing +loud", "5m30s resolved -known", "2h1m17s firing +loud +quiet") // the end of a silence needs no other occasion
		for _, c := range w.to("am") {
			if at := c.at.Sub(begin); at < 2*time.Hour && strings.Contains(c.body, `"quiet"`) {
				t.Errorf("after %s Alertmanager was told of what is silenced", at)
			}
		}
		if got := d.Silences(); len(got) != 0 {
			t.Errorf("still listed: %+v", got)
		}
	})
}

func TestUnsilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		long, err := d.Silence(silence(t, 24*time.Hour, "service=shop"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Silence(silence(t, time.Hour, "id=else")); err != nil {
			t.Fatal(err)
		}
		if all := d.Silences(); len(all) != 2 || all[1].ID != long.ID || all[1].By != "ada" || all[1].Why != "moving house" || !all[1].Made.Equal(begin) {
			t.Errorf("%+v", all)
		}
		stop := keepFiring(d, firing("a"))
		defer stop()
		pass(t, begin, 10*time.Minute+5*time.Second)
		w.saw(t, "hook", begin)
		if err := d.Unsilence(long.ID); err != nil {
			t.Fatal(err)
		}
		pass(t, begin, 11*time.Minute)
		w.saw(t, "hook", begin, "10m5s firing +a")
		if err := d.Unsilence(long.ID); fail.KindOf(err) != fail.NotFound {
			t.Errorf("a second time: %v", err)
		}
	})
}

func TestSilencesThatAreRefused(t *testing.T) {
	d := start(t, Options{})
	for name, change := range map[string]func(*Silence){
		"no matcher":        func(s *Silence) { s.Matchers = nil },
		"an empty one":      func(s *Silence) { s.Matchers = []Matcher{{}} },
		"fits all":          func(s *Silence) { s.Matchers = []Matcher{matcher(t, "service=~.*"), matcher(t, "id!=x")} },
		"over":              func(s *Silence) { s.Until = time.Now().Add(-time.Second) },
		"nobody":            func(s *Silence) { s.By = "" },
		"without reason":    func(s *Silence) { s.Why = "" },
		"without any until": func(s *Silence) { s.Until = time.Time{} },
	} {
		s := silence(t, time.Hour, "service=shop")
		change(&s)
		if _, err := d.Silence(s); fail.KindOf(err) != fail.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(d.Silences()) != 0 {
		t.Error("one of them holds")
	}
	for range maxSilences {
		s := silence(t, time.Hour, "service=shop")
		d.store.state.Silences = append(d.store.state.Silences, s)
	}
	if _, err := d.Silence(silence(t, time.Hour, "service=shop")); fail.KindOf(err) != fail.Usage {
		t.Errorf("one too many: %v", err)
	}
}

func TestMatchers(t *testing.T) {
	labels := map[string]string{"service": "shop", "path": `/tmp "x"`}
	for text, fits := range map[string]bool{
		"service=shop": true, "service = shop": true, `service="shop"`: true, "service=sho": false, "service!=shop": false, "service!=pay": true,
		"service=~sh.p": true, "service=~sh": false, "service!~sh": true, "service!~.*": false, "none=": true, "none!=x": true, "none=~.+": false,
		`path="/tmp \"x\""`: true, "path=~/tmp.*": true, "service==shop": false,
	} {
		m := matcher(t, text)
		if m.fits(labels) != fits {
			t.Errorf("%s: %t", text, !fits)
		}
		if again := matcher(t, m.String()); again.String() != m.String() || again.fits(labels) != fits {
			t.Errorf("%s comes back as %s", m, again)
		}
	}
	for _, text := range []string{"", "service", "=x", "!=x", "service=~(", `service="x`, "service!x", "\xff=x"} {
		if m, err := ParseMatcher(text); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q is read as %v, %v", text, m, err)
		}
	}
	if (Matcher{}).fits(labels) || (Matcher{}).String() != "" {
		t.Error("an empty matcher must fit nothing")
	}
}

// TestRestart closes a dispatcher in the middle of an incident. The next one repeats nothing, goes on with silences and log,
// and tells the end.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "hook", "leaves")
		o.State = stateFile(t)
		begin := time.Now()
		d := start(t, o)
		a, b := firing("a"), firing("b")
		s, err := d.Silence(silence(t, time.Hour, "id=b"))
		if err != nil {
			t.Fatal(err)
		}
		d.Notify(t.Context(), []metrics.Alert{a, b})
		pass(t, begin, time.Minute)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d.Notify(t.Context(), []metrics.Alert{a}) // comes too late, and does no harm
		if fi, err := os.Stat(o.State); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", fi.Mode(), err)
		}
		pass(t, begin, 6*time.Minute) // longer than anybody vouched for a
		o.Receivers = o.Receivers[:1]
		d = start(t, o)
		if all := d.Silences(); len(all) != 1 || all[0].ID != s.ID || all[0].Matchers[0].String() != `id="b"` {
			t.Errorf("%+v", all)
		}
		if len(d.store.state.Told["leaves"]) != 0 {
			t.Error("a receiver that is gone is still known")
		}
		pass(t, begin, 8*time.Minute) // the rules are evaluated again
		d.Notify(t.Context(), []metrics.Alert{again(a), again(b)})
		pass(t, begin, 11*time.Minute)
		w.saw(t, "hook", begin, "30s firing +a")
		d.Notify(t.Context(), []metrics.Alert{over(a), over(b)})
		pass(t, begin, 20*time.Minute)
		w.saw(t, "hook", begin, "30s firing +a", "11m0s resolved -a")
		if got := d.Sent(); len(got) != 3 || got[0].Outcome != Delivered || got[0].Group["service"] != "shop" || got[2].Alerts[0].Firing {
			t.Errorf("%+v", got)
		}
	})
}

// TestRestartAfterTheRuleIsGone has an alert that nobody raises again: after a while it is over.
func TestRestartAfterTheRuleIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "hook")
		o.State = stateFile(t)
		begin := time.Now()
		d := start(t, o)
		d.Notify(t.Context(), []metrics.Alert{firing("a")})
		pass(t, begin, time.Minute)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		start(t, o)
		pass(t, begin, time.Hour)
		w.saw(t, "hook", begin, "30s firing +a", "11m0s resolved -a")
	})
}

// TestEndIsKeptOverARestart has an alert end while its receiver is away, and the agent restart: the true end is told.
func TestEndIsKeptOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "hook")
		o.State = stateFile(t)
		begin := time.Now()
		d := start(t, o)
		a := firing("a")
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, time.Minute)
		end := over(a)
		d.Notify(t.Context(), []metrics.Alert{end})
		pass(t, begin, 2*time.Minute)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		start(t, o)
		pass(t, begin, 10*time.Minute)
		w.saw(t, "hook", begin, "30s firing +a", "5m30s resolved -a")
		if last := w.to("hook")[1].body; !strings.Contains(last, fmt.Sprintf("%q:%q", "endsAt", end.Resolved.Format(time.RFC3339Nano))) {
			t.Errorf("%s is not in %s", end.Resolved, last)
		}
	})
}

func TestLogIsBounded(t *testing.T) {
	st, err := openStore("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range logged + 50 {
		st.add(Sent{Receiver: "r", key: fmt.Sprint(i), Outcome: Delivered, Attempts: i})
	}
	if all := st.state.Sent; len(all) != logged || all[0].Attempts != 50 || all[logged-1].Attempts != logged+49 {
		t.Errorf("%d lines", len(all))
	}
	var s Sent
	var many []metrics.Alert
	for i := range 75 {
		many = append(many, firing(fmt.Sprint(i)))
	}
	if s.list(many); len(s.Alerts) != shown || s.More != 55 {
		t.Errorf("%d alerts and %d more", len(s.Alerts), s.More)
	}
}

func TestBrokenStateIsSetAside(t *testing.T) {
	path := stateFile(t)
	if err := os.WriteFile(path, []byte(`{"silences": [{"matchers": ["nonsense"]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var log logText
	d := start(t, Options{State: path, Log: log.logger()})
	if len(d.Silences()) != 0 || !strings.Contains(log.String(), "set aside") {
		t.Error(log.String())
	}
	if b, err := os.ReadFile(path + ".broken"); err != nil || !strings.Contains(string(b), "nonsense") {
		t.Error(string(b), err)
	}
}

func TestStateThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	d, err := New(Options{State: filepath.Join(dir, "alerts.json")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Silence(silence(t, time.Hour, "service=shop")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if len(d.Silences()) != 0 {
		t.Error("a silence that could not be written holds")
	}
	if err := d.Close(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := New(Options{State: t.TempDir()}); err == nil {
		t.Error("a folder was taken for the state file")
	}
}
