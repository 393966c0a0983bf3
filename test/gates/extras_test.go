package gates_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

const exitPaused = 4

// see returns which release answers a request with a header.
func (w *world) see(t *testing.T, header, value string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(header, value)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.Header.Get("X-Release")
}

// whole writes a fairlead.yaml that the short form of newWorld has no room for.
func (w *world) whole(t *testing.T, text string) {
	t.Helper()
	rig.Spec(t, w.dir, "service: canary\n"+text)
}

const (
	running = "run: {instances: 2, limits: {memory: 256MiB}, stop: {drain: 5s}, env: {MIGRATE: %q, SMOKE: %q, FAIL: %q}}\n"
	hooks   = "build: {main: ., programs: {migrate: ./migrate}}\n" + running + "release: {watch: 100ms, hooks: {before: [migrate, up], after: [migrate, clean]}}\n"
)

// A release that nobody's request reaches can be seen by who asks for it; in a pipe nobody waits for the person who has to say yes.
func TestPreviewAndLeaving(t *testing.T) {
	w := newWorld(t)
	w.whole(t, fmt.Sprintf(running, "", "200", "0")+"route: {preview: {header: \"X-Preview: yes\"}}\nrelease: {watch: 100ms, gates: [{approve: before}]}\n")
	up := w.background(t, "up", w.dir)
	m := ended(t, up)
	if m.code != exitPaused || !strings.Contains(m.why(), "waits for approval") {
		t.Fatalf("up in a pipe ends with %d: %s", m.code, m.why())
	}
	s := w.status(t)
	if s.Rollout == nil {
		t.Fatal("the rollout did not go on waiting")
	}
	newer := fmt.Sprint(s.Rollout.To)
	if got := w.see(t, "X-Preview", "yes"); got != newer {
		t.Errorf("the preview shows release %s, not %s", got, newer)
	}
	for range 20 {
		if got := w.see(t, "X-Preview", "no"); got == newer {
			t.Fatal("a client saw what was not approved")
		}
	}
	watch := w.background(t, "watch", "canary")
	w.order(t, "approve", "--reason", "seen in the preview")
	if m := ended(t, watch); m.code != exitDone {
		t.Errorf("watch ends with %d: %s", m.code, m.why())
	}
	if got := w.see(t, "X-Preview", "no"); got != newer {
		t.Errorf("release %s serves", got)
	}
}

// Copies of requests show what a release would answer before a client gets any of it.
func TestDarkLaunch(t *testing.T) {
	w := newWorld(t)
	load := w.load(t)
	release := "release: {watch: 100ms, mirror: {for: 3s}, evidence: {requests: 50}, gates: [{check: \"differs <= 1%%\"}]}\n"
	w.whole(t, fmt.Sprintf(running+release, "", "200", "0.3"))
	m := ended(t, w.begin(t))
	if m.code != exitFailed || !strings.Contains(m.why(), "answered with another status than the old release's") {
		t.Errorf("a release that fails its copies ends with %d: %s", m.code, m.why())
	}
	w.serves(t, 1, nil)
	w.whole(t, fmt.Sprintf(running+release, "", "200", "0"))
	if m := ended(t, w.begin(t)); m.code != exitDone {
		t.Errorf("a good one ends with %d: %s", m.code, m.why())
	}
	lost(t, load)
}

