//go:build unix

package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// Who gives an order to an agent that is being replaced is not told that something was cancelled: the next agent goes on with it.
func TestALeavingAgentPlans(t *testing.T) {
	dir := t.TempDir()
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	st, err := edge.OpenStats(d.Stats(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	life, leave := context.WithCancel(t.Context())
	a, err := Open(life, d, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	leave()
	plan := rollout.Plan{Service: "shop", Environment: "prod", Old: 1, New: 2}
	_, err = a.gates(t.Context(), kindRestart, plan, release.Release{ID: 2, Service: "shop", Environment: "prod", Config: []byte("{}")})
	if err != nil && fail.KindOf(err) != fail.Unavailable { // there is no supervisor here
		t.Error(err)
	}
}
