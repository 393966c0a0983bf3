package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func fresh(t *testing.T) (*Journal, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	return open(t, path), path
}

// draft is a deploy of release id of the shop, with three steps.
func draft(id, old release.ID) Draft {
	return Draft{Kind: "deploy", Holder: "ann@host, pid 7", Listen: "127.0.0.1:8080", Baseline: map[string]int{"p95": 12},
		Release: &release.Release{Service: "shop", Environment: "default", ID: id, Config: json.RawMessage(`{"service":"shop"}`), Created: time.Unix(1769860800, 0).UTC()},
		Plan: rollout.Plan{Service: "shop", Environment: "default", New: id, Old: old, NoReturn: 2, Steps: []rollout.Step{
			{Do: rollout.Stage, Release: id}, {Do: rollout.Scale, Release: id, Instances: 2}, {Do: rollout.Route, Weights: rollout.Weights{id: 100}}}}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, j *Journal, d Draft) *Running {
	t.Helper()
	r, err := j.Begin(t.Context(), d)
	must(t, err)
	return r
}

func deployed(t *testing.T, j *Journal, id, old release.ID) {
	t.Helper()
	must(t, begin(t, j, draft(id, old)).End(t.Context(), rollout.Done, nil))
}

func environment(t *testing.T, j *Journal) Environment {
	t.Helper()
	e, err := j.Environment(t.Context(), "shop", "default")
	must(t, err)
	return e
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v\nwant %+v", what, got, want)
	}
}

func TestStory(t *testing.T) {
	j, _ := fresh(t)
	ctx := t.Context()
	if id, err := j.NextRelease(ctx, "shop", "default"); err != nil || id != 1 {
		t.Fatal(id, err)
	}
	d := draft(1, 0)
	r := begin(t, j, d)
	same(t, "before the end", environment(t, j), Environment{Service: "shop", Environment: "default", Listen: "127.0.0.1:8080"})
	must(t, r.Step(ctx, 1))
	r.Receipt = func(o rollout.Outcome, err error) any { return map[string]any{"outcome": o, "failed": err != nil} }
	must(t, r.End(ctx, rollout.Done, nil))
	same(t, "after the end", environment(t, j), Environment{Service: "shop", Environment: "default", Listen: "127.0.0.1:8080", Current: 1})
	got, err := j.Rollout(ctx, r.ID)
	must(t, err)
	if got.Started.IsZero() || got.Ended.Before(got.Started) {
		t.Errorf("from %s to %s", got.Started, got.Ended)
	}
	same(t, "rollout", got, Rollout{ID: r.ID, Kind: "deploy", Plan: d.Plan, Step: 1, Outcome: rollout.Done, Holder: d.Holder, Started: got.Started, Ended: got.Ended,
		Baseline: json.RawMessage(`{"p95":12}`), Receipt: json.RawMessage(`{"failed":false,"outcome":"done"}`)})
	rel, err := j.Release(ctx, "shop", "default", 1)
	must(t, err)
	same(t, "release", rel, *d.Release)
	if id, err := j.NextRelease(ctx, "shop", "default"); err != nil || id != 2 {
		t.Error(id, err)
	}
	if id, err := j.NextRelease(ctx, "shop", "staging"); err != nil || id != 1 {
		t.Error("another environment counts for itself:", id, err)
	}
}

func TestWhatServes(t *testing.T) {
	j, _ := fresh(t)
	ctx := t.Context()
	check := func(what string, current, previous release.ID) {
		t.Helper()
		if e := environment(t, j); e.Current != current || e.Previous != previous {
			t.Errorf("%s: %d serves, %d served before; want %d and %d", what, e.Current, e.Previous, current, previous)
		}
	}
	deployed(t, j, 1, 0)
	check("first", 1, 0)
	deployed(t, j, 2, 1)
	check("second", 2, 1)
	for _, o := range []rollout.Outcome{rollout.Failed, rollout.RolledBack, rollout.Stuck} {
		id, err := j.NextRelease(ctx, "shop", "default")
		must(t, err)
		r := begin(t, j, draft(id, 2))
		must(t, r.Undo(ctx, errors.New("no")))
		must(t, r.End(ctx, o, fail.New(fail.Unhealthy, "wait", "%w", errors.New("probe refused")).WithLines([]string{"last words"})))
		check(string(o), 2, 1)
		got, err := j.Rollout(ctx, r.ID)
		must(t, err)
		if !got.Undoing || got.Outcome != o || got.Cause != "wait: probe refused" || got.Error.Kind != fail.Unhealthy || got.Error.Lines[0] != "last words" {
			t.Errorf("%+v", got)
		}
	}
	back := draft(1, 2)
	back.Release, back.Kind = nil, "rollback"
	must(t, begin(t, j, back).End(ctx, rollout.Done, nil))
	check("rollback", 1, 2)
	back.Plan.Old = 0 // it serves already
	must(t, begin(t, j, back).End(ctx, rollout.Done, nil))
	check("the same once more, as a restart does", 1, 2)

	deployed(t, j, 6, 1)
	check("one that will be as if it had not been", 6, 1)
	undo := draft(1, 6)
	undo.Release, undo.Kind = nil, KindUndo
	must(t, j.Resume(Rollout{ID: begin(t, j, undo).ID, Kind: KindUndo, Plan: undo.Plan}).End(ctx, rollout.Done, nil))
	check("undone", 1, 2)

	warm := draft(7, 1)
	warm.Plan.Steps = append(warm.Plan.Steps, rollout.Step{Do: rollout.Warm, Release: 1, For: time.Hour})
	must(t, begin(t, j, warm).End(ctx, rollout.Done, nil))
	if e := environment(t, j); e.WarmRelease != 1 || time.Until(e.WarmUntil) < 59*time.Minute {
		t.Errorf("%+v", e)
	}
	must(t, j.Cooled(ctx, "shop", "default"))
	must(t, j.SetStopped(ctx, "shop", "default", true))
	if e := environment(t, j); e.WarmRelease != 0 || !e.WarmUntil.IsZero() || !e.Stopped {
		t.Errorf("%+v", e)
	}
	deployed(t, j, 8, 0)
	if e := environment(t, j); e.Stopped {
		t.Error("a deploy does not start a stopped service")
	}
}