// migrations is what the hooks noted.
func (w *world) migrations(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.Dir, "state", "services", "canary@default", "data", "migrations"))
	if err != nil || len(found) == 0 {
		return ""
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Hooks run once for a release, whatever happens to the agent meanwhile; one that fails stops the deploy.
func TestHooks(t *testing.T) {
	w := newWorld(t)
	w.whole(t, fmt.Sprintf(hooks, "fail", "200", "0"))
	m := ended(t, w.begin(t))
	if m.code != exitFailed || !strings.Contains(m.why(), "hooks.before of release 2 failed") {
		t.Fatalf("a migration that fails ends with %d: %s", m.code, m.why())
	}
	lines := ""
	for _, e := range m.events {
		if e.Error != nil {
			lines = strings.Join(e.Error.Lines, "\n")
		}
	}
	if !strings.Contains(lines, "column price exists already") {
		t.Errorf("the error has not what the migration said: %q", lines)
	}
	if out, _, _ := w.Run(t, "logs", "canary", "--release", "2"); !has(out, "migrate up for release 2", "column price exists already") {
		t.Errorf("the log of release 2:\n%s", out)
	}
	w.serves(t, 1, nil)

	w.whole(t, fmt.Sprintf(hooks, "", "200", "0"))
	if m := ended(t, w.begin(t)); m.code != exitDone {
		t.Fatalf("a good one ends with %d: %s", m.code, m.why())
	}

	w.whole(t, fmt.Sprintf(hooks, "hang", "200", "0"))
	up := w.begin(t)
	rig.Eventually(t, patience, "the third release's migration", func() bool { return strings.Contains(w.migrations(t), "4 [up]") })
	if err := syscall.Kill(w.PID(t, "agent"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, patience, "an agent that goes on", func() bool {
		_, _, code := w.Run(t, "abort", "canary")
		return code == exitDone
	})
	if m := ended(t, up); m.code == exitDone || !strings.Contains(m.why(), "release 3 serves as before") {
		t.Errorf("aborted in the middle of a migration: %d: %s", m.code, m.why())
	}
	rig.Eventually(t, patience, "the end of the migration", func() bool {
		out, _, _ := w.Run(t, "logs", "canary", "--release", "4")
		return strings.Contains(out, "hooks.before: it was ended")
	})
	w.serves(t, 3, nil)
	if got := w.migrations(t); strings.Count(got, "3 [up]") != 1 || strings.Count(got, "3 [clean]") != 1 || strings.Count(got, "4 [up]") != 1 {
		t.Errorf("the hooks ran:\n%s", got)
	}
}

// A command of the service's own asks each new instance before it gets traffic.
func TestExecGate(t *testing.T) {
	w := newWorld(t)
	gate := "release: {watch: 100ms, gates: [{exec: [sh, -c, 'test \"$FAIRLEAD_RELEASE\" = 2 && echo no table >&2 && exit 4; test {{.Port}} -gt 0']}]}\n"
	w.whole(t, fmt.Sprintf(running, "", "200", "0")+gate)
	if m := ended(t, w.begin(t)); m.code != exitFailed || !has(m.why(), "instance 1: sh: exit status 4", "no table") {
		t.Errorf("exit code %d: %s", m.code, m.why())
	}
	if m := ended(t, w.begin(t)); m.code != exitDone {
		t.Errorf("exit code %d: %s", m.code, m.why())
	}
}

// Each rehearsal is noticed by the gate that is for it, and leaves nothing behind; without such a gate it fails.
func TestDrills(t *testing.T) {
	w := newWorld(t)
	limits := "run: {instances: 2, limits: {memory: 256MiB, cpu: 0.5}, stop: {drain: 5s}, startup_timeout: 20s}\n"
	w.whole(t, limits+"release: {watch: 100ms, evidence: {requests: 30}}\n")
	was := w.Up(t, w.dir)
	load := w.load(t)
	if events, code := w.Events(t, "drill", "errors", "canary", "--hit", "50", "--share", "30", "--for", "2s", "--yes"); code != exitFailed || events[len(events)-1].Error == nil ||
		!has(events[len(events)-1].Error.Error(), "no gate noticed it within 2s") {
		t.Errorf("a service without gates: exit code %d, %+v", code, events[len(events)-1])
	}
	w.whole(t, limits+"release: {watch: 100ms, evidence: {requests: 30, inconclusive: promote, wait: 5s}, gates: [{compare: [errors, latency]}, {check: \"memory <= 50%\"}, {check: \"cpu <= 60%\"}]}\n")
	was = w.Up(t, w.dir)
	for what, c := range map[string]struct {
		args []string
		by   string
	}{
		"errors":  {[]string{"--hit", "50", "--share", "30"}, "compare"},
		"latency": {[]string{"--delay", "400ms", "--share", "30"}, "compare"},
		"crash":   {[]string{"--share", "20"}, "instances live"},
		"memory":  {[]string{"--memory", "180MiB", "--share", "10"}, "memory"},
		"cpu":     {[]string{"--cpu", "0.5", "--share", "10"}, "cpu"},
		"switch":  {[]string{"--for", "1s"}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			events, code := w.Events(t, append([]string{"drill", what, "canary", "--yes"}, c.args...)...)
			e := events[len(events)-1]
			r := e.Receipt
			if code != exitDone || r == nil || r.Outcome != "rolled-back" || r.Recovered > recoverWithin {
				t.Fatalf("exit code %d: %+v %v", code, r, e.Error)
			}
			if c.by == "" {
				if r.Failed != 0 || r.Noticed != nil {
					t.Errorf("%+v", r)
				}
			} else if r.Noticed == nil || !strings.HasPrefix(r.Noticed.By, c.by) {
				t.Errorf("noticed by %+v, not by %s", r.Noticed, c.by)
			} else {
				t.Logf("noticed after %s: %s", r.Noticed.Detected.Round(time.Millisecond), r.Noticed.Reason)
			}
			w.serves(t, int(was.To), nil)
		})
	}
	c := load.Stop()
	t.Logf("%d of %d requests met what was rehearsed", c.Failed, c.Requests)
	for _, d := range []string{"--hit 0", "--status 200", "--hit 101"} {
		if _, stderr, code := w.Run(t, append([]string{"drill", "errors", "canary", "--yes"}, strings.Fields(d)...)...); code != 2 || !strings.Contains(stderr, "can be rehearsed") {
			t.Errorf("%s: exit code %d\n%s", d, code, stderr)
		}
	}
}

// Where clients are few, requests of fairlead's own make what a gate needs to know.
func TestTopUp(t *testing.T) {
	w := newWorld(t)
	text := "release: {strategy: canary, steps: [50%%], watch: 200ms, evidence: {requests: 40, wait: 20s, inconclusive: rollback%s}, gates: [{check: \"errors <= 5%%\"}]}\n"
	w.whole(t, fmt.Sprintf(running+text, "", "200", "0", ", probe: {http: /, rate: 50}"))
	m := ended(t, w.begin(t))
	if r := m.receipt(); m.code != exitDone || r == nil || r.Requests < 80 {
		t.Errorf("without a client: exit code %d, %s, %+v", m.code, m.why(), m.receipt())
	}
	w.whole(t, fmt.Sprintf(running+text, "", "200", "0.5", ", probe: {http: /, rate: 50}"))
	if m := ended(t, w.begin(t)); m.code != exitRolledBack {
		t.Errorf("a bad one without a client: exit code %d, %s", m.code, m.why())
	}
}

// A service's own rules are in force while it serves.
func TestServiceRules(t *testing.T) {
	w := newWorld(t)
	rules := "groups:\n- name: shop\n  rules:\n  - {alert: NobodyBuys, expr: vector(1), labels: {severity: page}}\n"
	if err := os.WriteFile(filepath.Join(w.dir, "rules.yaml"), []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	w.whole(t, "alerts: {rules: [rules.yaml]}\nrelease: {watch: 100ms}\n")
	w.Up(t, w.dir)
	rig.Eventually(t, patience, "the alert of the service's own rule", func() bool {
		out, _, _ := w.Run(t, "alerts")
		return strings.Contains(out, "NobodyBuys")
	})
	w.whole(t, "release: {watch: 100ms}\n")
	w.Up(t, w.dir)
	rig.Eventually(t, patience, "its end with the release", func() bool {
		out, _, _ := w.Run(t, "alerts")
		return !strings.Contains(out, "NobodyBuys")
	})
	if err := os.WriteFile(filepath.Join(w.dir, "rules.yaml"), []byte("groups: [{name: a, rules: [{alert: X, expr: 'sum('}]}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.whole(t, "alerts: {rules: [rules.yaml]}\n")
	if _, stderr, code := w.Run(t, "up", w.dir); code != 2 || !strings.Contains(stderr, "rules.yaml:1:") {
		t.Errorf("a rule that is none: exit code %d\n%s", code, stderr)
	}
}
