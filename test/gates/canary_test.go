package gates_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// judged is the release section that all canaries of [TestCanaries] have.
var judged = []string{
	"strategy: canary",
	"steps: [20%, 50%, 100%]",
	"watch: 9s",
	"evidence: {requests: 100, wait: 90s, inconclusive: rollback}",
	"gates:",
	"  - {compare: [errors, latency]}",
	`  - {check: "errors <= 10%"}`,
	`  - {check: "memory <= 80%"}`,
	`  - {check: 'log("panic:") == 0'}`,
}

// bad is a canary that must go back.
type bad struct {
	name, fault string
	gate        string   // which one finds it
	says        []string // what its reason holds
}

// One machine, one load, five canaries: each bad one goes back by what the right gate measured, the good one is promoted.
func TestCanaries(t *testing.T) {
	w := newWorld(t)
	first := processes(w.status(t), 1)
	load := w.load(t)
	release := 1
	for _, b := range []bad{
		{"5 % errors", `FAIL: "0.05"`, "compare errors, latency", []string{"new fails", "old 0 %", "worse, with a chance of a false alarm of at most 1 %"}},
		{"3 times as slow", `SLOW: "3"`, "compare errors, latency", []string{"new's p95 is", "worse, with a chance of a false alarm of at most 1 %"}},
		{"leaks", `LEAK: "25"`, "memory <= 80%", []string{"uses", "% of its memory limit, which is not memory <= 80%"}},
		{"panics and answers 200", `PANIC: "0.1"`, `log("panic:") == 0`, []string{`with "panic:", which is not log("panic:") == 0`}},
	} {
		release++
		t.Run(b.name, func(t *testing.T) {
			w.goesBack(t, b, release)
			w.serves(t, 1, first)
		})
	}
	release++
	t.Run("good", func(t *testing.T) { w.isPromoted(t, release) })
	c := load.Stop()
	t.Logf("the load's own count: %d requests, %d failed, by status %v", c.Requests, c.Failed, c.Status)
	if c.Failed != c.Status[500] || c.Requests < 5000 {
		t.Errorf("only what the bad release answered itself may have failed; the first: %s", c.First)
	}
}

// goesBack deploys a bad canary and checks everything that says why it did not stay.
func (w *world) goesBack(t *testing.T, b bad, release int) {
	w.spec(t, b.fault, judged...)
	m := ended(t, w.begin(t))
	t.Log(m.why())
	if m.code != exitRolledBack {
		t.Fatalf("exit code %d, want %d (rolled back)\n%s\n%s", m.code, exitRolledBack, m.why(), m.stderr)
	}
	if why := m.why(); !has(why, b.says...) || strings.Contains(why, "\n") || strings.Contains(why, ". ") {
		t.Errorf("the reason should be one sentence that holds %q, it is\n%s", b.says, why)
	}
	r := m.receipt()
	if r == nil || r.Outcome != string(rollout.RolledBack) || r.From != 1 || int(r.To) != release || r.Requests < 50 || r.Undelivered != 0 ||
		r.Before.Requests == 0 || r.After.Requests == 0 {
		t.Errorf("the receipt says %+v", r)
	} else {
		t.Logf("%d requests, %d of them of the canary, %d failed, p95 %v before and %v of the canary, took %v", r.Requests, r.After.Requests, r.Failed, r.Before.P95, r.After.P95, r.Took)
		// Three times the 37 ms that it is of a good one are 112, give or take 6 by chance; a busy machine only adds to it.
		if strings.HasPrefix(b.fault, "SLOW") && r.After.P95 < 80*time.Millisecond {
			t.Errorf("the receipt does not show that it was slow: %+v", r.After)
		}
	}
	h := w.record(t, strconv.Itoa(release))
	if h.Outcome != string(rollout.RolledBack) || h.Error == nil || !has(h.Error.Error(), b.says...) || int(h.To) != release {
		t.Errorf("the history says %s: %v", h.Outcome, h.Error)
	}
	found := false
	for _, d := range h.Decisions {
		switch {
		case d.Verdict != rollout.Breach:
		case d.Gate != b.gate || d.Else != rollout.Back || !has(d.Reason, b.says...) || d.Evidence == nil:
			t.Errorf("another gate or another reason than %s: %+v", b.gate, d)
		default:
			found = true
		}
	}
	if !found {
		t.Errorf("no decision of %s says why: %+v", b.gate, h.Decisions)
	}
}

// isPromoted deploys a good canary and checks that it went through all its steps, by evidence.
func (w *world) isPromoted(t *testing.T, release int) {
	w.spec(t, "", judged...)
	m := ended(t, w.begin(t))
	if m.code != exitDone {
		t.Fatalf("exit code %d\n%s\n%s", m.code, m.why(), m.said("gate"))
	}
	w.serves(t, release, nil)
	r := m.receipt()
	if r == nil || r.Outcome != string(rollout.Done) || r.Failed != 0 || int(r.To) != release || r.Took < 18*time.Second {
		t.Errorf("the receipt says %+v", r)
	} else {
		t.Logf("%d requests, p95 %v before and %v after, took %v", r.Requests, r.Before.P95, r.After.P95, r.Took)
	}
	h := w.record(t, strconv.Itoa(release))
	sure := map[int]string{}
	for _, d := range h.Decisions {
		if d.Last {
			t.Logf("step %d: %s: %s: %s", d.Step+1, d.Gate, d.Verdict, d.Reason)
		}
		if d.Last && d.Gate == "compare errors, latency" && d.Verdict == rollout.Sure {
			sure[d.Step] = d.Reason
		}
		if d.Verdict == rollout.Breach || strings.Contains(d.Reason, "inconclusive") {
			t.Errorf("a good one was doubted: %+v", d)
		}
	}
	if len(sure) != 2 { // at 100 % there is nothing to compare with
		t.Errorf("the comparison was sure at %v, it should have been at the two steps with a part of the traffic", sure)
	}
}

func has(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
