package badinput

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestReleases deploys one bad program after the other over a good one. Each has a service of its own on one machine.
func TestReleases(t *testing.T) {
	m := rig.NewMachine(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *service)
	}{
		{"does-not-compile", doesNotCompile},
		{"not-static", notStatic},
		{"exits", exits},
		{"never-ready", neverReady},
		{"listens-elsewhere", listensElsewhere},
		{"eats-memory", eatsMemory},
		{"eats-memory-later", eatsMemoryLater},
		{"panics-later", panicsLater},
		{"ignores-term", ignoresTerm},
		{"floods-log", floodsLog},
		{"prints-binary", printsBinary},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serving(t, m, c.name)
			defer s.remove(t)
			c.run(t, s)
		})
	}
}

func doesNotCompile(t *testing.T, s *service) {
	src, err := os.ReadFile(filepath.Join(s.dir, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "main.go", string(src)+"\nfunc broken() int { return undefinedThing }\n")
	o := s.refuses(t, refusal{code: 1, kind: fail.Build, says: []string{"example.com/does-not-compile does not compile"},
		lines: []string{"undefined: undefinedThing"}, hint: "-"})
	if o.receipt != nil {
		t.Errorf("a receipt without a rollout: %+v", o.receipt)
	}
	// A place that an editor can jump to.
	if n := strings.Count(string(src), "\n") + 2; !strings.Contains(strings.Join(o.err.Lines, "\n"), "main.go:") {
		t.Errorf("no main.go:%d in %q", n, o.err.Lines)
	}
	_, stderr, code := s.Run(t, "up", s.dir)
	if code != 1 || !strings.Contains(stderr, "\n  | ") || !strings.Contains(stderr, "undefined: undefinedThing") {
		t.Errorf("for people: exit code %d\n%s", code, stderr)
	}
	if s.status(t).Rollout != nil {
		t.Error("a rollout is under way though nothing was built")
	}
}

func notStatic(t *testing.T, s *service) {
	s.spec(t, "run:\n", "build: {flags: [-buildmode=pie]}\nrun:\n")
	s.refuses(t, refusal{code: 1, kind: fail.Build, says: []string{"is not static"}, hint: "remove -buildmode=pie"})
}

func exits(t *testing.T, s *service) {
	s.mode(t, "exit")
	o := s.refuses(t, refusal{code: 1, kind: fail.Unhealthy, says: []string{"release 1 serves as before", "ended with code 7"},
		lines: []string{"cannot open the ledger: no such file"}, hint: "fairlead logs exits --release 2"})
	if o.receipt == nil || o.receipt.Outcome != "failed" || o.receipt.Failed != 0 {
		t.Errorf("receipt %+v", o.receipt)
	}
	ordered(t, o.err.Lines, "cannot open the ledger", "ended with code 7")
	// The hint must be a command that works.
	if out := s.logs(t, "--release", "2"); !strings.Contains(out, "cannot open the ledger") {
		t.Errorf("what the hint shows lacks the program's own words:\n%s", out)
	}
}

// ordered checks that the program's last words stand before what is said about its end: a person reads top-down.
func ordered(t *testing.T, lines []string, first, second string) {
	t.Helper()
	text := strings.Join(lines, "\n")
	if i, j := strings.Index(text, first), strings.Index(text, second); i < 0 || j < 0 || i > j {
		t.Errorf("%q does not stand before %q:\n%s", first, second, text)
	}
}

func neverReady(t *testing.T, s *service) {
	s.spec(t, "MODE: good", "MODE: unready", "startup_timeout: 20s", "startup_timeout: 2s")
	s.refuses(t, refusal{code: 1, kind: fail.Unhealthy,
		says:  []string{"was not ready within 2s", "GET /ready answered 503"}, // what was asked and what came back
		lines: []string{"starting in mode unready"}, hint: "fairlead logs never-ready --release 2"})
}

func listensElsewhere(t *testing.T, s *service) {
	addr := rig.Free(t)
	s.spec(t, "MODE: good", `MODE: elsewhere, ELSEWHERE: "`+addr+`"`, "startup_timeout: 20s", "startup_timeout: 2s")
	o := s.refuses(t, refusal{code: 1, kind: fail.Unhealthy, says: []string{"was not ready within 2s", "refused"}, hint: "it listens on " + addr})
	if !strings.Contains(o.err.Hint, "PORT") {
		t.Errorf("the hint does not say what to do: %s", o.err.Hint)
	}
}

const memory = "  limits: {memory: 64MiB}\n"

func eatsMemory(t *testing.T, s *service) {
	limitsHold(t, s)
	s.mode(t, "eat", memory)
	s.refuses(t, refusal{code: 1, kind: fail.Unhealthy, says: []string{"ended by the kernel", "memory limit of 64MiB"},
		lines: []string{"starting in mode eat"}, hint: "fairlead"})
}

// limitsHold leaves a test out where the kernel cannot be asked to hold a limit: without root there are no control groups.
func limitsHold(t *testing.T, s *service) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("holding a memory limit needs root")
	}
	s.mode(t, "good", memory)
	out, _, _ := s.Run(t, "check", s.dir)
	if strings.Contains(out, "cannot be held") {
		rig.Missing(t, "the kernel cannot hold a memory limit here:\n%s", out)
	}
}

func eatsMemoryLater(t *testing.T, s *service) {
	limitsHold(t, s)
	s.spec(t, "MODE: good}\n", "MODE: eat-later}\n"+memory, "watch: 100ms", "watch: 20s")
	s.refuses(t, refusal{code: 3, kind: fail.RolledBack,
		says:  []string{"release 1 serves as before", "memory limit of 64MiB", "after it had got traffic"},
		lines: []string{"memory limit of 64MiB"}, hint: "fairlead logs eats-memory-later --release 2"})
}

