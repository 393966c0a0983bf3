//go:build linux

package badinput

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// stateSize holds fairlead's own program (some 35 MB), a few releases, and the 64 MB that preflight wants to be free.
const stateSize = "160m"

// smallMachine is one whose state lies on a small disk of its own, in memory.
func smallMachine(t *testing.T) (m *rig.Machine, state string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	m = rig.NewMachine(t)
	state = filepath.Join(m.Dir, "state")
	if err := os.Mkdir(state, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size="+stateSize+",mode=0711"); err != nil {
		rig.Missing(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		// By then the machine's processes were stopped; what still used the disk would be one that was left behind.
		if err := syscall.Unmount(state, 0); err != nil {
			t.Errorf("unmount %s: %v", state, err)
		}
	})
	return m, state
}

// fill takes all the room there is and returns how to give it back.
func fill(t *testing.T, state string) (free func()) {
	t.Helper()
	path := filepath.Join(state, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for size := len(block); size >= 512; {
		if _, err := f.Write(block[:size]); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	free = func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	t.Cleanup(free)
	return free
}

// onDisk runs f on a service whose machine has a small disk, and stops the machine before the disk goes away.
func onDisk(t *testing.T, name string, f func(t *testing.T, s *service, state string)) {
	m, state := smallMachine(t)
	defer m.Run(t, "agent", "stop")
	f(t, serving(t, m, name), state)
}

// works checks that the machine is as good as new once there is room again.
func (s *service) works(t *testing.T) {
	t.Helper()
	s.spec(t)
	o := s.up(t)
	if o.code != 0 || o.receipt == nil {
		t.Fatalf("with room again: exit code %d, %v", o.code, o.err)
	}
	s.answers(t, int(o.receipt.To))
	s.only(t, int(o.receipt.To))
}

func TestFullDisk(t *testing.T) {
	t.Run("before", func(t *testing.T) { onDisk(t, "full-before", fullBefore) })
	t.Run("while-it-starts", func(t *testing.T) { onDisk(t, "full-starting", fullStarting) })
	t.Run("while-it-is-watched", func(t *testing.T) { onDisk(t, "full-watched", fullWatched) })
}

func fullBefore(t *testing.T, s *service, state string) {
	free := fill(t, state)
	s.refuses(t, refusal{code: 5, kind: fail.Preflight, says: []string{"disk", state}, hint: "free some space"})
	// Looking must work: it is what a person does now.
	for _, args := range [][]string{{"status"}, {"history", s.name}, {"logs", s.name}, {"agent", "status"}} {
		if _, stderr, code := s.Run(t, args...); code != 0 {
			t.Errorf("fairlead %s on a full disk: exit code %d\n%s", strings.Join(args, " "), code, stderr)
		}
	}
	free()
	s.works(t)
}

// patience is how long going back may take; a full disk is no reason to leave the bad release running.
const patience = 20 * time.Second

// fullStarting takes the room away while a bad release starts. The old one never stopped serving, so going back needs no
// room at all.
func fullStarting(t *testing.T, s *service, state string) {
	s.spec(t, "MODE: good", "MODE: unready", "startup_timeout: 20s", "startup_timeout: 2s")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "1 instance of release 2")
	free := fill(t, state)
	o := u.endWithin(t, patience, free)
	if o.code != 1 || o.err == nil || o.err.Kind != fail.Unhealthy || !strings.Contains(o.err.Error(), "release 1 serves as before") {
		t.Errorf("exit code %d, %v", o.code, o.err)
	}
	noneFailed(t, load)
	s.unharmed(t)
	free()
	s.works(t)
}

// fullWatched takes the room away while a good release is watched. Forward or back, what serves, what the history says and
// what the status says must agree in the end.
func fullWatched(t *testing.T, s *service, state string) {
	s.spec(t, "watch: 100ms", "watch: 2s")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "watch release 2")
	free := fill(t, state)
	o := u.endWithin(t, patience, free)
	noneFailed(t, load)
	free()
	rig.Eventually(t, patience, "the rollout has an outcome once there is room", func() bool { return s.history(t)[0].Outcome != "running" })
	if h := s.history(t)[0]; (o.code == 0) != (h.Outcome == "done") {
		t.Errorf("up ended with %d (%v), the history says %q", o.code, o.err, h.Outcome)
	}
	current := int(s.status(t).Current)
	s.answers(t, current)
	s.only(t, current)
	s.works(t)
}

// endWithin is end for an up that may hang. It then gives the disk its room back, which lets everything end.
func (u *started) endWithin(t *testing.T, d time.Duration, free func()) outcome {
	t.Helper()
	late := time.AfterFunc(d, func() {
		t.Errorf("the up did not end within %s on a full disk", d)
		free()
	})
	defer late.Stop()
	return u.end(t)
}