func TestLease(t *testing.T) {
	j, path := fresh(t)
	ctx := t.Context()
	first := begin(t, j, draft(1, 0))
	for _, other := range []*Journal{j, open(t, path)} {
		_, err := other.Begin(ctx, draft(2, 1))
		if fail.KindOf(err) != fail.Busy || !strings.Contains(err.Error(), "deploy by ann@host, pid 7") || fail.As(err).Hint == "" {
			t.Errorf("%v", err)
		}
		if err := other.Remove(ctx, "shop", "default"); fail.KindOf(err) != fail.Busy {
			t.Errorf("%v", err)
		}
	}
	if rels, err := j.Releases(ctx, "shop", "default"); err != nil || len(rels) != 1 {
		t.Errorf("a refused rollout left its release: %+v %v", rels, err)
	}
	d := draft(1, 0)
	d.Plan.Environment, d.Release.Environment = "staging", "staging"
	begin(t, j, d)
	must(t, first.End(ctx, rollout.Failed, errors.New("x")))
	begin(t, j, draft(2, 0))
}

// A plan that was made before another rollout ended would lead away from a release that does not serve any more.
func TestAPlanBeginsWithWhatServes(t *testing.T) {
	j, _ := fresh(t)
	deployed(t, j, 1, 0)
	deployed(t, j, 2, 1)
	for _, d := range []Draft{draft(3, 1), draft(3, 0)} {
		_, err := j.Begin(t.Context(), d)
		if !errors.Is(err, ErrMoved) || fail.KindOf(err) != fail.Busy {
			t.Errorf("from %d: %v", d.Plan.Old, err)
		}
	}
	must(t, j.SetStopped(t.Context(), "shop", "default", true))
	if _, err := j.Begin(t.Context(), draft(3, 2)); !errors.Is(err, ErrMoved) {
		t.Errorf("from a stopped one: %v", err)
	}
	if rels, err := j.Releases(t.Context(), "shop", "default"); err != nil || len(rels) != 2 {
		t.Errorf("a refused rollout left its release: %+v %v", rels, err)
	}
	begin(t, j, draft(3, 0))
}

func TestResume(t *testing.T) {
	j, path := fresh(t)
	ctx := t.Context()
	deployed(t, j, 1, 0)
	r := begin(t, j, draft(2, 1))
	must(t, r.Step(ctx, 2))
	must(t, r.Undo(ctx, errors.New("errors 7 %")))
	must(t, j.Close())

	j = open(t, path)
	left, err := j.Unfinished(ctx)
	must(t, err)
	if len(left) != 1 || left[0].ID != r.ID || left[0].Step != 2 || !left[0].Undoing || left[0].Cause != "errors 7 %" {
		t.Fatalf("%+v", left)
	}
	same(t, "plan", left[0].Plan, draft(2, 1).Plan)
	again := j.Resume(left[0])
	must(t, again.Step(ctx, 1))
	must(t, again.End(ctx, rollout.RolledBack, errors.New("errors 7 %")))
	if left, err := j.Unfinished(ctx); err != nil || len(left) != 0 {
		t.Errorf("%+v %v", left, err)
	}
	hist, err := j.History(ctx, "shop", "default", 10)
	must(t, err)
	if len(hist) != 2 || hist[0].ID != r.ID || hist[0].Step != 1 || hist[0].Outcome != rollout.RolledBack || hist[1].Outcome != rollout.Done {
		t.Errorf("%+v", hist)
	}
	if one, err := j.History(ctx, "shop", "default", 1); err != nil || len(one) != 1 {
		t.Errorf("%+v %v", one, err)
	}
}

