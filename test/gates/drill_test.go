package gates_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// recoverWithin is the promise: from the decision to all traffic on the old release.
const recoverWithin = time.Second

// A rehearsal of going back, of a real Gin service under load: no request fails, the way back is short, the proof is kept, and
// the gate that asks for it opens while it is fresh.
func TestDrillRollback(t *testing.T) {
	m := rig.NewMachine(t)
	spec := func(gate string) string {
		return "service: gin\nrun:\n  instances: 2\n  stop: {drain: 5s}\n  probes: {ready: {http: /ready}}\nrelease:\n  watch: 200ms\n  gates: [{check: \"" + gate + "\"}]\n"
	}
	dir := rig.Service(t, "examples/gin", "gin", spec("drill(rollback) <= 30d"))
	url := m.Up(t, dir).URL // the first release has nothing to go back to: the gate does not ask

	out, _, code := m.Run(t, "up", dir)
	if code != exitFailed {
		t.Fatalf("without a drill the second deploy ends with %d:\n%s", code, out)
	}
	load := rig.Load{URL: url + "/albums", Clients: 8, Every: 10 * time.Millisecond}.Start(t)
	events, code := m.Events(t, "drill", "rollback", "gin", "--share", "30", "--for", "2s", "--yes")
	if code != exitDone {
		t.Fatalf("the drill ends with %d: %+v", code, events)
	}
	r := events[len(events)-1].Receipt
	if r == nil || r.Outcome != "rolled-back" || r.Recovered <= 0 || r.Recovered > recoverWithin || r.Failed != 0 || r.Requests < 200 || r.After.Requests < 20 {
		t.Fatalf("the drill's receipt: %+v", r)
	}
	t.Logf("release %d had all traffic again %s after the decision", r.From, r.Recovered)
	m.Up(t, dir) // the proof is fresh
	if c := load.Stop(); c.Failed != 0 {
		t.Errorf("%d of %d requests failed: %s", c.Failed, c.Requests, c.First)
	}
	if out, _, _ := m.Run(t, "history", "gin"); !strings.Contains(out, "drill rollback") {
		t.Errorf("the history does not know of the drill:\n%s", out)
	}

	rig.Spec(t, dir, spec("drill(rollback) <= 0.000001d")) // a tenth of a second: by now it is too old
	events, code = m.Events(t, "up", dir)
	e := events[len(events)-1].Error
	if code != exitFailed || e == nil || !strings.Contains(e.Error(), "which is too long ago") || !strings.Contains(e.Hint, "fairlead drill rollback gin") {
		t.Errorf("a stale drill: exit code %d, %+v", code, e)
	}
}
