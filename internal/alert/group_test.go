package alert

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// pass lets virtual time go by, to a moment after start. Nothing else in a bubble can move it while everything waits.
func pass(t *testing.T, start time.Time, to time.Duration) {
	t.Helper()
	select {
	case <-time.After(time.Until(start.Add(to))):
	case <-t.Context().Done():
	}
	synctest.Wait()
}

func TestGrouping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		a, b, c := firing("a"), firing("b"), firing("c")
		other := firing("x", "service", "pay")
		d.Notify(t.Context(), []metrics.Alert{a, other})
		pass(t, begin, 20*time.Second)
		d.Notify(t.Context(), []metrics.Alert{b})
		pass(t, begin, time.Minute)
		d.Notify(t.Context(), []metrics.Alert{again(a), again(b), again(other), c}) // c is new: a message at the interval's end
		pass(t, begin, 4*time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a), again(b), again(c), again(other)})
		pass(t, begin, 7*time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a), over(b), over(c), again(other)}) // a again: the manager repeats itself
		pass(t, begin, 10*time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a), over(b), over(c), over(other)})
		pass(t, begin, time.Hour)
		var shop, pay []string
		for _, c := range w.to("hook") {
			line := c.at.Sub(begin).String() + " " + says(t, c)
			if strings.Contains(c.body, `"groupLabels":{"alertname":"QueueLong","service":"pay"}`) {
				pay = append(pay, line)
			} else {
				shop = append(shop, line)
			}
		}
		if got, want := strings.Join(shop, "; "), "30s firing +a +b; 5m30s firing +b +c -a; 10m30s resolved -b -c"; got != want {
			t.Errorf("shop was told\n%s\nwant\n%s", got, want)
		}
		if got, want := strings.Join(pay, "; "), "30s firing +x; 10m0s resolved -x"; got != want {
			t.Errorf("pay was told\n%s\nwant\n%s", got, want)
		}
	})
}

func TestRepeatWhileItFires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		stop := keepFiring(d, firing("a"))
		pass(t, begin, 9*time.Hour)
		stop()
		// Nobody vouches for it any more: it is over when its last notification says so.
		pass(t, begin, 20*time.Hour)
		w.saw(t, "hook", begin, "30s firing +a", "4h0m30s firing +a", "8h0m30s firing +a", "9h4m0s resolved -a")
	})
}

func TestWhatIsOverBeforeItsMessageIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		a := firing("a")
		pending := firing("p")
		pending.Firing, pending.Fired = false, time.Time{}
		d.Notify(t.Context(), []metrics.Alert{a, pending})
		pass(t, begin, 10*time.Second)
		d.Notify(t.Context(), []metrics.Alert{over(a)})
		pass(t, begin, time.Hour)
		w.saw(t, "hook", begin)
		if got := d.Sent(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestMatchAndFiringOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "all", "page", "brief")
		o.Receivers[1].Match = []Matcher{matcher(t, "severity=page"), matcher(t, "id!=no")}
		o.Receivers[2].FiringOnly = true
		d := start(t, o)
		begin := time.Now()
		a, b, c := firing("a"), firing("b", "severity", "page"), firing("no", "severity", "page")
		d.Notify(t.Context(), []metrics.Alert{a, b, c})
		pass(t, begin, time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a), over(b), over(c)})
		pass(t, begin, time.Hour)
		w.saw(t, "all", begin, "30s firing +a +b +no", "5m30s resolved -a -b -no")
		w.saw(t, "page", begin, "30s firing +b", "5m30s resolved -b")
		w.saw(t, "brief", begin, "30s firing +a +b +no")
	})
}

// TestOneDeadReceiverHoldsUpNobody has one that hangs, one that breaks, and one that works.
func TestOneDeadReceiverHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(host string, _ int) int { return map[string]int{"hangs": -1, "breaks": 0, "works": 200}[host] }}
		var log logText
		o := withWire(w, "hangs", "breaks", "works")
		o.Log = log.logger()
		d := start(t, o)
		begin := time.Now()
		stop := keepFiring(d, firing("a"))
		pass(t, begin, 20*time.Minute)
		stop()
		w.saw(t, "works", begin, "30s firing +a")
		// A round is 10 attempts; the pauses between them are 1+2+4+8+16+32+64+120+120 s, each a fifth off at most.
		for _, host := range []string{"hangs", "breaks"} {
			calls := w.to(host)
			if len(calls) < 15 || len(calls) > 35 {
				t.Fatalf("%s: %d attempts in 20 minutes", host, len(calls))
			}
			took := time.Duration(0)
			if host == "hangs" {
				took = 15 * time.Second
			}
			for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 120, 120, 300} {
				want *= time.Second
				got := calls[i+1].at.Sub(calls[i].at) - took
				spread := want / 5
				if i == 9 {
					spread = 0 // the pause after giving up
				}
				if got < want-spread || got > want+spread {
					t.Errorf("%s: the pause after attempt %d was %s, want %s within a fifth", host, i+1, got, want)
				}
			}
		}
		var lines []string
		for _, s := range d.Sent() {
			if s.Receiver == "breaks" {
				lines = append(lines, fmt.Sprint(s.Outcome, s.Attempts, s.Error))
			}
		}
		if want := "gave-up20http://breaks: unexpected EOF"; len(lines) != 1 || lines[0] != want {
			t.Errorf("rounds given up are one line: %q, want %q", lines, want)
		}
		if text := log.String(); !strings.Contains(text, "could not be sent") || !strings.Contains(text, "deadline exceeded") {
			t.Errorf("not logged: %s", text)
		}
	})
}

