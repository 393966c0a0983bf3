package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// variant is the app with a spec of the test's own.
func variant(t *testing.T, text string) string {
	t.Helper()
	return rig.Service(t, "test/load/testdata/app", "app", text)
}

// TestKernelModes: where the kernel hands connections to instances, the same load loses nothing either; and nothing when no
// process of fairlead is left.
func TestKernelModes(t *testing.T) {
	rig.LinuxAndRoot(t, "steering by the kernel")
	for _, mode := range []string{"kernel", "adaptive"} {
		t.Run(mode, func(t *testing.T) { kernelMode(t, mode) })
	}
}

func kernelMode(t *testing.T, mode string) {
	const spec = "service: app\nrun: {instances: 2}\nroute: {mode: %s}\nrelease: {watch: 100ms, strategy: %s}\n"
	m, blue := rig.NewMachine(t), variant(t, fmt.Sprintf(spec, mode, "blue-green"))
	// The spec's last line goes on: 20 changes of the weights.
	steps := variant(t, strings.TrimSuffix(fmt.Sprintf(spec, mode, "canary"), "}\n")+", bake: 50ms, steps: [1%, 5%, 10%, 15%, 20%, 25%, 30%, 35%, 40%, 45%, 50%, 55%, 60%, 65%, 70%, 75%, 80%, 85%, 90%, 95%]}\n")
	r := m.Up(t, blue)
	if st := status(t, m); st.Mode != "kernel" {
		t.Fatalf("connections go by %s: %s", st.Mode, st.ModeWhy)
	}
	s := newSwarm(t, strings.TrimPrefix(r.URL, "http://"))
	rig.Eventually(t, patience, "load", func() bool { return s.total.Load() > 1000 })
	phase := func(name string, rounds int, f func()) {
		before, failed, begun := s.total.Load(), s.failed.Load(), time.Now()
		for range rounds {
			f()
		}
		n := s.failed.Load() - failed
		t.Logf("%-28s %6d requests, %d failed, %s", name, s.total.Load()-before, n, time.Since(begun).Round(time.Millisecond))
		if n > 0 {
			t.Errorf("%s: %d requests failed%s", name, n, s.why())
		}
	}
	phase("deploys", 2, func() { m.Up(t, blue) })
	phase("weight changes", 1, func() {
		if r := m.Up(t, steps); r.Failed != 0 || r.Requests == 0 {
			t.Errorf("the receipt: %+v", r)
		}
	})
	phase("rollbacks", 8, func() { m.Move(t, "rollback", "--service", "app") })
	phase("kills of the agent", 2, func() {
		old := m.PID(t, "agent")
		kill(t, old)
		rig.Eventually(t, patience, "a new agent", func() bool { return m.PID(t, "agent") != old && answers(t, m) })
	})
	phase("replacements of the edge", 3, func() {
		if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
			t.Fatalf("agent upgrade: %s", stderr)
		}
	})
	rig.Eventually(t, patience, "the kernel again", func() bool { return status(t, m).Mode == "kernel" })
	phase("no process of fairlead", 1, func() {
		killAll(t, m)
		want := s.total.Load() + 5000
		rig.Eventually(t, patience, "5000 requests without fairlead", func() bool { return s.total.Load() > want })
	})
	phase("everything is back", 1, func() {
		if _, stderr, code := m.Run(t, "agent", "start"); code != 0 {
			t.Fatalf("agent start: %s", stderr)
		}
		m.Up(t, blue)
	})
	s.end()
	// A new agent that is stopped before it has done anything leaves nothing in the kernel, either.
	killAll(t, m)
	for _, do := range []string{"start", "stop"} {
		if _, stderr, code := m.Run(t, "agent", do); code != 0 {
			t.Fatalf("agent %s: %s", do, stderr)
		}
	}
	if _, err := os.Stat("/sys/fs/bpf/fairlead-" + home.Key(filepath.Join(m.Dir, "state"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left in the kernel: %v", err)
	}
}

// killAll kills all three processes; they are stopped before, so that none is quick enough to start another one.
func killAll(t *testing.T, m *rig.Machine) {
	t.Helper()
	pids := []int{m.PID(t, "agent"), m.PID(t, "edge"), m.PID(t, "supervisor")}
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range pids {
			if pid <= 1 {
				t.Fatalf("no process to kill: %v", pids)
			}
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
}
