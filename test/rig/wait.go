package rig

import (
	"encoding/json"
	"testing"
	"time"
)

// Eventually asks f until it says yes. When it has not within the bound, the test ends with what was waited for.
func Eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(within)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("after %s still not: %s", within, what)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// PID returns the number of one of the machine's processes, as `fairlead agent status` says it.
func (m *Machine) PID(t testing.TB, role string) int {
	t.Helper()
	out, stderr, code := m.Run(t, "agent", "status", "--json")
	var st struct {
		Processes []struct {
			Role string
			PID  int
		}
	}
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil {
		t.Fatalf("agent status: %s%s", out, stderr)
	}
	for _, p := range st.Processes {
		if p.Role == role {
			return p.PID
		}
	}
	t.Fatalf("no %s in %s", role, out)
	return 0
}