// TestRetriesTellTheNewestState has an alert join, and another end, while the receiver is away.
func TestRetriesTellTheNewestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(_ string, n int) int {
			if n <= 4 {
				return 503
			}
			return 200
		}}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		a, b := firing("a"), firing("b")
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, 31*time.Second)
		d.Notify(t.Context(), []metrics.Alert{b, over(a)})
		pass(t, begin, 2*time.Minute)
		calls := w.to("hook")
		if len(calls) != 5 || says(t, calls[0]) != "firing +a" || says(t, calls[4]) != "firing +b" {
			t.Errorf("%+v", calls)
		}
		got := d.Sent()
		if len(got) != 1 || got[0].Outcome != Delivered || got[0].Attempts != 5 || got[0].Error != "" || len(got[0].Alerts) != 1 ||
			got[0].Alerts[0] != (SentAlert{Name: "QueueLong", Fingerprint: fingerprint(b.Labels), Firing: true}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(string, int) int { return 500 }}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		a := firing("a")
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, 40*time.Second)
		d.Notify(t.Context(), []metrics.Alert{over(a)})
		pass(t, begin, 24*time.Hour)
		got := d.Sent()
		if n := len(w.to("hook")); n < 3 || n > 5 || len(got) != 1 || got[0].Outcome != Overtaken || got[0].Attempts != n || got[0].Alerts[0].Name != "QueueLong" {
			t.Errorf("%d calls, %+v", n, got)
		}
	})
}

func TestFinalAnswersAreNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(host string, n int) int {
			switch {
			case host == "later" && n == 1:
				return 429
			case host == "later":
				return 200
			}
			return map[string]int{"gone": 404, "moved": 301}[host]
		}, header: http.Header{"Retry-After": {"90"}, "Location": {"http://moved/secret"}}}
		d := start(t, withWire(w, "gone", "moved", "later"))
		begin := time.Now()
		stop := keepFiring(d, firing("a"))
		pass(t, begin, 5*time.Minute+29*time.Second)
		stop()
		w.saw(t, "gone", begin, "30s firing +a")
		w.saw(t, "moved", begin, "30s firing +a")
		w.saw(t, "later", begin, "30s firing +a", "2m0s firing +a") // not earlier than it asked for
		for _, s := range d.Sent() {
			if s.Receiver == "moved" && !strings.Contains(s.Error, "redirects are not followed") || s.Receiver == "gone" && !strings.Contains(s.Error, "you asked for") {
				t.Errorf("%+v", s)
			}
		}
	})
}

// TestResolvedIsToldAfterAnOutage has the receiver die after it was told, and come back when all is long over.
func TestResolvedIsToldAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		w := &wire{answer: func(string, int) int {
			if d := time.Since(begin); d > time.Minute && d < 5*time.Hour {
				return 0
			}
			return 200
		}}
		d := start(t, withWire(w, "hook"))
		a := firing("a")
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, 2*time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a)})
		pass(t, begin, 8*time.Hour)
		calls := w.to("hook")
		last := calls[len(calls)-1]
		if says(t, last) != "resolved -a" || last.at.Sub(begin) < 5*time.Hour || last.at.Sub(begin) > 6*time.Hour+10*time.Minute {
			t.Errorf("%s %s", last.at.Sub(begin), says(t, last))
		}
	})
}

// TestNotifyNeverBlocks raises more alerts than are kept, while nobody takes them.
func TestNotifyNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(string, int) int { return -1 }}
		var log logText
		o := withWire(w, "hook")
		o.Log, o.GroupBy, o.Timeout = log.logger(), []string{}, time.Hour
		d := start(t, o)
		begin := time.Now()
		d.Notify(t.Context(), []metrics.Alert{firing("first")})
		pass(t, begin, 31*time.Second) // now its goroutine hangs in the transport
		var many []metrics.Alert
		for i := range maxAlerts + 500 {
			many = append(many, firing(fmt.Sprint(i)))
		}
		before := time.Now()
		for range 3 {
			d.Notify(t.Context(), many)
		}
		if time.Since(before) != 0 {
			t.Error("virtual time went by: it waited for something")
		}
		in := d.workers["hook"].in
		in.mu.Lock()
		held := len(in.alerts)
		in.mu.Unlock()
		if held != maxAlerts {
			t.Errorf("%d alerts are held, want %d", held, maxAlerts)
		}
		w.mu.Lock()
		w.answer = nil
		w.mu.Unlock()
		pass(t, begin, 2*time.Hour)
		if text := log.String(); !strings.Contains(text, "alerts were dropped") {
			t.Errorf("not logged: %s", text)
		}
	})
}

