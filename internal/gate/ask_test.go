package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/gate"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// instance starts a server that answers as an instance of the new release.
func instance(t *testing.T, number int, h http.HandlerFunc) supervise.Instance {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return supervise.Instance{Number: number, Release: int(newer), State: supervise.Ready, Port: s.Listener.Addr().(*net.TCPAddr).Port}
}

func TestSmoke(t *testing.T) {
	var asked atomic.Int32
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if r.URL.Path == "/elsewhere" {
				t.Error("a redirection is an answer; it is not followed")
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			w.Write([]byte("no database"))
		}
	}
	for status, says := range map[int]string{200: "", 204: "", 302: "", 404: "/ping answers 404 Not Found: no database", 500: "/ping answers 500 Internal Server Error: no database"} {
		asked.Store(0)
		f := &fake{instances: []supervise.Instance{instance(t, 1, answer(200)), instance(t, 2, answer(status))}}
		a := asking(t, f, spec.Gate{HTTP: "/ping"})
		a.verifying()
		got := a.ask(0)
		if says == "" {
			a.wants(got, rollout.Pass, "2 instances answered")
			a.wants(a.ask(0), rollout.Pass) // once they answered they are not asked again
			a.at(0)
			a.wants(a.ask(0), rollout.Pass)
			f.instances = append(f.instances, instance(t, 3, answer(418))) // but one that comes later is
			a.wants(a.ask(0), rollout.Breach, "instance 3: /ping answers 418")
			asked.Add(-1)
		} else {
			a.wants(got, rollout.Breach, "instance 2: "+says)
			if len(got.Lines) == 0 || got.Else != rollout.Back {
				t.Errorf("%+v", got)
			}
		}
		if asked.Load() != 2 {
			t.Errorf("%d: %d questions", status, asked.Load())
		}
	}
}

func TestExec(t *testing.T) {
	f := &fake{instances: []supervise.Instance{{Number: 1, State: supervise.Ready}, {Number: 2, State: supervise.Ready}}}
	var ran []string
	f.run = func(_ context.Context, i supervise.Instance, argv []string) error {
		ran = append(ran, fmt.Sprint(i.Number, argv))
		if len(ran) == 2 {
			return errors.New("exit status 3 no such table")
		}
		return nil
	}
	a := asking(t, f, spec.Gate{Exec: []string{"smoke", "--all"}})
	a.verifying()
	a.wants(a.ask(0), rollout.Breach, "instance 2: exit status 3 no such table")
	a.wants(a.ask(0), rollout.Pass, "2 instances answered")
	if got := strings.Join(ran, " "); got != "1 [smoke --all] 2 [smoke --all] 2 [smoke --all]" {
		t.Error(got)
	}
	bubble(t, "it hangs", func(t *testing.T) {
		f.run = func(ctx context.Context, _ supervise.Instance, _ []string) error {
			<-ctx.Done()
			return errors.New("killed")
		}
		a := asking(t, f, spec.Gate{Exec: []string{"smoke"}})
		a.verifying()
		a.wants(a.ask(0), rollout.Breach, "instance 1: smoke took longer than 1m0s")
	})
}

// What copies of requests got is held against what the clients got, before the release has traffic.
func TestDiffers(t *testing.T) {
	f := &fake{counts: map[release.ID]edge.Counts{}}
	a := asking(t, f, spec.Gate{Check: "differs <= 1%"})
	before := a.m.Step - 1 // the change of traffic before this watch
	shares := a.m.Plan.Steps[before].Weights
	a.m.Plan.Steps[before].Weights = rollout.Weights{older: 100, newer: 0}
	a.wants(a.ask(0), rollout.Unsure, "0 requests", "100 more are needed")
	f.counts[newer] = edge.Counts{Requests: 220, Mirrored: 200, Differed: 2}
	a.wants(a.ask(0), rollout.Pass, "1 % of 200 requests answered with another status")
	f.counts[newer] = edge.Counts{Requests: 240, Mirrored: 220, Differed: 3}
	a.wants(a.ask(0), rollout.Breach, "1.36 % of 220 requests")
	a.m.Plan.Steps[before].Weights = shares
	a.wants(a.ask(0), rollout.Pass, "asked of copied requests")
}

