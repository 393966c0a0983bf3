package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Receipt is what a move of traffic says it cost.
type Receipt = api.Receipt

// Event is one line of what the command line prints with --json.
type Event struct {
	event.Event
	Receipt  *Receipt    `json:"receipt"`
	Error    *fail.Error `json:"error"`
	ExitCode int         `json:"exit_code"` // of the process, in a line of type "error"
}

// Machine is a machine of a test's own: its three processes, state and sockets have nothing to do with any other's.
type Machine struct {
	Dir string   // FAIRLEAD_DIR
	Env []string // what the command line runs with; a test may add to it
	cli string
}

// stopWithin bounds the end of a machine: its instances drain, then stop.
const stopWithin = 90 * time.Second

// NewMachine makes an empty machine that is stopped and removed when the test ends.
func NewMachine(t testing.TB) *Machine {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a machine that runs services is Linux or macOS")
	}
	cli := CLI(t)
	// The name is short since the path of a unix socket may not have more than about 100 bytes.
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{Dir: dir, cli: cli}
	t.Cleanup(func() { m.remove(t) })
	// Root's services run as users of their own, who must get through this folder to their programs.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	gocache, err := Command(t, "", nil, "go", "env", "GOCACHE")
	if err != nil {
		t.Fatal(err)
	}
	m.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FAIRLEAD_") })
	// Programs that the product builds go away with the machine; Go's own cache stays the user's, or each run would be cold.
	m.Env = append(m.Env, "FAIRLEAD_DIR="+dir, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GOCACHE="+strings.TrimSpace(gocache))
	return m
}

// remove stops the machine's processes. A machine that does not stop is a failure: its processes would outlive the test.
func (m *Machine) remove(t testing.TB) {
	if t.Failed() {
		m.showDaemons(t)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), stopWithin)
	defer cancel()
	// A machine that nothing was deployed to has no processes: a test that is skipped early must not fail by its end.
	if _, err := os.Stat(filepath.Join(m.Dir, "run")); !errors.Is(err, os.ErrNotExist) {
		if _, stderr, code := m.run(ctx, t, "agent", "stop"); code != 0 {
			t.Errorf("fairlead agent stop in %s: exit code %d\n%s", m.Dir, code, stderr)
			return
		}
	}
	if err := os.RemoveAll(m.Dir); err != nil {
		t.Error(err)
	}
}

// showDaemons puts the ends of the three processes' own logs into the test's.
func (m *Machine) showDaemons(t testing.TB) {
	const most = 4 << 10
	logs, err := filepath.Glob(filepath.Join(m.Dir, "state", "log", "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-most):])
	}
}

// spare is what a test's deadline leaves for its end: without it the test binary would die with the daemons running.
const spare = stopWithin + 10*time.Second

// Run runs the command line on this machine. It does not judge the exit code; what keeps the program from being run at
// all, or from ending, ends the test.
func (m *Machine) Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx := t.Context()
	if tt, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if d, ok := tt.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, d.Add(-spare))
			defer cancel()
		}
	}
	return m.run(ctx, t, args...)
}

func (m *Machine) run(ctx context.Context, t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(ctx, m.cli, args...)
	cmd.Env = m.Env
	cmd.WaitDelay = 5 * time.Second // a daemon that kept our pipes open would be found here
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Errorf("fairlead %s: %v\n%s%s", strings.Join(args, " "), err, o.String(), e.String())
		return o.String(), e.String(), -1
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// Events runs a command with --json and returns what it printed, line by line.
func (m *Machine) Events(t testing.TB, args ...string) (events []Event, code int) {
	t.Helper()
	stdout, stderr, code := m.Run(t, append(args, "--json")...)
	if stderr != "" {
		t.Logf("fairlead %s, standard error:\n%s", strings.Join(args, " "), stderr)
	}
	for line := range strings.Lines(stdout) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("fairlead %s --json printed a line that is not an event: %v\n%s", strings.Join(args, " "), err, line)
		}
		events = append(events, e)
	}
	return events, code
}

// Up deploys the service in dir and returns its receipt; a deploy that does not succeed ends the test.
func (m *Machine) Up(t testing.TB, dir string, args ...string) Receipt {
	t.Helper()
	return m.Move(t, append([]string{"up", dir}, args...)...)
}

// Move runs a command that moves traffic, as up, rollback and restart do, and returns its receipt. A move that does not
// succeed ends the test.
func (m *Machine) Move(t testing.TB, args ...string) Receipt {
	t.Helper()
	events, code := m.Events(t, args...)
	var r *Receipt
	var text strings.Builder
	for _, e := range events {
		if e.Receipt != nil {
			r = e.Receipt
		}
		switch {
		case e.Error != nil:
			text.WriteString(e.Error.Error() + "\n" + strings.Join(e.Error.Lines, "\n") + "\nhint: " + e.Error.Hint + "\n")
		case e.Type != "compile" && e.Type != "preflight" || e.Level == event.Error:
			text.WriteString(e.Text + "\n")
		}
	}
	if code != 0 || r == nil {
		t.Fatalf("fairlead %s: exit code %d, receipt %v\n%s", strings.Join(args, " "), code, r, text.String())
	}
	return *r
}