func panicsLater(t *testing.T, s *service) {
	s.spec(t, "MODE: good", "MODE: panic-later", "watch: 100ms", "watch: 20s")
	o := s.refuses(t, refusal{code: 3, kind: fail.RolledBack, says: []string{"release 1 serves as before", "ended with code 2"},
		lines: []string{"panic: the ledger is closed", "main.inner"}, hint: "fairlead logs panics-later --release 2"})
	if o.receipt == nil || o.receipt.Outcome != "rolled-back" {
		t.Errorf("receipt %+v", o.receipt)
	}
	traces := 0 // more than one where requests came again before the machine went back
	for _, r := range s.records(t, "--release", "2") {
		if strings.Contains(r.Message, "panic: the ledger is closed") {
			traces++
			for _, frame := range []string{"main.inner(", "main.outer(", "created by time.goFunc"} {
				if !strings.Contains(r.Message, frame) {
					t.Errorf("the trace was torn apart, %s is missing:\n%s", frame, r.Message)
				}
			}
			if r.Level != "fatal" {
				t.Errorf("a panic is %q, want fatal", r.Level)
			}
		}
	}
	if traces == 0 {
		t.Error("no record holds the panic")
	}
	// For people: each line of the trace stands behind the bar, or it looks like fairlead's own words.
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	_, stderr, code := s.Run(t, "up", s.dir)
	noneFailed(t, load)
	if code != 3 || !strings.Contains(stderr, "main.inner(") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "main.inner(") && !strings.HasPrefix(line, "  | ") {
			t.Errorf("a line of the log has no bar in front: %q", line)
			break
		}
	}
}

// record is a line of `fairlead logs --json`.
type record struct {
	Level, Stream, Message string
	Release                int
}

func (s *service) records(t *testing.T, args ...string) []record {
	t.Helper()
	out := s.logs(t, append(args, "--json")...)
	var all []record
	for line := range strings.Lines(out) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil || !utf8.ValidString(line) {
			t.Fatalf("a log line is no JSON in UTF-8: %v\n%q", err, line)
		}
		all = append(all, r)
	}
	return all
}

func ignoresTerm(t *testing.T, s *service) {
	s.mode(t, "deaf")
	if o := s.up(t); o.code != 0 {
		t.Fatalf("the deaf release was not put in service: %v", o.err)
	}
	s.spec(t)
	begun := time.Now()
	if o := s.up(t); o.code != 0 {
		t.Fatalf("exit code %d, %v", o.code, o.err)
	}
	// Built, started, watched, drained, and one second from the signal to the kill.
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s to be rid of a release whose stop.timeout is 1s", took)
	}
	s.answers(t, 3)
	s.only(t, 3)
	if out := s.logs(t, "--release", "2"); !strings.Contains(out, "killed") || !strings.Contains(out, "TERM") {
		t.Errorf("the log does not say that it was killed:\n%s", out)
	}
}

func floodsLog(t *testing.T, s *service) {
	const size = 4 << 20
	s.mode(t, "flood", "  logs: {size: 4MiB}\n")
	logs := filepath.Join(s.Dir, "state", "logs", s.name+"@default", "2.1")
	most := make(chan int64)
	stop := make(chan struct{})
	go func() { most <- largest(logs, stop) }()
	load := rig.Load{URL: s.url, Clients: 1, Most: 20_000}.Start(t)
	o := outcomeOf(s.Events(t, "up", s.dir))
	if o.code != 0 {
		t.Errorf("exit code %d, %v", o.code, o.err)
	}
	rig.Eventually(t, time.Minute, "all of the flood was taken", func() bool {
		return strings.Contains(s.logs(t, "--release", "2", "--grep", "flood is over"), "flood is over")
	})
	noneFailed(t, load)
	close(stop)
	// One segment more than what is kept may lie there while the oldest is being removed.
	if got := <-most; got > size+size/8+64<<10 {
		t.Errorf("the log took up to %.1f MB of disk, run.logs.size is %.1f MB", float64(got)/1e6, float64(size)/1e6)
	}
	s.answers(t, 2)
	for _, r := range s.records(t, "--release", "2") {
		if r.Stream == "fairlead" && r.Level != "info" {
			t.Errorf("the log says of itself: %s", r.Message)
			break
		}
	}
}

// largest looks how much a folder of logs takes, until stop, and returns the most it saw.
func largest(dir string, stop <-chan struct{}) (most int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var sum int64
		entries, err := os.ReadDir(dir)
		if err != nil {
			entries = nil // it is not there yet
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil { // else it was compressed or removed meanwhile
				sum += fi.Size()
			}
		}
		most = max(most, sum)
		select {
		case <-tick.C:
		case <-stop:
			return most
		}
	}
}

func printsBinary(t *testing.T, s *service) {
	s.mode(t, "binary")
	if o := s.up(t); o.code != 0 {
		t.Fatalf("exit code %d, %v", o.code, o.err)
	}
	s.answers(t, 2)
	rig.Eventually(t, 10*time.Second, "everything was taken", func() bool {
		return strings.Contains(s.logs(t, "--release", "2"), "binary is over")
	})
	s.records(t, "--release", "2") // checks each line
	for _, r := range s.logs(t, "--release", "2") {
		if r == utf8.RuneError || r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			t.Fatalf("%q reaches the reader's terminal, which obeys it", r)
		}
	}
}