// One that does not answer, or does not listen, is refused.
func TestSmokeThatHangs(t *testing.T) {
	f := &fake{instances: []supervise.Instance{instance(t, 1, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}}
	a := asking(t, f, spec.Gate{HTTP: "/"})
	a.verifying()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a.wants(a.gates[1].Ask(ctx, a.m), rollout.Breach, "instance 1: ", "context deadline exceeded")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f.instances[0].Port = l.Addr().(*net.TCPAddr).Port
	a.wants(a.ask(0), rollout.Breach, "instance 1: ", "refused")
}

// An instance that is not seen was not asked: as many must be known as the plan started.
func TestSmokeAsksAllThatWereStarted(t *testing.T) {
	f := &fake{}
	a := asking(t, f, spec.Gate{HTTP: "/"})
	a.verifying()
	a.wants(a.ask(0), rollout.Unsure, "0 of 1 instances are known")
	f.instances = []supervise.Instance{instance(t, 1, func(http.ResponseWriter, *http.Request) {})}
	a.wants(a.ask(0), rollout.Pass, "1 instance answered")
}

func TestWindow(t *testing.T) {
	bubble(t, "weekdays", func(t *testing.T) { // virtual time begins on Saturday, 1 January 2000, 0:00 UTC
		a := asking(t, &fake{}, spec.Gate{Window: "Mon-Fri 09:00-16:00"})
		a.verifying()
		a.wants(a.ask(0), rollout.Unsure, "closed now")
		a.wants(a.ask(2*24*time.Hour+9*time.Hour-time.Second), rollout.Unsure)
		a.wants(a.ask(time.Second), rollout.Pass)
		a.wants(a.ask(7*time.Hour), rollout.Unsure)
		a.at(0)
		a.wants(a.ask(0), rollout.Pass) // what began to move is not held by the evening
	})
}

func TestApproval(t *testing.T) {
	for _, when := range []string{"before", "steps"} {
		a := asking(t, &fake{}, spec.Gate{Approve: when})
		if when == "before" {
			a.wants(a.ask(0), rollout.Pass)
			a.verifying()
		}
		a.wants(a.ask(0), rollout.Unsure, "waits for a person", "fairlead approve shop")
		a.m.Orders = rollout.Orders{Approved: a.m.Step, Approval: "approved by Ann for the step before"}
		a.wants(a.ask(0), rollout.Unsure)
		a.m.Orders = rollout.Orders{Approved: a.m.Step + 1, Approval: "approved by Ann: looks well"}
		a.wants(a.ask(0), rollout.Pass, "approved by Ann: looks well")
		if when == "steps" {
			a.at(1)
			a.wants(a.ask(0), rollout.Unsure) // an approval is of one step
		}
	}
}

// answers makes a query function from expressions to the values of their series.
func answers(m map[string][]float64) func(string) ([]gate.Sample, error) {
	return func(expr string) (out []gate.Sample, _ error) {
		for _, v := range m[expr] {
			out = append(out, gate.Sample{Value: v})
		}
		return out, nil
	}
}

func TestPromQL(t *testing.T) {
	const holds, broken = `rate(failed{release="2"}[1m]) < 0.1`, `rate(failed{release="2"}[1m]) >= 0.1`
	for _, tc := range []struct {
		name, expr string
		answers    map[string][]float64
		want       rollout.Verdict
		says       string
	}{
		{"holds", `rate(failed{release="$canary"}[1m]) < 0.1`, map[string][]float64{holds: {0.04}}, rollout.Pass, "holds: 0.04"},
		{"does not hold", `rate(failed{release="$canary"}[1m]) < 0.1`, map[string][]float64{broken: {0.7}}, rollout.Breach, "it is 0.7"},
		{"no data", `rate(failed{release="$canary"}[1m]) < 0.1`, nil, rollout.Unsure, "nothing to compare yet"},
		{"holds for one of two", `(rate(failed{release="$canary"}[1m]) < 0.1)`, map[string][]float64{holds: {0.04}, broken: {0.7, 0.8}}, rollout.Breach, "it is 0.7, the first of 2"},
		{"the limit on the left", `0.1 > rate(failed[1m])`, nil, rollout.Unsure, "nothing to compare yet"},
		{"names", `a{s="$service",e="$environment"} > b{r="$stable"}`, map[string][]float64{`a{s="shop",e="staging"} > b{r="1"}`: {3}}, rollout.Pass, "holds: 3"},
		{"true", `up > bool 0`, map[string][]float64{`up > bool 0`: {1, 1}}, rollout.Pass, "holds"},
		{"false", `up > bool 0`, map[string][]float64{`up > bool 0`: {1, 0}}, rollout.Breach, "it does not hold"},
		{"no comparison, an answer", `up and up`, map[string][]float64{`up and up`: {1}}, rollout.Pass, "holds"},
		{"no comparison, none", `up and up`, nil, rollout.Unsure, "nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{query: answers(tc.answers)}
			a := asking(t, f, spec.Gate{PromQL: tc.expr})
			a.wants(a.ask(0), tc.want, tc.says)
		})
	}
	s := spec.Spec{Release: spec.Release{Gates: []spec.Gate{{PromQL: "rate(x[1m] <"}}}}
	_, err := gate.Make(&s, rollout.Plan{New: release.ID(2)}, &fake{}, gate.Known{})
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "is not PromQL") {
		t.Errorf("what is not PromQL: %v", err)
	}
}