func TestAlertmanagerIsReminded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		d := start(t, Options{Client: &http.Client{Transport: w}, Receivers: []Receiver{{Name: "am", To: Alertmanager{URL: "http://am/base/"}, FiringOnly: true}}})
		begin := time.Now()
		a := firing("a")
		own := firing("own", "service", "pay") // raised once by somebody who will say when it is over
		own.ValidUntil = time.Time{}
		d.Notify(t.Context(), []metrics.Alert{a, own})
		pass(t, begin, 90*time.Second)
		d.Notify(t.Context(), []metrics.Alert{again(a)})
		pass(t, begin, 150*time.Second)
		d.Notify(t.Context(), []metrics.Alert{over(a)})
		pass(t, begin, 200*time.Second)
		want := []string{
			`0s +a(4m0s) +own(4m0s)`,
			`1m0s +a(4m0s) +own(5m0s)`,
			`2m0s +a(5m30s) +own(6m0s)`,
			`2m30s +own(6m30s) -a(2m30s)`,
		}
		var got []string
		for _, c := range w.to("am") {
			if c.path != "/base/api/v2/alerts" {
				t.Errorf("path %s", c.path)
			}
			got = append(got, c.at.Sub(begin).String()+amSays(t, c.body, begin))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if log := d.Sent(); len(log) != 2 {
			t.Errorf("reminders are not logged: %+v", log)
		}
	})
}

func TestBadNumbersDoNotStopAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		o := withWire(w, "hook")
		o.State = stateFile(t)
		d := start(t, o)
		begin := time.Now()
		a := firing("a")
		a.Value = math.Inf(1)
		a.Annotations = map[string]string{"summary": "\xff\xfe"}
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, time.Minute)
		w.saw(t, "hook", begin, "30s firing +a")
		if err := d.store.save(); err != nil {
			t.Error(err)
		}
	})
}

func TestBackoffIsBounded(t *testing.T) {
	for attempt := range 200 {
		d := backoff(attempt + 1)
		if d < 800*time.Millisecond || d > 144*time.Second {
			t.Fatalf("after attempt %d: %s", attempt+1, d)
		}
	}
}

// TestStorm has 5,000 groups become due at once: each is told, and in one pass of the state.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		const groups = 5000
		o := withWire(w, "hook")
		o.GroupBy, o.State = []string{"id"}, stateFile(t)
		d := start(t, o)
		begin := time.Now()
		var all []metrics.Alert
		for i := range groups {
			all = append(all, firing(fmt.Sprint(i)))
		}
		d.Notify(t.Context(), all)
		pass(t, begin, time.Minute)
		told := map[string]bool{}
		for _, c := range w.calls {
			told[says(t, c)] = true
		}
		if len(w.calls) != groups || len(told) != groups {
			t.Errorf("%d messages about %d groups, want %d", len(w.calls), len(told), groups)
		}
		if n := len(d.store.told("hook")); n != groups {
			t.Errorf("%d alerts are remembered", n)
		}
	})
}

// TestWhatIsWaitingSaysTheNewest has two groups due at once, a first attempt that hangs, and both alerts end meanwhile.
func TestWhatIsWaitingSaysTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(string, int) int { return -1 }}
		o := withWire(w, "hook")
		o.GroupBy = []string{"id"}
		d := start(t, o)
		begin := time.Now()
		a, b := firing("a"), firing("b")
		d.Notify(t.Context(), []metrics.Alert{a, b})
		pass(t, begin, 40*time.Second)
		d.Notify(t.Context(), []metrics.Alert{over(a), over(b)})
		pass(t, begin, time.Hour)
		if calls, log := w.to("hook"), d.Sent(); len(calls) != 1 || len(log) != 1 || log[0].Outcome != Overtaken {
			t.Errorf("%d calls, %+v", len(calls), log)
		}
	})
}

// TestTheEndIsForgotten has a receiver that never comes back: after a day there is nothing left of an alert that is over.
func TestTheEndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(_ string, n int) int {
			if n == 1 {
				return 200
			}
			return 0
		}}
		d := start(t, withWire(w, "hook"))
		begin := time.Now()
		a := firing("a")
		d.Notify(t.Context(), []metrics.Alert{a})
		pass(t, begin, time.Minute)
		d.Notify(t.Context(), []metrics.Alert{over(a)})
		pass(t, begin, 23*time.Hour)
		if n := len(w.to("hook")); n < 100 {
			t.Errorf("%d attempts in 23 hours", n)
		}
		pass(t, begin, 26*time.Hour)
		before := len(w.to("hook"))
		pass(t, begin, 50*time.Hour)
		if after := len(w.to("hook")); after != before {
			t.Errorf("%d attempts after a day", after-before)
		}
		if log := d.Sent(); len(log) > 3 {
			t.Errorf("%d lines of the log for one reason", len(log))
		}
	})
}
