// Package badinput holds the promise that nothing bad which a user, a program or a machine does to a deploy reaches the
// clients: the old release serves on, and the error says what happened and what to type.
package badinput

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// good is a service that behaves, with times that do not make a test wait.
const good = `service: NAME
run:
  env: {MODE: good}
  startup_timeout: 20s
  probes: {ready: {http: /ready, interval: 500ms}}
  stop: {drain: 2s, timeout: 1s}
route: {listen: LISTEN}
release: {watch: 100ms}
`

// service is a folder of source whose release 1 serves on a machine.
type service struct {
	*rig.Machine
	name, dir, url string
	text           string // of the fairlead.yaml that is good
}

// folder lays the program out under a name, with a fairlead.yaml that is good but not yet deployed.
func folder(t *testing.T, m *rig.Machine, name string) *service {
	t.Helper()
	listen := rig.Free(t)
	s := &service{Machine: m, name: name, dir: t.TempDir(), url: "http://" + listen}
	s.text = strings.NewReplacer("NAME", name, "LISTEN", listen).Replace(good)
	src, err := os.ReadFile(filepath.Join("testdata", "program", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "main.go", string(src))
	s.write(t, "go.mod", "module example.com/"+name+"\n\ngo 1.26\n")
	s.write(t, "fairlead.yaml", s.text)
	return s
}

// serving is folder with release 1 deployed. Its remove is to be deferred.
func serving(t *testing.T, m *rig.Machine, name string) *service {
	t.Helper()
	s := folder(t, m, name)
	m.Up(t, s.dir)
	s.answers(t, 1)
	return s
}

// remove takes the service off the machine, with all of its processes. It is deferred and not a cleanup because a test's
// context, with which commands run, has ended when cleanups begin.
func (s *service) remove(t *testing.T) {
	t.Helper()
	if _, stderr, code := s.Run(t, "rm", s.name, "--yes"); code != 0 {
		t.Errorf("fairlead rm %s: exit code %d\n%s", s.name, code, stderr)
	}
	s.only(t, 0)
}

func (s *service) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// spec replaces parts of the good fairlead.yaml: old, new, old, new. A part that is not there is an error of the test.
func (s *service) spec(t *testing.T, oldnew ...string) {
	t.Helper()
	text := s.text
	for pair := range slices.Chunk(oldnew, 2) {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("there is no %q in\n%s", pair[0], text)
		}
		text = strings.Replace(text, pair[0], pair[1], 1)
	}
	s.write(t, "fairlead.yaml", text)
}

// mode makes the next release a bad one, with further lines under run.
func (s *service) mode(t *testing.T, mode string, run ...string) {
	t.Helper()
	s.spec(t, "  env: {MODE: good}\n", "  env: {MODE: "+mode+"}\n"+strings.Join(run, ""))
}

// answers checks through the public address which release serves.
func (s *service) answers(t *testing.T, release int) {
	t.Helper()
	body, err := rig.Get(t, s.url)
	if want := fmt.Sprintf("release %d ", release); err != nil || !strings.HasPrefix(body, want) {
		t.Errorf("%s answers %q, %v; want %q", s.url, body, err, want)
	}
}

// outcome is how an up ended, from its JSON.
type outcome struct {
	code    int
	err     *fail.Error // nil where it worked
	receipt *rig.Receipt
	events  []rig.Event
}

func outcomeOf(events []rig.Event, code int) outcome {
	o := outcome{code: code, events: events}
	for _, e := range events {
		if e.Error != nil {
			o.err = e.Error
		}
		if e.Receipt != nil {
			o.receipt = e.Receipt
		}
	}
	return o
}

// up deploys the folder while clients send requests, none of which may fail.
func (s *service) up(t *testing.T, args ...string) outcome {
	t.Helper()
	load := rig.Load{URL: s.url, Clients: 1, Most: 5000}.Start(t)
	o := outcomeOf(s.Events(t, append([]string{"up", s.dir}, args...)...))
	noneFailed(t, load)
	return o
}

