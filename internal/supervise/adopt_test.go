//go:build unix

package supervise_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// daemon starts a supervisor in a process of its own.
func daemon(t *testing.T, d home.Dirs) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "MODE=supervisor", "STATE="+d.State, "RUN="+d.Run)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// answered asks the daemon until f likes its snapshot.
func answered(t *testing.T, c *supervise.Client, what string, f func([]supervise.Instance) bool) []supervise.Instance {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		s, err := c.Snapshot(t.Context())
		if err == nil && f(s.Instances) {
			return s.Instances
		}
		if time.Now().After(end) {
			t.Fatalf("it did not come about: %s; %v %+v", what, err, s.Instances)
		}
	}
}

// The supervisor is killed; the next one finds the same processes, never sees them as not ready, gets what they print
// meanwhile, and notices when they end.
func TestAdoption(t *testing.T) {
	d, bin := machine(t)
	c := supervise.NewClient(d.Sock(home.Supervisor))
	first := daemon(t, d)
	answered(t, c, "a supervisor", func([]supervise.Instance) bool { return true })
	g := supervise.Group{Program: program(d, bin, "serve"), Want: 2}
	if err := c.Set(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	before := answered(t, c, "two ready", ready(2))
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	for _, i := range before {
		if !i.Process.Alive() {
			t.Fatalf("instance %d died with its supervisor", i.Number)
		}
	}
	daemon(t, d)
	after := answered(t, c, "a supervisor again", func([]supervise.Instance) bool { return true })
	for n, i := range after {
		if i.State != supervise.Ready || i.Process != before[n].Process || i.Port != before[n].Port {
			t.Errorf("before %+v, after %+v", before[n], i)
		}
	}
	if err := syscall.Kill(before[0].Process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	now := answered(t, c, "a new process", func(all []supervise.Instance) bool {
		return ready(2)(all) && all[0].Process != before[0].Process
	})
	if now[0].Port != before[0].Port || now[0].Lost != 1 {
		t.Errorf("%+v", now[0])
	}
	if out := output(t, d); strings.Count(out, "serving") != 2 {
		t.Errorf("output: %s", out)
	}
	g.Want = 0
	if err := c.Set(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	answered(t, c, "nothing", ready(0))
}

// What nobody wants any more when the supervisor comes back is ended.
func TestOrphansAreEnded(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	if err := s.Set(supervise.Group{Program: program(d, bin, "serve"), Want: 1}); err != nil {
		t.Fatal(err)
	}
	i := until(t, s, "ready", ready(1))[0]
	s.Close()
	if !i.Process.Alive() {
		t.Fatal("Close ended the instance")
	}
	if all := s.Snapshot(false).Instances; len(all) != 1 || all[0].State != supervise.Ready {
		t.Errorf("one that left says that this runs: %+v", all)
	}
	// Whoever wants something of one that is leaving asks the next one.
	if err := s.Set(supervise.Group{Program: program(d, bin, "serve"), Want: 2}); fail.KindOf(err) != fail.Unavailable {
		t.Errorf("of one that left: %v", err)
	}
	if err := os.Remove(fmt.Sprintf("%s/supervisor/groups/svc@default.1.json", d.State)); err != nil {
		t.Fatal(err)
	}
	s = start(t, d)
	defer s.Shutdown()
	until(t, s, "nothing", ready(0))
	if i.Process.Alive() {
		t.Error("it still runs")
	}
}
