// Package chaos holds the promise that any process may be killed at any instant: the command line, the agent, the
// supervisor and the edge, at every step of every strategy. The service stays reachable, and the rollout ends with
// everything old or everything new, without anybody's help.
package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const instances = 2

// patience is how long a machine may take to come right.
const patience = time.Minute

// strategies are the specs of the services, by their name.
var strategies = map[string]string{
	"blue-green": "strategy: blue-green",
	"rolling":    "strategy: rolling\n  surge: 1",
	"recreate":   "strategy: recreate",
}

// service writes a copy of the load suite's program with a spec of its own.
func service(t *testing.T, name, strategy string) string {
	t.Helper()
	text := fmt.Sprintf("service: %s\nrun:\n  instances: %d\n  stop: {drain: 2s}\nrelease:\n  watch: 100ms\n  keep: 3\n  %s\n", name, instances, strategy)
	return rig.Service(t, "test/load/testdata/app", name, text)
}

// victim returns the process to kill; cli is the command line's.
func victim(t *testing.T, m *rig.Machine, role string, cli int) int {
	t.Helper()
	if role == "cli" {
		return cli
	}
	b, err := os.ReadFile(filepath.Join(m.Dir, "run", role+".lock"))
	var s struct{ PID int }
	if err != nil || json.Unmarshal(b, &s) != nil || s.PID <= 1 {
		t.Fatalf("no %s to kill: %v %s", role, err, b)
	}
	return s.PID
}

// interrupted runs a rollout and kills role when step number step begins. It returns how many steps the plan has.
func interrupted(t *testing.T, m *rig.Machine, name, role string, step int) (steps int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.CLI(t), "restart", name, "--json")
	cmd.Env = m.Env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for d := json.NewDecoder(out); ; {
		var e rig.Event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil && killed && role == "cli" {
			break // it was cut off in the middle of a line
		} else if err != nil {
			t.Fatal(err)
		}
		if e.Type != "step" {
			continue
		}
		steps = e.Steps
		if e.Step == step && !killed {
			killed = true
			if err := syscall.Kill(victim(t, m, role, cmd.Process.Pid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if role != "cli" && err != nil {
		t.Errorf("%s killed at step %d: the command line was not told of the end: %v", role, step, err)
	}
	if !killed {
		t.Errorf("step %d never began", step)
	}
	return steps
}

func status(t *testing.T, m *rig.Machine, name string) (api.Service, bool) {
	t.Helper()
	out, _, code := m.Run(t, "status", name, "--json")
	var st api.Status
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil || len(st.Services) != 1 {
		return api.Service{}, false
	}
	return st.Services[0], true
}

// settled reports whether one release alone serves, with all its instances, and no rollout is open.
func settled(t *testing.T, m *rig.Machine, name string) bool {
	t.Helper()
	s, ok := status(t, m, name)
	if !ok || s.Rollout != nil || len(s.Instances) != instances || s.Weights[int(s.Current)] != 100 {
		return false
	}
	for _, i := range s.Instances {
		if i.Release != int(s.Current) || i.State != supervise.Ready {
			return false
		}
	}
	out, _, code := m.Run(t, "history", name, "-n", "1", "--json")
	var h []api.Entry
	return code == 0 && json.Unmarshal([]byte(out), &h) == nil && len(h) == 1 && h[0].Outcome != "running"
}

func TestKillAtEveryStep(t *testing.T) {
	m := rig.NewMachine(t)
	for name, strategy := range strategies {
		r := m.Up(t, service(t, name, strategy))
		for _, role := range []string{"cli", "agent", "supervisor"} {
			t.Run(name+"/"+role, func(t *testing.T) {
				load := rig.Load{URL: r.URL, Every: 10 * time.Millisecond}.Start(t)
				steps := 1
				for step := 1; step <= steps; step++ {
					steps = interrupted(t, m, name, role, step)
					rig.Eventually(t, patience, fmt.Sprintf("%s: one release alone after the %s was killed at step %d of %d", name, role, step, steps),
						func() bool { return settled(t, m, name) })
				}
				if steps < 5 {
					t.Errorf("only %d steps", steps)
				}
				if c := load.Stop(); c.Failed > 0 {
					t.Errorf("%d of %d requests failed: %s", c.Failed, c.Requests, c.First)
				} else {
					t.Logf("%d steps, %d requests, 0 failed", steps, c.Requests)
				}
			})
		}
	}
}

// When the edge is killed, what it had under way is lost, but connections that come while it is being started again wait
// in its sockets, which the supervisor keeps.
func TestKillOfTheEdge(t *testing.T) {
	m := rig.NewMachine(t)
	r := m.Up(t, service(t, "edge", strategies["blue-green"]))
	addr := strings.TrimPrefix(r.URL, "http://")
	for range 5 {
		old := victim(t, m, "edge", 0)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := rig.Get(t, "http://"+addr+"/"); err != nil {
			t.Fatalf("a request right behind the kill: %v", err)
		}
		rig.Eventually(t, patience, "a new edge", func() bool { return victim(t, m, "edge", 0) != old })
	}
}

// A machine that loses its power comes back with everything that ran. Everything of fairlead and all instances are killed
// at once; what a boot does afterwards is `fairlead agent start`.
func TestPowerLoss(t *testing.T) {
	m := rig.NewMachine(t)
	r := m.Up(t, service(t, "power", strategies["rolling"]))
	s, ok := status(t, m, "power")
	if !ok {
		t.Fatal("no status")
	}
	pids := []int{victim(t, m, "agent", 0), victim(t, m, "supervisor", 0), victim(t, m, "edge", 0)}
	for _, i := range s.Instances {
		pids = append(pids, i.Process.PID)
	}
	// Stopped first, so that none sees another one die and starts it again in the middle of the cut.
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(m.Dir, "run")); err != nil { // a boot empties it
		t.Fatal(err)
	}
	if _, stderr, code := m.Run(t, "agent", "start"); code != 0 {
		t.Fatal(stderr)
	}
	if _, err := rig.Get(t, r.URL); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, patience, "all instances", func() bool { return settled(t, m, "power") })
}
