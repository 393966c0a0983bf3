// Package load holds the promise that no request is lost: 200 connections of steady load while releases are deployed and
// rolled back, and while fairlead's own processes are killed and replaced.
package load

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const rounds = 10

// patience is how long a machine may take to come right.
const patience = 30 * time.Second

func app(t *testing.T) string { return filepath.Join(rig.Root(t), "test", "load", "testdata", "app") }

// edgeCounts sums the machine's own counters of requests and failures.
func edgeCounts(t *testing.T, m *rig.Machine) (requests, failed int64) {
	t.Helper()
	sums := m.Sums(t)
	return sums["fairlead_edge_requests_total"], sums["fairlead_edge_failures_total"]
}

func status(t *testing.T, m *rig.Machine) api.Service {
	t.Helper()
	out, stderr, code := m.Run(t, "status", "app", "--json")
	var st api.Status
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil || len(st.Services) != 1 {
		t.Fatalf("status: %s%s", out, stderr)
	}
	return st.Services[0]
}

func TestNoRequestIsLost(t *testing.T) {
	m := rig.NewMachine(t)
	r := m.Up(t, app(t))
	s := newSwarm(t, strings.TrimPrefix(r.URL, "http://"))
	rig.Eventually(t, patience, "load", func() bool { return s.total.Load() > 1000 })
	phase := func(name string, mayFail bool, f func()) {
		before, failed, begun := s.total.Load(), s.failed.Load(), time.Now()
		for range rounds {
			f()
		}
		n := s.failed.Load() - failed
		t.Logf("%-28s %6d requests, %d failed, %s", name, s.total.Load()-before, n, time.Since(begun).Round(time.Millisecond))
		if n > 0 && !mayFail {
			t.Errorf("%s: %d requests failed%s", name, n, s.why())
		}
	}
	phase("deploys", false, func() {
		if r := m.Up(t, app(t)); r.Failed != 0 {
			t.Errorf("the receipt says %d failed", r.Failed)
		}
	})
	phase("rollbacks", false, func() {
		if r := m.Move(t, "rollback", "--service", "app"); r.Failed != 0 {
			t.Errorf("the receipt says %d failed", r.Failed)
		}
	})
	phase("kills of the agent", false, func() {
		old := m.PID(t, "agent")
		kill(t, old)
		rig.Eventually(t, patience, "a new agent", func() bool { return m.PID(t, "agent") != old && answers(t, m) })
	})
	phase("kills of the supervisor", false, func() {
		old := m.PID(t, "supervisor")
		kill(t, old)
		rig.Eventually(t, patience, "a new supervisor", func() bool { return m.PID(t, "supervisor") != old && answers(t, m) })
	})
	phase("replacements of the edge", false, func() {
		if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
			t.Fatalf("agent upgrade: %s", stderr)
		}
	})
	turn := 0
	phase("kills of an instance", true, func() {
		i := status(t, m).Instances[turn%2] // in turn: one that dies again and again is started ever later
		turn++
		kill(t, i.Process.PID)
		rig.Eventually(t, patience, "a new process", func() bool {
			now := status(t, m).Instances
			return len(now) == 2 && now[i.Number-1].Process.PID != i.Process.PID && now[0].State == "ready" && now[1].State == "ready"
		})
	})
	s.end()
	t.Logf("%d requests, %d failed%s", s.total.Load(), s.failed.Load(), s.why())
	requests, _ := edgeCounts(t, m)
	if lost := s.total.Load() - requests; lost != 0 {
		t.Errorf("the load counts %d requests, the edge %d", s.total.Load(), requests)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process to kill: %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

func answers(t *testing.T, m *rig.Machine) bool {
	t.Helper()
	_, _, code := m.Run(t, "status", "app", "--json")
	return code == 0
}

// The receipt counts what the clients count: a known number of requests, some of them answered with an error, is sent
// while a rollout is under way.
func TestReceiptEqualsTheLoad(t *testing.T) {
	m := rig.NewMachine(t)
	// The watch is long enough for everything that is sent to end within the rollout.
	dir := variant(t, "service: app\nrun: {instances: 2}\nrelease: {watch: 3s}\n")
	m.Up(t, dir)
	cmd := exec.CommandContext(t.Context(), rig.CLI(t), "restart", "app", "--json")
	cmd.Env = m.Env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var receipt *rig.Receipt
	good, bad := 0, 0
	addr := strings.TrimPrefix(status(t, m).URL, "http://")
	for d := json.NewDecoder(out); ; {
		var e rig.Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Type == "step" && e.Step < e.Steps { // some at every step; behind the last one the rollout may end first
			for range 20 {
				good += ask(t, addr, "/", http.StatusOK)
			}
			for range 3 {
				bad += ask(t, addr, "/fail", http.StatusInternalServerError)
			}
		}
		if e.Receipt != nil {
			receipt = e.Receipt
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if receipt == nil || good < 60 || receipt.Requests != uint64(good+bad) || receipt.Failed != uint64(bad) || receipt.Undelivered != 0 {
		t.Fatalf("%d were answered well and %d with an error; the receipt says %+v", good, bad, receipt)
	}
}

// With warm, the old instances stay up without traffic: going back uses the very same processes, and when the time is
// over they are stopped.
func TestWarmInstancesAreGoneBackTo(t *testing.T) {
	m := rig.NewMachine(t)
	spec := func(warm string) string {
		return "service: app\nrun: {instances: 2}\nrelease: {watch: 100ms, warm: " + warm + "}\n"
	}
	dir := variant(t, spec("10m"))
	m.Up(t, dir)
	first := processes(status(t, m), 1)
	m.Up(t, dir)
	if s := status(t, m); len(first) != 2 || !maps.Equal(first, processes(s, 1)) || s.Weights[1] != 0 || s.Weights[2] != 100 {
		t.Fatalf("the old release is not kept warm: %+v", s)
	}
	second := processes(status(t, m), 2)
	if r := m.Move(t, "rollback", "--service", "app"); r.Took > 5*time.Second {
		t.Logf("going back took %s", r.Took)
	}
	if s := status(t, m); !maps.Equal(first, processes(s, 1)) || s.Weights[1] != 100 || !maps.Equal(second, processes(s, 2)) {
		t.Fatalf("not the same processes: %v, %+v", first, s)
	}
	rig.Spec(t, dir, spec("1s"))
	m.Up(t, dir)
	rig.Eventually(t, patience, "what was warm is stopped", func() bool {
		s := status(t, m)
		return s.Current == 3 && len(processes(s, 1))+len(processes(s, 2)) == 0 && len(processes(s, 3)) == 2
	})
}

// processes returns a release's process numbers by instance.
func processes(s api.Service, release int) map[int]int {
	out := map[int]int{}
	for _, i := range s.Instances {
		if i.Release == release {
			out[i.Number] = i.Process.PID
		}
	}
	return out
}

func ask(t *testing.T, addr, path string, want int) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(b), http.StatusText(want)) {
		t.Fatalf("%v %q", err, b)
	}
	return 1
}