func noneFailed(t *testing.T, load *rig.Traffic) {
	t.Helper()
	if c := load.Stop(); c.Failed != 0 || c.Requests == 0 {
		t.Errorf("%d of %d requests failed: %s", c.Failed, c.Requests, c.First)
	}
}

// refusal is what an up must say that does not put its release in service.
type refusal struct {
	code  int
	kind  fail.Kind
	says  []string // all of them in the sentence
	lines []string // each within some line of the log or of the compiler
	hint  string   // within the hint; "-" where the sentence itself says what to type
}

// refuses deploys something bad and checks everything that this suite promises of it.
func (s *service) refuses(t *testing.T, want refusal, args ...string) outcome {
	t.Helper()
	s.answers(t, 1)
	o := s.up(t, args...)
	want.check(t, o)
	s.unharmed(t)
	return o
}

// unharmed checks that release 1 serves and that nothing else of the service runs.
func (s *service) unharmed(t *testing.T) {
	t.Helper()
	s.answers(t, 1)
	s.only(t, 1)
}

func (want refusal) check(t *testing.T, o outcome) {
	t.Helper()
	if o.code != want.code {
		t.Errorf("exit code %d, want %d", o.code, want.code)
	}
	if o.err == nil {
		t.Fatalf("no error in the JSON; the last event is %+v", last(o.events))
	}
	if o.err.Kind != want.kind {
		t.Errorf("kind %q, want %q", o.err.Kind, want.kind)
	}
	text := o.err.Error()
	if strings.Contains(text, "\n") || strings.HasSuffix(strings.TrimSpace(text), ":") || len(text) > 400 {
		t.Errorf("this is not one clear sentence: %q", text)
	}
	for _, w := range want.says {
		if !strings.Contains(text, w) {
			t.Errorf("the error does not say %q: %s", w, text)
		}
	}
	for _, w := range want.lines {
		if !slices.ContainsFunc(o.err.Lines, func(l string) bool { return strings.Contains(l, w) }) {
			t.Errorf("no line holds %q:\n%s", w, strings.Join(o.err.Lines, "\n"))
		}
	}
	if want.hint != "-" && (o.err.Hint == "" || !strings.Contains(o.err.Hint, want.hint)) {
		t.Errorf("hint %q, want one with %q; the error is: %s", o.err.Hint, want.hint, text)
	}
}

func last(events []rig.Event) rig.Event {
	if len(events) == 0 {
		return rig.Event{}
	}
	return events[len(events)-1]
}

// status is the service's part of `fairlead status --json`.
func (s *service) status(t *testing.T) api.Service {
	t.Helper()
	out, stderr, code := s.Run(t, "status", s.name, "--json")
	var st api.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 || len(st.Services) != 1 {
		t.Fatalf("fairlead status %s --json: exit code %d, %v\n%s%s", s.name, code, err, out, stderr)
	}
	return st.Services[0]
}

// only checks that no process of another release lives: by what the machine says, and by what the kernel says. Release 0
// is that of a service which is gone.
func (s *service) only(t *testing.T, release int) {
	t.Helper()
	if release != 0 {
		for _, i := range s.status(t).Instances {
			if i.Release != release {
				t.Errorf("instance %d of release %d is still there, %s, pid %d", i.Number, i.Release, i.State, i.Process.PID)
			}
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe") // empty where there is no /proc
	if err != nil {
		t.Fatal(err)
	}
	all := filepath.Join(s.Dir, "state", "services", s.name+"@default", "releases")
	for _, l := range links {
		exe, err := os.Readlink(l)
		if err != nil {
			continue // it ended meanwhile, or belongs to somebody else
		}
		if rel, err := filepath.Rel(all, exe); err == nil && filepath.IsLocal(rel) && !strings.HasPrefix(rel, fmt.Sprintf("%d/", release)) {
			t.Errorf("%s runs %s: a process of another release was left behind", filepath.Dir(l), exe)
		}
	}
}

// logs returns the service's records as they are printed for people.
func (s *service) logs(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := s.Run(t, append([]string{"logs", s.name}, args...)...)
	if code != 0 {
		t.Fatalf("fairlead logs %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}
