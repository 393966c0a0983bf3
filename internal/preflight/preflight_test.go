package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// write puts files below a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := passable(t)
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// expect checks that f is of the severity and that its words hold those of want.
func expect(t *testing.T, f Finding, s Severity, want ...string) {
	t.Helper()
	if f.Severity != s {
		t.Errorf("severity %q, want %q: %+v", f.Severity, s, f)
	}
	for _, w := range want {
		if !strings.Contains(f.Found+"|"+f.Need+"|"+f.Fix, w) {
			t.Errorf("%q is not in %+v", w, f)
		}
	}
	if (s == Error || s == Warning) && (f.Need == "" || f.Fix == "") && f.ID != IDUnsupported {
		t.Errorf("says too little: %+v", f)
	}
}

func one(t *testing.T, fs []Finding) Finding {
	t.Helper()
	if len(fs) != 1 {
		t.Fatalf("%d findings: %+v", len(fs), fs)
	}
	return fs[0]
}

func service(t *testing.T) Params {
	return Params{
		Dir:  write(t, map[string]string{"go.mod": "module example.com/shop\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() {}\n"}),
		Spec: &spec.Spec{Service: "shop"},
		Dirs: home.Dirs{State: filepath.Join(passable(t), "state"), Run: filepath.Join(t.TempDir(), "run")},
	}
}

