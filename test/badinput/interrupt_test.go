package badinput

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// started is an up that runs on while the test does something to it.
type started struct {
	cmd    *exec.Cmd
	events chan rig.Event
	seen   []rig.Event
}

// start begins an up; its end is waited for by end, or forced when the test ends.
func (s *service) start(t *testing.T) *started {
	t.Helper()
	u := &started{cmd: exec.CommandContext(t.Context(), rig.CLI(t), "up", s.dir, "--json"), events: make(chan rig.Event, 1000)}
	u.cmd.Env = s.Env
	out, err := u.cmd.StdoutPipe()
	if err == nil {
		err = u.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(u.events)
		for in := bufio.NewReader(out); ; {
			line, err := in.ReadBytes('\n')
			var e rig.Event
			if len(line) > 0 && json.Unmarshal(line, &e) == nil {
				u.events <- e
			}
			if err != nil {
				if err != io.EOF {
					t.Log(err) // the process was killed
				}
				return
			}
		}
	}()
	return u
}

// until waits for the step whose text begins so.
func (u *started) until(t *testing.T, step string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case e, ok := <-u.events:
			u.seen = append(u.seen, e)
			if !ok {
				t.Fatalf("the up ended before the step %q: %+v", step, u.seen)
			}
			if e.Type == "step" && strings.HasPrefix(e.Text, step) {
				return
			}
		case <-late:
			t.Fatalf("no step %q within a minute: %+v", step, u.seen)
		}
	}
}

// end waits for the process and returns how it ended; a signal gives -1.
func (u *started) end(t *testing.T) outcome {
	t.Helper()
	for e := range u.events {
		u.seen = append(u.seen, e)
	}
	if err := u.cmd.Wait(); err != nil && u.cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcomeOf(u.seen, u.cmd.ProcessState.ExitCode())
}

func (u *started) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := u.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// TestInterrupted does to an up what people and machines do in its middle.
func TestInterrupted(t *testing.T) {
	m := rig.NewMachine(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *service)
	}{
		{"ctrl-c-while-it-starts", ctrlCStarting},
		{"ctrl-c-while-it-is-watched", ctrlCWatched},
		{"killed", killed},
		{"second-up", secondUp},
		{"both-at-once", bothAtOnce},
		{"port-is-taken", portTaken},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serving(t, m, c.name)
			defer s.remove(t)
			c.run(t, s)
		})
	}
}

var interrupted = refusal{code: 130, kind: fail.Interrupted, says: []string{"release 1 serves as before", "interrupted"}, hint: "-"}

func ctrlCStarting(t *testing.T, s *service) {
	s.mode(t, "unready")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "1 instance of release 2")
	s.answers(t, 1)
	u.signal(t, os.Interrupt)
	interrupted.check(t, u.end(t))
	noneFailed(t, load)
	s.unharmed(t)
}

func ctrlCWatched(t *testing.T, s *service) {
	s.spec(t, "watch: 100ms", "watch: 1m")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "watch release 2")
	s.answers(t, 2) // so traffic has moved, and must be moved back
	u.signal(t, os.Interrupt)
	interrupted.check(t, u.end(t))
	noneFailed(t, load)
	s.unharmed(t)
	if h := s.history(t); h[0].Outcome != "rolled-back" {
		t.Errorf("the history says %q", h[0].Outcome)
	}
}

// killed ends the command line as a closed laptop does: the rollout belongs to the agent, which goes on.
func killed(t *testing.T, s *service) {
	s.spec(t, "watch: 100ms", "watch: 2s")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "watch release 2")
	u.signal(t, syscall.SIGKILL)
	if o := u.end(t); o.code != -1 || o.receipt != nil {
		t.Errorf("it ended with %d and receipt %v; nothing was killed in its middle", o.code, o.receipt)
	}
	if st := s.status(t); st.Rollout == nil || !strings.Contains(st.Rollout.Holder, fmt.Sprintf("pid %d", u.cmd.Process.Pid)) {
		t.Errorf("the status does not show whose rollout is under way: %+v", st.Rollout)
	}
	rig.Eventually(t, 20*time.Second, "the rollout ends by itself", func() bool { return s.history(t)[0].Outcome != "running" })
	noneFailed(t, load)
	h := s.history(t)[0]
	if h.Outcome != "done" || h.Receipt == nil || h.Receipt.Failed != 0 {
		t.Errorf("the history says %q, receipt %+v", h.Outcome, h.Receipt)
	}
	s.answers(t, 2)
	s.only(t, 2)
}