func TestEvents(t *testing.T) {
	j, _ := fresh(t)
	ctx := t.Context()
	r := begin(t, j, draft(1, 0))
	for _, i := range []int{2, 0, 1, 1} {
		must(t, r.Event(ctx, i, event.Event{Time: time.Unix(int64(i), 0).UTC(), Type: "step", Step: i, Text: fmt.Sprint("step ", i)}))
	}
	for from, want := range map[int][]int{0: {0, 1, 2}, 1: {1, 2}, 3: nil} {
		es, err := j.Events(ctx, r.ID, from)
		must(t, err)
		var got []int
		for _, e := range es {
			got = append(got, e.Step)
		}
		same(t, fmt.Sprint("from ", from), got, want)
	}
}

func TestPruneAndRemove(t *testing.T) {
	j, _ := fresh(t)
	ctx := t.Context()
	other := draft(1, 0)
	other.Plan.Service, other.Release.Service = "other", "other"
	must(t, begin(t, j, other).End(ctx, rollout.Done, nil))
	for id := release.ID(1); id <= 3; id++ {
		r := begin(t, j, draft(id, id-1))
		must(t, r.Event(ctx, 0, event.Event{Text: "x"}))
		must(t, r.End(ctx, rollout.Done, nil))
	}
	must(t, j.Pruned(ctx, "shop", "default", 1))
	for id, want := range map[release.ID]string{1: "release 1 of shop was pruned", 9: "release 9 of shop does not exist"} {
		if _, err := j.Release(ctx, "shop", "default", id); fail.KindOf(err) != fail.NotFound || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
	rels, err := j.Releases(ctx, "shop", "default")
	must(t, err)
	if len(rels) != 2 || rels[0].ID != 3 || rels[1].ID != 2 {
		t.Errorf("%+v", rels)
	}
	must(t, j.Remove(ctx, "shop", "default"))
	if _, err := j.Environment(ctx, "shop", "default"); fail.KindOf(err) != fail.NotFound {
		t.Errorf("%v", err)
	}
	for _, table := range []string{"environment", "release", "rollout", "event"} {
		var n int
		must(t, j.db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n))
		if want := map[string]int{"event": 0}[table]; table != "event" && n != 1 || table == "event" && n != want {
			t.Errorf("%s has %d rows", table, n)
		}
	}
	if all, err := j.Environments(ctx); err != nil || len(all) != 1 || all[0].Service != "other" {
		t.Errorf("%+v %v", all, err)
	}
	must(t, j.Remove(ctx, "shop", "default"))
	if _, err := j.Rollout(ctx, 99); fail.KindOf(err) != fail.NotFound {
		t.Errorf("%v", err)
	}
}

// TestManyAtOnce has two openings of one file, as the agent and a tool beside it, and many goroutines on each.
func TestManyAtOnce(t *testing.T) {
	j, path := fresh(t)
	js := []*Journal{j, open(t, path)}
	var mu sync.Mutex
	got, busy := 0, 0
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			j := js[g%2]
			for i := range 10 {
				d := draft(release.ID(100*g+i+1), 0)
				r, err := j.Begin(t.Context(), d)
				if fail.KindOf(err) == fail.Busy {
					mu.Lock()
					busy++
					mu.Unlock()
					if _, err := j.Environments(t.Context()); err != nil {
						t.Error(err)
					}
					continue
				}
				for s := 0; s < 3 && err == nil; s++ {
					err = errors.Join(r.Step(t.Context(), s), r.Event(t.Context(), s, event.Event{Step: s}))
				}
				if err == nil {
					err = r.End(t.Context(), rollout.Done, nil)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	hist, err := j.History(t.Context(), "shop", "default", 1000)
	must(t, err)
	if got == 0 || got+busy != 80 || len(hist) != got {
		t.Errorf("%d rollouts, %d refused, %d in the history", got, busy, len(hist))
	}
	for _, h := range hist {
		if es, err := j.Events(t.Context(), h.ID, 0); err != nil || h.Step != 2 || len(es) != 3 {
			t.Errorf("rollout %d: step %d, %d events, %v", h.ID, h.Step, len(es), err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	j, path := fresh(t)
	_, err := j.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", len(schema)+1))
	must(t, err)
	must(t, j.Close())
	_, err = Open(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "newer fairlead") {
		t.Errorf("%v", err)
	}
	var have int
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&have); err != nil || have != len(schema)+1 {
		t.Errorf("the refused file was changed: %d %v", have, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	must(t, os.WriteFile(path, []byte(strings.Repeat("this is no database", 100)), 0o600))
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(path, "below")); err == nil {
		t.Error("opened below a file")
	}
}

func TestDoneContext(t *testing.T) {
	j, _ := fresh(t)
	r := begin(t, j, draft(1, 0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(r.Step(ctx, 1), r.End(ctx, rollout.Done, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must(t, r.End(t.Context(), rollout.Done, nil))
}