func TestRun(t *testing.T) {
	p := service(t)
	p.Listen = "127.0.0.1:0"
	p.Agent.Version = func(context.Context) (string, bool, error) { return "1", true, nil }
	var sent []Finding
	found, err := Run(t.Context(), p, func(e event.Event) {
		if e.Type != "preflight" || e.Service != "shop" || e.Text == "" {
			t.Errorf("%+v", e)
		}
		sent = append(sent, e.Data.(Finding))
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found, sent) {
		t.Errorf("returned %v\nsent %v", found, sent)
	}
	var ids []string
	for _, f := range found {
		if f.Severity == Error && f.ID != IDMemory && f.ID != IDDisk && f.ID != IDFiles { // those are this machine's matter
			t.Errorf("%+v", f)
		}
		ids = append(ids, f.ID)
	}
	want := []string{IDUnsupported, IDToolchain, IDModule, IDReplace, IDSum, IDDirty, IDTemp, IDState, IDPort, IDAgent, IDClock}
	at := -1
	for _, id := range want {
		i := slices.Index(ids, id)
		if i <= at {
			t.Errorf("%s is at %d, after %d, in %v", id, i, at, ids)
		}
		at = i
	}
}

func TestRunNeedsParams(t *testing.T) {
	if _, err := Run(t.Context(), Params{}, nil); err == nil {
		t.Error("no error without a spec")
	}
	if _, err := Fix(t.Context(), Params{}, nil); err == nil {
		t.Error("no error without a spec")
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if fs, err := Run(ctx, service(t), nil); !errors.Is(err, context.Canceled) || fs != nil {
		t.Errorf("%v, %v", fs, err)
	}
}

func TestRefuses(t *testing.T) {
	fine := []Finding{{ID: IDCPU, Severity: Warning}, {ID: IDPort, Severity: OK}, {ID: IDClock, Severity: Info}}
	if err := Refuses(fine); err != nil {
		t.Errorf("%v", err)
	}
	bad := append(fine, Finding{ID: IDPort, Severity: Error, Found: "taken", Need: "a port", Fix: "type `kill 7`"})
	for range 4 {
		bad = append(bad, Finding{ID: IDTemp, Severity: Error, Found: "full", Fix: "other"})
	}
	err := Refuses(bad)
	if fail.KindOf(err) != fail.Preflight || fail.As(err).Hint != "type `kill 7`" {
		t.Errorf("%#v", err)
	}
	if want := "preflight: port: taken; needs a port; temp: full; temp: full; and 2 more"; err.Error() != want {
		t.Errorf("%q", err)
	}
	if err := Refuses([]Finding{{Severity: Error, Found: "100%d free"}}); !strings.Contains(err.Error(), "100%d free") {
		t.Errorf("%q", err)
	}
}

func TestFix(t *testing.T) {
	p := service(t)
	asked := 0
	p.Agent.Ensure = func(context.Context) error { asked++; return errors.New("no room") }
	find := func(id string) Finding { return Finding{ID: id, Severity: Warning, Fixable: true} }
	done, err := Fix(t.Context(), p, []Finding{find(IDAgent), {ID: IDAgent}, find(IDPort), find(IDState)})
	if len(done) != 1 || done[0].ID != IDState || err == nil || !strings.Contains(err.Error(), "agent: no room") || asked != 1 {
		t.Errorf("done %v, err %v, asked %d", done, err, asked)
	}
	if f := checkState(&run{Params: p}); f.Severity != OK {
		t.Errorf("after the fix: %+v", f)
	}
}

func TestFixFiles(t *testing.T) {
	if _, err := Fix(t.Context(), service(t), []Finding{{ID: IDFiles, Fixable: true}}); err != nil {
		t.Error(err)
	}
}

func TestFindingJSON(t *testing.T) {
	b, err := json.Marshal(Finding{ID: "x", Severity: Error, Found: "a", Need: "b", Fix: "c", Fixable: true})
	if err != nil || string(b) != `{"id":"x","severity":"error","found":"a","need":"b","fix":"c","fixable":true}` {
		t.Errorf("%s %v", b, err)
	}
}

func TestLevels(t *testing.T) {
	for s, want := range map[Severity]event.Level{Error: event.Error, Warning: event.Warn, Info: event.Info, OK: event.Info} {
		if got := (Finding{Severity: s}).level(); got != want {
			t.Errorf("%s: %s", s, got)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{1 << 20: "1 MiB", 3 << 29: "1.5 GiB", 40 << 30: "40 GiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestAgent(t *testing.T) {
	expect(t, judgeAgent("2", "2", true, nil), OK, "version 2")
	expect(t, judgeAgent("2", "", true, nil), OK)
	expect(t, judgeAgent("1", "2", true, nil), Warning, "version 1", "2, as", "fairlead agent upgrade")
	expect(t, judgeAgent("", "2", false, nil), Info, "fairlead agent start")
	expect(t, judgeAgent("", "2", false, errors.New("refused")), Warning, "refused")
	r := &run{}
	if fs := checkAgent(t.Context(), r); fs != nil {
		t.Errorf("nobody to ask: %v", fs)
	}
	r.Agent.Version = func(context.Context) (string, bool, error) { return "", false, nil }
	if one(t, checkAgent(t.Context(), r)).Fixable {
		t.Error("fixable without a way to do it")
	}
	r.Agent.Ensure = func(context.Context) error { return nil }
	if !one(t, checkAgent(t.Context(), r)).Fixable {
		t.Error("not fixable")
	}
}

func TestSupport(t *testing.T) {
	const here = "linux/amd64"
	for _, c := range []struct {
		name string
		set  func(*spec.Spec)
		want string // "" for supported
	}{
		{"nothing", func(*spec.Spec) {}, ""},
		{"all that works", func(s *spec.Spec) {
			s.Release.Strategy, s.Route.TLS, s.Route.Mode = "rolling", "off", "proxy"
			s.Build.Platforms = []string{"linux/arm64", here}
			s.Run.Secrets = map[string]spec.Secret{"A": "env://A", "B": "file:///b"}
		}, ""},
		{"canary", func(s *spec.Spec) {
			s.Release = spec.Release{Strategy: "canary", Steps: make([]spec.Percent, 3), Gates: make([]spec.Gate, 2)}
		}, ""},

		{"kubernetes", func(s *spec.Spec) { s.Target.Kubernetes = &spec.Kubernetes{} }, "target.kubernetes"},
		{"kernel", func(s *spec.Spec) { s.Route.Mode = "kernel" }, ""},
		{"sops", func(s *spec.Spec) { s.Run.Secrets = map[string]spec.Secret{"PW": "sops://f#x"} }, "run.secrets.PW"},
		{"platform", func(s *spec.Spec) { s.Build.Platforms = []string{"linux/arm64"} }, "add linux/amd64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &spec.Spec{}
			c.set(s)
			f := one(t, judgeSupport(s, here))
			if c.want == "" {
				expect(t, f, OK)
			} else {
				expect(t, f, Error, c.want)
			}
		})
	}
	s := &spec.Spec{Route: spec.Route{Mode: "kernel"}, Target: spec.Target{Kubernetes: &spec.Kubernetes{}}}
	if fs := judgeSupport(s, "darwin/arm64"); len(fs) != 2 || fs[1].Severity != Warning || !strings.Contains(fs[1].Found, "route.mode: kernel") {
		t.Errorf("each gets its own finding: %v", fs)
	}
	s.Target = spec.Target{SSH: []string{"web1"}}
	expect(t, one(t, judgeSupport(s, "darwin/arm64")), OK) // the hosts are Linux, whatever this machine is
}

// passable is a folder that the users of services may pass through, which t.TempDir's parent is not.
func passable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}
