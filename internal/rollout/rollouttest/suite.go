package rollouttest

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// Harness is a target under test with the releases it can be asked for.
type Harness struct {
	Target rollout.Target
	Good   []release.Release // two that become ready
	Bad    release.Release   // one whose instances end at once; zero where the target cannot have such a thing
}

// Run is the suite that every target passes. fresh is called for each test and must give an empty target.
func Run(t *testing.T, fresh func(*testing.T) Harness) {
	tests := map[string]func(*testing.T, Harness){
		"stage is idempotent and starts nothing": stageTwice,
		"scale up and down":                      scaleUpDown,
		"scale to zero of what was never staged": scaleUnknown,
		"route follows and is read back":         routeReadBack,
		"route needs a ready instance":           routeNeedsReady,
		"both releases side by side":             sideBySide,
		"a release that ends at once":            endsAtOnce,
		"a whole rollout there and back":         thereAndBack,
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expect reads the data plane back.
func expect(t *testing.T, h Harness, id release.ID, ready, weight int) {
	t.Helper()
	s, err := h.Target.Observe(t.Context())
	must(t, err)
	if r := s.Releases[id]; r.Ready != ready || r.Weight != weight {
		t.Fatalf("release %d: %d ready with %d %%, want %d with %d %%", id, r.Ready, r.Weight, ready, weight)
	}
}

func stageTwice(t *testing.T, h Harness) {
	for range 2 {
		must(t, h.Target.Stage(t.Context(), h.Good[0]))
	}
	expect(t, h, h.Good[0].ID, 0, 0)
}

func scaleUpDown(t *testing.T, h Harness) {
	r := h.Good[0]
	must(t, h.Target.Stage(t.Context(), r))
	for _, n := range []int{2, 2, 3, 1, 0, 0, 1} {
		must(t, h.Target.Scale(t.Context(), r.ID, n))
		expect(t, h, r.ID, n, 0)
	}
}

func scaleUnknown(t *testing.T, h Harness) {
	must(t, h.Target.Scale(t.Context(), 99, 0))
	if h.Target.Scale(t.Context(), 99, 1) == nil {
		t.Fatal("a release that was never staged was started")
	}
}

func routeReadBack(t *testing.T, h Harness) {
	r := h.Good[0]
	must(t, h.Target.Stage(t.Context(), r))
	must(t, h.Target.Scale(t.Context(), r.ID, 1))
	for range 2 {
		must(t, h.Target.Route(t.Context(), rollout.Weights{r.ID: 100}))
		expect(t, h, r.ID, 1, 100)
	}
	must(t, h.Target.Route(t.Context(), nil))
	expect(t, h, r.ID, 1, 0)
}

func routeNeedsReady(t *testing.T, h Harness) {
	must(t, h.Target.Stage(t.Context(), h.Good[0]))
	if h.Target.Route(t.Context(), rollout.Weights{h.Good[0].ID: 100}) == nil {
		t.Fatal("traffic was sent to a release without instances")
	}
}

func sideBySide(t *testing.T, h Harness) {
	if !h.Target.Caps().Surge {
		t.Skip("this target cannot run two releases at once")
	}
	a, b := h.Good[0], h.Good[1]
	for _, r := range []release.Release{a, b} {
		must(t, h.Target.Stage(t.Context(), r))
		must(t, h.Target.Scale(t.Context(), r.ID, 2))
	}
	must(t, h.Target.Route(t.Context(), rollout.Weights{a.ID: 75, b.ID: 25}))
	expect(t, h, a.ID, 2, 75)
	expect(t, h, b.ID, 2, 25)
}

func endsAtOnce(t *testing.T, h Harness) {
	if h.Bad.ID == 0 {
		t.Skip("this target has no release that ends at once")
	}
	must(t, h.Target.Stage(t.Context(), h.Bad))
	err := h.Target.Scale(t.Context(), h.Bad.ID, 1)
	if fail.KindOf(err) != fail.Unhealthy {
		t.Fatalf("got %v, want an error of kind unhealthy", err)
	}
	must(t, h.Target.Scale(t.Context(), h.Bad.ID, 0))
	expect(t, h, h.Bad.ID, 0, 0)
}

func thereAndBack(t *testing.T, h Harness) {
	a, b := h.Good[0], h.Good[1]
	must(t, h.Target.Stage(t.Context(), a))
	must(t, h.Target.Scale(t.Context(), a.ID, 2))
	must(t, h.Target.Route(t.Context(), rollout.Weights{a.ID: 100}))
	for _, move := range [][2]release.Release{{a, b}, {b, a}} {
		p, err := rollout.Make("rolling", rollout.Request{Service: a.Service, Environment: a.Environment, Old: move[0].ID, New: move[1].ID,
			OldInstances: 2, Instances: 2, Surge: 1, Watch: 10 * time.Millisecond}, h.Target.Caps())
		must(t, err)
		e := rollout.Engine{Target: h.Target, Journal: NewFake(0, 0)}
		must(t, e.Run(t.Context(), p, move[1], rollout.Progress{}))
		expect(t, h, move[1].ID, 2, 100)
		expect(t, h, move[0].ID, 0, 0)
	}
}
