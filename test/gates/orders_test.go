package gates_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// asked is a release section whose steps each wait for a person; gates may be added to it.
func asked(gates ...string) []string {
	return append([]string{"strategy: canary", "steps: [20%, 100%]", "watch: 300ms", "evidence: {requests: 20}", "gates:", "  - {approve: steps}"}, gates...)
}

// quiet asks for some 40 answers a second, until the test ends.
func (w *world) quiet(t *testing.T) *rig.Traffic {
	t.Helper()
	return rig.Load{URL: w.url, Clients: 2, Every: 50 * time.Millisecond, Most: 20_000}.Start(t)
}

// rolling waits until a rollout gives its release a share of the traffic, and returns what the status says then.
func (w *world) rolling(t *testing.T, percent int) api.Service {
	t.Helper()
	var s api.Service
	rig.Eventually(t, patience, fmt.Sprintf("%d %% of the traffic and a watch", percent), func() bool {
		s = w.status(t)
		return s.Rollout != nil && s.Weights[int(s.Rollout.To)] == percent && strings.HasPrefix(s.Rollout.Doing, "watch")
	})
	return s
}

// order runs a command that must work.
func (w *world) order(t *testing.T, args ...string) {
	t.Helper()
	if out, stderr, code := w.Run(t, append(args, "canary")...); code != exitDone {
		t.Fatalf("fairlead %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
	}
}

// decided waits for a decision of a gate (or an order) with a verdict on a rollout under way, and returns it.
func (w *world) decided(t *testing.T, s api.Service, gate string, v rollout.Verdict) rollout.Decision {
	t.Helper()
	var found rollout.Decision
	rig.Eventually(t, patience, fmt.Sprintf("%s: %s", gate, v), func() bool {
		for _, d := range w.record(t, fmt.Sprint(s.Rollout.To)).Decisions {
			if d.Gate == gate && d.Verdict == v {
				found = d
				return true
			}
		}
		return false
	})
	return found
}

func TestOrders(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		f    func(*testing.T, *world)
	}{
		{"pause, approve, resume, watch", approved}, {"promote", promoted}, {"freeze", frozen}, {"abort", aborted}, {"the agent dies", orphaned},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, w) })
	}
	for _, order := range []string{"pause", "freeze", "resume", "promote", "abort", "watch"} {
		if _, stderr, code := w.Run(t, order, "canary"); code != exitFailed || !strings.Contains(stderr, "no rollout of canary is under way") {
			t.Errorf("fairlead %s without a rollout: exit code %d\n%s", order, code, stderr)
		}
	}
}

// A pause holds a step that was approved; an approval is of one step only; watch ends as up does.
func approved(t *testing.T, w *world) {
	w.spec(t, "", asked()...)
	load := w.quiet(t)
	up := w.begin(t)
	s := w.rolling(t, 20)
	watch := w.background(t, "watch", "canary")
	if _, stderr, code := w.Run(t, "approve", "canary"); code != 2 || !strings.Contains(stderr, "--reason") {
		t.Errorf("an approval without a reason: exit code %d\n%s", code, stderr)
	}
	w.order(t, "pause", "--reason", "Ann looks at it")
	w.order(t, "approve", "--reason", "Ben saw the numbers")
	if d := w.decided(t, s, "approval", rollout.Pass); !strings.Contains(d.Reason, "Ben saw the numbers") {
		t.Errorf("the decision does not say who approved, and why: %+v", d)
	}
	// The gate passed and the time is over: only the pause holds it.
	if now := w.status(t); now.Rollout == nil || now.Rollout.Step != s.Rollout.Step || !strings.Contains(now.Rollout.Paused, "Ann looks at it") {
		t.Fatalf("a paused rollout went on, or does not say why it waits: %+v", now.Rollout)
	}
	w.order(t, "resume")
	last := w.rolling(t, 100)
	if last.Rollout.Paused != "" || last.Rollout.Step <= s.Rollout.Step {
		t.Errorf("it goes on after resume: %+v", last.Rollout)
	}
	select {
	case m := <-up:
		t.Fatalf("the second step was not approved: exit code %d, %s", m.code, m.why())
	default:
	}
	w.order(t, "approve", "--reason", "and all of them")
	m, followed := ended(t, up), ended(t, watch)
	if m.code != exitDone || followed.code != exitDone {
		t.Errorf("exit code %d of up (%s), %d of watch (%s)", m.code, m.why(), followed.code, followed.why())
	}
	if a, b := m.receipt(), followed.receipt(); a == nil || b == nil || *a != *b {
		t.Errorf("up and watch have different receipts: %+v and %+v", a, b)
	}
	if said := followed.said("paused") + followed.said("resumed") + followed.said("order"); !has(said, "Ann looks at it", "going on", "Ben saw the numbers") {
		t.Errorf("watch did not tell everything:\n%s", said)
	}
	w.serves(t, int(s.Rollout.To), nil)
	orders := ""
	for _, d := range w.record(t, fmt.Sprint(s.Rollout.To)).Decisions {
		orders += d.Gate + ": " + d.Reason + "\n"
	}
	if !has(orders, "pause: ", "resume: ", "approve: ", "Ann looks at it", "and all of them") {
		t.Errorf("the record lacks an order:\n%s", orders)
	}
	lost(t, load)
}

