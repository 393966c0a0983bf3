//go:build unix

package machine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/bundle/bundletest"
	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/rollout/rollouttest"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
)

// The test binary is the service, too.
func TestMain(m *testing.M) {
	switch os.Getenv("MODE") {
	case "":
		os.Exit(m.Run())
	case "exit":
		os.Exit(3)
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	addr := "127.0.0.1:" + os.Getenv("PORT")
	if os.Getenv("MODE") == "elsewhere" {
		addr = "127.0.0.1:0"
	}
	go http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, os.Getenv("FAIRLEAD_RELEASE"))
	}))
	<-sig
}

type nothing struct{}

func (nothing) Write(string, []byte) {}
func (nothing) Note(string, string)  {}
func (nothing) Close() error         { return nil }

const listen = "127.0.0.1:18931"

// fresh is a machine with a real supervisor and a real edge, in this process.
func fresh(t *testing.T) (rollouttest.Harness, func(id release.ID, mode string) release.Release) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	sup, err := supervise.New(supervise.Options{Dirs: d, Log: log,
		Record: func(supervise.Instance, supervise.Program, []string) (supervise.Recorder, error) {
			return nothing{}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := home.Listen(d.Sock(home.Supervisor))
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: sup.Handler()}
	go api.Serve(l)
	lock, err := keeper.Hold(d, home.Edge)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e, err := edge.Start(ctx, edge.Options{Dirs: d, Log: log, Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	st, err := edge.OpenStats(d.Stats(), false)
	if err != nil {
		t.Fatal(err)
	}
	m := machine.New(d, st, log)
	running := make(chan struct{})
	go func() {
		m.Run(ctx)
		close(running)
	}()
	t.Cleanup(func() {
		cancel()
		<-running
		e.Shut(time.Second)
		sup.Shutdown()
		api.Close()
		lock.Close()
	})
	digest := artifact(t, d)
	of := func(id release.ID, mode string) release.Release {
		patience := "20s" // a noisy machine is no failure
		if mode == "elsewhere" {
			patience = "2s"
		}
		text := fmt.Sprintf("service: svc\nrun: {env: {MODE: %s}, startup_timeout: %s, stop: {timeout: 1s, drain: 1s}, probes: {ready: {tcp: true, interval: 50ms}}}\n", mode, patience)
		s, err := spec.Parse("test.yaml", []byte(text), dir, "")
		if err != nil {
			t.Fatal(err)
		}
		config, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return release.Release{Service: "svc", Environment: "default", ID: id, Artifact: release.Artifact{Digest: digest, Name: "svc"}, Config: config}
	}
	tail := func(release.ID, int) []string { return []string{"last words"} }
	return rollouttest.Harness{Target: m.Target("svc", "default", listen, tail), Good: []release.Release{of(1, "serve"), of(2, "serve")}, Bad: of(3, "exit")}, of
}

// artifact makes a bundle of this test binary and gives it to the machine.
func artifact(t *testing.T, d home.Dirs) string {
	t.Helper()
	l, b := bundletest.Make(t, nil, "")
	offer, err := depot.NewOffer(t.Context(), l, b.Index)
	if err != nil {
		t.Fatal(err)
	}
	w, err := depot.At(d).Take(t.Context(), offer, bundle.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Open(t.Context(), w.Layer.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := depot.At(d).Put(t.Context(), depot.Parcel{DiffID: w.Layer.DiffID, Form: depot.Gzip, Body: in}); err != nil {
		t.Fatal(err)
	}
	return b.Index.Digest.String()
}

func TestConformance(t *testing.T) {
	rollouttest.Run(t, func(t *testing.T) rollouttest.Harness {
		h, _ := fresh(t)
		return h
	})
}

// The error of a release that does not come up says what a person needs: why, its last words, and what to do.
func TestWhatIsSaidOfABadRelease(t *testing.T) {
	h, of := fresh(t)
	for mode, want := range map[string][2]string{
		"exit":      {"ended 3 times before it was ready; the last time it ended with code 3", "fairlead logs svc"},
		"elsewhere": {"was not ready within 2s", "but its PORT is"},
	} {
		t.Run(mode, func(t *testing.T) {
			r := of(release.ID(10+len(mode)), mode)
			if err := h.Target.Stage(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			err := h.Target.Scale(t.Context(), r.ID, 1)
			f := fail.As(err)
			if f == nil || f.Kind != fail.Unhealthy || !strings.Contains(f.Error(), want[0]) || !strings.Contains(f.Hint, want[1]) || len(f.Lines) == 0 {
				t.Fatalf("%v; hint %q; lines %q", err, f.Hint, f.Lines)
			}
			if err := h.Target.Scale(t.Context(), r.ID, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Requests really go where Route says, and one that is under way while its instance is taken out ends well.
func TestTrafficFollowsTheRoute(t *testing.T) {
	h, _ := fresh(t)
	for _, r := range h.Good {
		if err := h.Target.Stage(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := h.Target.Scale(t.Context(), r.ID, 1); err != nil {
			t.Fatal(err)
		}
		if err := h.Target.Route(t.Context(), rollout.Weights{r.ID: 100}); err != nil {
			t.Fatal(err)
		}
		res, err := http.Get("http://" + listen)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		n, _ := res.Body.Read(b)
		res.Body.Close()
		if string(b[:n]) != r.ID.String() {
			t.Fatalf("release %s answers %q", r.ID, b[:n])
		}
	}
}

// A route's protections are those of the release that most clients see: with it they come, and go.
func TestProtectionsFollowTheTraffic(t *testing.T) {
	h, _ := fresh(t)
	var s spec.Spec
	if err := json.Unmarshal(h.Good[1].Config, &s); err != nil {
		t.Fatal(err)
	}
	s.Route.Allow = []string{"192.0.2.1"}
	var err error
	if h.Good[1].Config, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.Good {
		if err := h.Target.Stage(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := h.Target.Scale(t.Context(), r.ID, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		w    rollout.Weights
		want int
	}{{rollout.Weights{1: 100}, 200}, {rollout.Weights{1: 60, 2: 40}, 200}, {rollout.Weights{1: 40, 2: 60}, 403}, {rollout.Weights{1: 100}, 200}} {
		if err := h.Target.Route(t.Context(), c.w); err != nil {
			t.Fatal(err)
		}
		res, err := http.Get("http://" + listen)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%v: %s", c.w, res.Status)
		}
	}
}
