// Package gates_test holds the promise that evidence decides: under real load a canary that fails, that is slow, that leaks
// or that logs panics is rolled back by itself, with the reason in one sentence, and a good one is promoted. And that people
// can order a rollout under way about, whatever happens to the agent meanwhile.
package gates_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// The exit codes that `fairlead help` lists.
const (
	exitDone       = 0
	exitFailed     = 1
	exitRolledBack = 3
)

// patience is how long a machine may take to do what it does in a second.
const patience = 30 * time.Second

// world is a machine with one service whose first release is good.
type world struct {
	*rig.Machine
	dir, url string
}

// newWorld deploys the first release, which nothing is asked of.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Machine: rig.NewMachine(t), dir: rig.Service(t, "test/gates/testdata/service", "canary", "")}
	w.spec(t, "", "watch: 100ms")
	w.url = w.Up(t, w.dir).URL
	return w
}

// spec writes fairlead.yaml: a service with a fault, as `FAIL: "0.05"`, and what release says, a line each.
func (w *world) spec(t *testing.T, fault string, release ...string) {
	t.Helper()
	text := "service: canary\nrun:\n  instances: 2\n  limits: {memory: 256MiB}\n  stop: {drain: 5s}\n  env: {" + fault + "}\nrelease:\n  " +
		strings.Join(release, "\n  ") + "\n"
	rig.Spec(t, w.dir, text)
}

// load asks for some 300 answers a second, until the test ends.
func (w *world) load(t *testing.T) *rig.Traffic {
	t.Helper()
	return rig.Load{URL: w.url, Clients: 15, Every: 50 * time.Millisecond, Most: 60_000}.Start(t)
}

// moved is how a command ended that moves traffic.
type moved struct {
	events []rig.Event
	code   int
	stderr string
}

// begin starts `fairlead up` and returns while it runs; what it printed comes when it ends.
func (w *world) begin(t *testing.T) <-chan moved {
	t.Helper()
	return w.background(t, "up", "--wait", w.dir)
}

func (w *world) background(t *testing.T, args ...string) <-chan moved {
	t.Helper()
	out := make(chan moved, 1)
	go func() {
		stdout, stderr, code := w.Run(t, append(args, "--json")...)
		m := moved{code: code, stderr: stderr}
		for line := range strings.Lines(stdout) {
			var e rig.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Errorf("fairlead %s --json printed %q: %v", strings.Join(args, " "), line, err)
			}
			m.events = append(m.events, e)
		}
		out <- m
	}()
	return out
}

// ended waits for the end of what was begun.
func ended(t *testing.T, c <-chan moved) moved {
	t.Helper()
	select {
	case m := <-c:
		return m
	case <-time.After(2 * time.Minute):
		t.Fatal("it does not end")
		return moved{}
	}
}

func (m moved) receipt() *rig.Receipt {
	for _, e := range slices.Backward(m.events) {
		if e.Receipt != nil {
			return e.Receipt
		}
	}
	return nil
}

// why is the error that the command ended with, without what to do about it.
func (m moved) why() string {
	for _, e := range slices.Backward(m.events) {
		if e.Error != nil {
			return e.Error.Error()
		}
	}
	return ""
}

// said returns the texts of all events of a type.
func (m moved) said(typ string) string {
	var out strings.Builder
	for _, e := range m.events {
		if e.Type == typ {
			out.WriteString(e.Text + "\n")
		}
	}
	return out.String()
}

func (w *world) status(t *testing.T) api.Service {
	t.Helper()
	out, stderr, code := w.Run(t, "status", "canary", "--json")
	var st api.Status
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil || len(st.Services) != 1 {
		t.Fatalf("status: %s%s", out, stderr)
	}
	return st.Services[0]
}

// record is what `fairlead history SERVICE RELEASE` says of how a rollout was decided.
type record struct {
	api.Entry
	Decisions []rollout.Decision `json:"decisions"`
}

func (w *world) record(t *testing.T, release string) record {
	t.Helper()
	out, stderr, code := w.Run(t, "history", "canary", release, "--json")
	var r record
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
		t.Fatalf("history canary %s: %v\n%s%s", release, err, out, stderr)
	}
	return r
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

// serves checks that a release has all the traffic and that its two instances are the processes they were, where those are
// given; nothing is left of any other release.
func (w *world) serves(t *testing.T, release int, was map[int]int) {
	t.Helper()
	s := w.status(t)
	now := processes(s, release)
	if int(s.Current) != release || s.Weights[release] != 100 || len(now) != 2 || len(s.Instances) != 2 || s.Rollout != nil {
		t.Errorf("release %d should serve alone: current %d, weights %v, %d instances of it, %d in all, rollout %+v",
			release, s.Current, s.Weights, len(now), len(s.Instances), s.Rollout)
	}
	if was != nil && !maps.Equal(was, now) {
		t.Errorf("the instances of release %d were processes %v, they are %v", release, was, now)
	}
}