// promote ends one step, whatever its gates wait for; promote --all goes through the rest.
func promoted(t *testing.T, w *world) {
	w.spec(t, "", asked()...)
	load := w.quiet(t)
	up := w.begin(t)
	first := w.rolling(t, 20)
	w.order(t, "promote")
	w.rolling(t, 100)
	w.order(t, "promote", "--all", "--reason", "enough waited")
	m := ended(t, up)
	if m.code != exitDone || !strings.Contains(m.said("promoted"), "promoted by hand") {
		t.Errorf("exit code %d: %s\n%s", m.code, m.why(), m.said("promoted"))
	}
	w.serves(t, int(first.Rollout.To), nil)
	lost(t, load)
}

// Frozen, a rollout does not even go back from what a gate forbids; resumed it does, by itself.
func frozen(t *testing.T, w *world) {
	before := w.status(t)
	was := processes(before, int(before.Current))
	w.spec(t, `FAIL: "0.9"`, asked(`  - {check: "errors <= 10%"}`)...)
	up := w.begin(t)
	s := w.rolling(t, 20)
	w.order(t, "freeze", "--reason", "a migration runs")
	w.quiet(t) // only now: what nobody asks does not fail
	if d := w.decided(t, s, "errors <= 10%", rollout.Breach); d.Else != rollout.Warn || !strings.Contains(d.Reason, "which is not errors <= 10%") {
		t.Errorf("frozen it should only warn: %+v", d)
	}
	now := w.status(t)
	if now.Rollout == nil || !now.Rollout.Frozen || now.Rollout.Undoing || now.Weights[int(s.Rollout.To)] != 20 || !strings.Contains(now.Rollout.Paused, "a migration runs") {
		t.Fatalf("it should stand where it was frozen: %+v, %v", now.Rollout, now.Weights)
	}
	w.order(t, "resume")
	if m := ended(t, up); m.code != exitRolledBack || !strings.Contains(m.why(), "which is not errors <= 10%") {
		t.Errorf("exit code %d: %s", m.code, m.why())
	}
	w.serves(t, int(before.Current), was)
}

// abort goes back at once, from a frozen rollout too.
func aborted(t *testing.T, w *world) {
	before := w.status(t)
	was := processes(before, int(before.Current))
	w.spec(t, "", asked()...)
	load := w.quiet(t)
	up := w.begin(t)
	s := w.rolling(t, 20)
	w.order(t, "freeze")
	out, stderr, code := w.Run(t, "abort", "canary")
	if code != exitDone || !strings.Contains(out, string(rollout.RolledBack)) {
		t.Errorf("abort: exit code %d\n%s%s", code, out, stderr)
	}
	if m := ended(t, up); m.code != exitRolledBack {
		t.Errorf("exit code %d of up: %s", m.code, m.why())
	}
	if h := w.record(t, fmt.Sprint(s.Rollout.To)); h.Outcome != string(rollout.RolledBack) {
		t.Errorf("the history says %s", h.Outcome)
	}
	w.serves(t, int(before.Current), was)
	lost(t, load)
}

// The agent dies in the middle of a paused canary: the next one holds it where it was, with the same words, and takes orders.
func orphaned(t *testing.T, w *world) {
	w.spec(t, "", asked()...)
	load := w.quiet(t)
	up := w.begin(t)
	s := w.rolling(t, 20)
	w.order(t, "pause", "--reason", "over lunch")
	before := w.status(t)
	old := w.PID(t, "agent")
	p, err := os.FindProcess(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, patience, "another agent that has the rollout", func() bool {
		if w.PID(t, "agent") == old {
			return false
		}
		_, _, code := w.Run(t, "status", "canary")
		return code == exitDone && w.status(t).Rollout != nil
	})
	now := w.rolling(t, 20)
	if r, b := now.Rollout, before.Rollout; r.ID != b.ID || r.Step != b.Step || r.Paused != b.Paused || !strings.Contains(r.Paused, "over lunch") {
		t.Fatalf("it was %+v, it is %+v", b, r)
	}
	w.order(t, "approve", "--reason", "after lunch")
	w.order(t, "resume")
	w.rolling(t, 100)
	w.order(t, "approve", "--reason", "it is late")
	if m := ended(t, up); m.code != exitDone {
		t.Errorf("exit code %d of up, which began it with the agent that died: %s\n%s", m.code, m.why(), m.stderr)
	}
	w.serves(t, int(s.Rollout.To), nil)
	lost(t, load)
}

// lost ends a load that nothing bad was deployed under.
func lost(t *testing.T, load *rig.Traffic) {
	t.Helper()
	if c := load.Stop(); c.Failed != 0 || c.Requests == 0 {
		t.Errorf("%d of %d requests failed, the first: %s", c.Failed, c.Requests, c.First)
	}
}