// history is `fairlead history --json`, newest first.
func (s *service) history(t *testing.T) []api.Entry {
	t.Helper()
	out, stderr, code := s.Run(t, "history", s.name, "--json")
	var h []api.Entry
	if err := json.Unmarshal([]byte(out), &h); err != nil || code != 0 || len(h) == 0 {
		t.Fatalf("fairlead history: exit code %d, %v\n%s%s", code, err, out, stderr)
	}
	return h
}

// secondUp is refused while the first is under way, and leaves nothing of itself behind: least of all its secrets.
func secondUp(t *testing.T, s *service) {
	s.spec(t, "watch: 100ms", "watch: 6s")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	u := s.start(t)
	u.until(t, "watch release 2")
	other := *s
	other.Machine = withSecrets(s.Machine)
	other.mode(t, "good", "  secrets: {PLAIN: env://PLAIN}\n")
	o := outcomeOf(other.Events(t, "up", s.dir))
	refusal{code: 1, kind: fail.Busy, says: []string{"under way", fmt.Sprintf("pid %d", u.cmd.Process.Pid)}, hint: "fairlead status second-up"}.check(t, o)
	// Everything else that would move the service is refused in the same way.
	for _, args := range [][]string{{"restart", s.name}, {"stop", s.name}, {"rm", s.name, "--yes"}} {
		events, code := s.Events(t, args...)
		if o := outcomeOf(events, code); code != 1 || o.err == nil || o.err.Kind != fail.Busy || o.err.Hint == "" {
			t.Errorf("fairlead %s: exit code %d, %+v", args[0], code, o.err)
		}
	}
	if o := u.end(t); o.code != 0 {
		t.Errorf("the first up: exit code %d, %v", o.code, o.err)
	}
	noneFailed(t, load)
	s.answers(t, 2)
	s.spec(t) // without secrets
	if o := s.up(t); o.code != 0 {
		t.Fatalf("exit code %d, %v", o.code, o.err)
	}
	if body, err := rig.Get(t, s.url); err != nil || !strings.Contains(body, "secret=false") {
		t.Errorf("a release that names no secret has that of an up that was refused: %q, %v", body, err)
	}
}

// bothAtOnce starts two ups at the same instant: one of them deploys, the other says why not.
func bothAtOnce(t *testing.T, s *service) {
	s.spec(t, "watch: 100ms", "watch: 5s")
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	a, b := s.start(t), s.start(t)
	x, y := a.end(t), b.end(t)
	noneFailed(t, load)
	if x.code != 0 {
		x, y = y, x
	}
	if x.code != 0 || y.code != 1 || y.err == nil || y.err.Kind != fail.Busy {
		t.Fatalf("exit codes %d and %d, errors %v and %v", x.code, y.code, x.err, y.err)
	}
	s.answers(t, 2)
	s.only(t, 2)
}

// portTaken wants an address that another process holds: this one.
func portTaken(t *testing.T, s *service) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	s.spec(t, "listen: "+strings.TrimPrefix(s.url, "http://"), `listen: "`+addr+`"`)
	o := s.refuses(t, refusal{code: 5, kind: fail.Preflight, says: []string{addr, fmt.Sprintf("process %d", os.Getpid()), filepath.Base(self)}, hint: "route.listen"})
	_, stderr, _ := s.Run(t, "up", s.dir)
	if n := strings.Count(stderr, "is held by process"); n != 1 {
		t.Errorf("people are told %d times:\n%s", n, stderr)
	}
	for _, e := range o.events {
		if e.Type == "build" {
			t.Error("it was built before the port was looked at")
		}
	}
}
