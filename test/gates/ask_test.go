package gates_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// An http gate asks before there is traffic: what it refuses no client has seen.
func TestSmokeRefuses(t *testing.T) {
	w := newWorld(t)
	was := processes(w.status(t), 1)
	load := w.quiet(t)
	smoke := []string{"strategy: canary", "steps: [50%, 100%]", "watch: 300ms", "gates:", "  - {http: /smoke}"}
	w.spec(t, `SMOKE: "503"`, smoke...)
	m := ended(t, w.begin(t))
	if m.code != exitFailed || !has(m.why(), "/smoke answers 503", "the smoke test was here") {
		t.Errorf("exit code %d, want %d (failed, nothing changed): %s", m.code, exitFailed, m.why())
	}
	if r := m.receipt(); r == nil || r.Outcome != string(rollout.Failed) || r.After.Requests != 0 || r.Failed != 0 {
		t.Errorf("the receipt says %+v", r)
	}
	if strings.Contains(m.said("step"), "traffic:") {
		t.Errorf("it got traffic:\n%s", m.said("step"))
	}
	w.serves(t, 1, was)

	w.spec(t, "", smoke...)
	if m := ended(t, w.begin(t)); m.code != exitDone {
		t.Errorf("exit code %d of one whose smoke test is answered: %s", m.code, m.why())
	}
	found := false
	for _, d := range w.record(t, "3").Decisions {
		found = found || d.Gate == "GET /smoke" && d.Verdict == rollout.Pass && strings.Contains(d.Reason, "1 instance answered")
	}
	if !found {
		t.Errorf("the record lacks that it was asked: %+v", w.record(t, "3").Decisions)
	}
	w.serves(t, 3, nil)
	lost(t, load)
}

// Without traffic nothing is known: the spec says what follows then, and the record says that it was not evidence.
func TestNobodyAsks(t *testing.T) {
	w := newWorld(t)
	quietly := func(then string) []string {
		return []string{"strategy: canary", "steps: [50%, 100%]", "watch: 300ms", "evidence: {wait: 1s, inconclusive: " + then + "}", "gates:",
			"  - {compare: [errors, latency]}", `  - {check: "errors <= 1%"}`}
	}
	t.Run("promote", func(t *testing.T) {
		w.spec(t, "", quietly("promote")...)
		m := ended(t, w.begin(t))
		if r := m.receipt(); m.code != exitDone || r == nil || r.Requests != 0 || r.Took < 2*time.Second {
			t.Fatalf("exit code %d: %s; %+v", m.code, m.why(), r)
		}
		w.serves(t, 2, nil)
		n := 0
		for _, d := range w.record(t, "2").Decisions {
			if d.Last && d.Verdict == rollout.Pass && strings.Contains(d.Reason, "inconclusive after 1s: ") {
				n++
			}
		}
		if n != 3 { // both gates at 50 %, and at 100 %, where nothing is compared, the threshold
			t.Errorf("%d decisions say that nothing was known, want 3: %+v", n, w.record(t, "2").Decisions)
		}
	})
	t.Run("pause", func(t *testing.T) {
		w.spec(t, "", quietly("pause")...)
		up := w.begin(t)
		s := w.rolling(t, 50)
		w.decided(t, s, "errors <= 1%", rollout.Breach)
		if now := w.status(t); now.Rollout == nil || !strings.Contains(now.Rollout.Paused, "inconclusive after 1s: ") {
			t.Fatalf("it does not wait: %+v", now.Rollout)
		}
		w.order(t, "promote", "--all")
		if m := ended(t, up); m.code != exitDone {
			t.Errorf("exit code %d: %s", m.code, m.why())
		}
		w.serves(t, 3, nil)
	})
	t.Run("rollback", func(t *testing.T) {
		w.spec(t, "", quietly("rollback")...)
		if m := ended(t, w.begin(t)); m.code != exitRolledBack || !strings.Contains(m.why(), "inconclusive after 1s: ") {
			t.Errorf("exit code %d: %s", m.code, m.why())
		}
		w.serves(t, 3, nil)
	})
}

// Who has seen the new release keeps seeing it while its share grows, and everybody sees the old one after an abort.
func TestSticky(t *testing.T) {
	w := newWorld(t)
	w.spec(t, "", "strategy: canary", "steps: [20%, 60%, 100%]", "watch: 300ms", "sticky: header:X-Client", "gates:", "  - {approve: steps}")
	up := w.begin(t)
	share := func(percent int) [clients]bool {
		t.Helper()
		w.rolling(t, percent)
		saw := w.whoSees(t, "2")
		if again := w.whoSees(t, "2"); again != saw {
			t.Errorf("at %d %% some clients saw both releases", percent)
		}
		if k := count(saw); k < clients*percent/100-clients/8 || k > clients*percent/100+clients/8 {
			t.Errorf("at %d %%, %d of %d clients see the new release", percent, k, clients)
		}
		return saw
	}
	few := share(20)
	w.order(t, "approve", "--reason", "more")
	most := share(60)
	for n := range clients {
		if few[n] && !most[n] {
			t.Errorf("client %d saw the new release at 20 %% and not at 60 %%", n)
		}
	}
	w.order(t, "abort")
	if m := ended(t, up); m.code != exitRolledBack {
		t.Errorf("exit code %d: %s", m.code, m.why())
	}
	if n := count(w.whoSees(t, "1")); n != clients {
		t.Errorf("after the abort %d of %d clients see release 1", n, clients)
	}
	w.serves(t, 1, nil)
}

// clients is how many there are; a fair share of so many lies within an eighth of them, but for one case in 10,000.
const clients = 200

// whoSees asks once as each client, some at once, and returns which are answered by a release.
func (w *world) whoSees(t *testing.T, release string) (out [clients]bool) {
	t.Helper()
	const atOnce = 10
	var all sync.WaitGroup
	for first := range atOnce {
		all.Go(func() {
			for n := first; n < clients; n += atOnce {
				saw, err := w.ask(t, n)
				if err != nil {
					t.Error(err)
				}
				out[n] = saw == release
			}
		})
	}
	all.Wait()
	return out
}

// ask returns which release answers a client.
func (w *world) ask(t *testing.T, client int) (string, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Client", fmt.Sprintf("client-%d", client))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	return res.Header.Get("X-Release"), nil
}

func count(m [clients]bool) (n int) {
	for _, yes := range m {
		if yes {
			n++
		}
	}
	return n
}
