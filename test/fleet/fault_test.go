//go:build linux

package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
	"github.com/fairlead-dev/fairlead/test/rig/hosts"
)

// at runs a command and calls do when it says something with marker in it. It returns all that it said and its exit code, -1 where
// it was killed.
func (o *operator) at(t *testing.T, marker string, do func(*exec.Cmd), args ...string) (said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := o.command(ctx, append(args, "--json")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	var b strings.Builder
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e rig.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Errorf("%v: %s", err, lines.Text())
		}
		b.WriteString(e.Text + "\n")
		if e.Error != nil {
			b.WriteString("error: " + e.Error.Error() + "\n" + strings.Join(e.Error.Lines, "\n") + "\nhint: " + e.Error.Hint + "\n")
		}
		if !done && strings.Contains(e.Text, marker) {
			done = true
			do(cmd)
		}
	}
	err = cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	if !done {
		t.Fatalf("nobody said %q:\n%s", marker, b.String())
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// inService is three hosts that serve version v0.
func inService(t *testing.T, more string) (*hosts.Fleet, *operator) {
	t.Helper()
	f := hosts.Boot(t, "web1", "web2", "web3")
	o := newOperator(t, f, more)
	o.write(t, source{version: "v0"})
	o.must(t, "up")
	return f, o
}

// A host that is lost in the middle of a rollout: every other one goes back, none is held up for longer than it takes to notice, and when
// the host comes back it is told.
func TestHostIsLost(t *testing.T) {
	f, o := inService(t, "")
	lost := f.Host("web2")
	serves := "v0"
	for _, tt := range []struct {
		name       string
		at         string
		done       bool // its part was, so the others go on
		lose, mend func()
	}{
		{"power cut before its turn", "web1: make release", false, func() { lost.PowerCut(t) }, func() { lost.Start(t) }},
		{"frozen", "web2: traffic", false, func() { lost.Pause(t) }, func() { lost.Resume(t) }},
		{"packets dropped", "web2: 1 instance", false, func() { lost.Drop(t) }, func() { lost.Undrop(t) }},
		{"power cut when it is done", "web3: make release", true, func() { lost.PowerCut(t) }, func() { lost.Start(t) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o.write(t, source{version: tt.name[:5]})
			began := time.Now()
			said, code := o.at(t, tt.at, func(*exec.Cmd) { tt.lose() }, "up")
			t.Logf("%v from begin to end", time.Since(began).Round(100*time.Millisecond))
			want := fail.ExitRolledBack
			if tt.done {
				want, serves = fail.ExitDone, tt.name[:5]
			}
			if code != want || !strings.Contains(said, "web2") || !strings.Contains(said, "fairlead heal --env production") {
				t.Errorf("exit code %d:\n%s", code, said)
			}
			for _, name := range []string{"web1", "web3"} {
				if got := version(f, f.Host(name)); got != serves {
					t.Errorf("%s serves %s", name, got)
				}
			}
			tt.mend()
			o.heals(t)
			all(t, f, serves)
		})
	}
}

// heals runs `fairlead heal` until it has healed: a host that was started again does not answer at once.
func (o *operator) heals(t *testing.T) {
	t.Helper()
	began := time.Now()
	for {
		out, code := o.run(t, "heal")
		if code == 0 {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
	}
}

// What is wrong with a host before anything began: where hosts may be missing the others go on, where its disk is full nothing is changed on any,
// and one that is slow is waited for.
func TestHostIsUnwell(t *testing.T) {
	f, o := inService(t, "  fleet: {max_failures: 1, batch: 100%}")
	unwell := f.Host("web2")

	unwell.LinkDown(t)
	o.write(t, source{version: "v1"})
	if out := o.must(t, "up"); !strings.Contains(out, "web2") {
		t.Errorf("nobody says what of web2:\n%s", out)
	}
	unwell.LinkUp(t)
	for name, want := range map[string]string{"web1": "v1", "web2": "v0", "web3": "v1"} {
		if got := version(f, f.Host(name)); got != want {
			t.Errorf("%s serves %s, want %s", name, got, want)
		}
	}
	if out, code := o.run(t, "heal"); code != fail.ExitFailed || !strings.Contains(out, "fairlead up --env production") {
		t.Errorf("it has nothing to be healed with: exit code %d\n%s", code, out)
	}
	o.must(t, "up")
	all(t, f, "v1")

	unwell.FillDisk(t)
	o.write(t, source{version: "v2"})
	if out, code := o.run(t, "up"); code == 0 || !strings.Contains(out, "web2") || !strings.Contains(out, "no space left") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	all(t, f, "v1")
	unwell.FreeDisk(t)
	o.must(t, "up")
	all(t, f, "v2")

	config, err := os.ReadFile(o.ssh)
	if err != nil {
		t.Fatal(err)
	}
	o.ssh = filepath.Join(t.TempDir(), "ssh_config")
	rig.Write(t, o.ssh, "ConnectTimeout 30\n"+string(config)) // the first value counts
	unwell.Slow(t, 200*time.Millisecond, 0.05)
	o.write(t, source{version: "v3"})
	began := time.Now()
	o.must(t, "up")
	t.Logf("with a host 200 ms away that loses 5 %%: %v", time.Since(began).Round(100*time.Millisecond))
	unwell.Fast(t)
	all(t, f, "v3")
}

// The command line dies in the middle: the hosts stay as they are, nobody else comes between, and whoever comes next goes on.
func TestLeaderDies(t *testing.T) {
	f, o := inService(t, "")
	o.write(t, source{version: "v1"})
	if _, code := o.at(t, "web2: make release", func(cmd *exec.Cmd) { cmd.Process.Kill() }, "up"); code != -1 {
		t.Errorf("exit code %d", code)
	}
	if out, code := o.run(t, "up"); code != fail.ExitFailed || !strings.Contains(out, "under way") && !strings.Contains(out, "half way") {
		t.Errorf("another one came between: exit code %d\n%s", code, out)
	}
	o.leads(t, "resume")
	all(t, f, "v1")

	o.write(t, source{version: "v2"})
	if _, code := o.at(t, "web3: make release", func(cmd *exec.Cmd) { cmd.Process.Kill() }, "up"); code != -1 {
		t.Errorf("exit code %d", code)
	}
	if out, code := o.leads(t, "abort"); code != fail.ExitRolledBack {
		t.Errorf("exit code %d\n%s", code, out)
	}
	all(t, f, "v1")
	if out, code := o.run(t, "resume"); code != fail.ExitFailed || !strings.Contains(out, "half way") {
		t.Errorf("there was nothing to resume: exit code %d\n%s", code, out)
	}
	o.must(t, "rollback")
	all(t, f, "v0")
}

// leads runs a command as soon as the one who led before counts as gone.
func (o *operator) leads(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	began := time.Now()
	for {
		out, code = o.run(t, args...)
		if code != fail.ExitFailed {
			return out, code
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
	}
}
