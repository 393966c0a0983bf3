package gate

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// What an outside system answers decides; that it is away, or out of order, does not.
func TestWebhook(t *testing.T) {
	status, text := 0, ""
	var asked Question
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		w.Write([]byte(text))
	}))
	defer s.Close()
	plan := rollout.Plan{Service: "shop", Environment: "prod", Old: 6, New: 7, Steps: []rollout.Step{{Do: rollout.Route, Weights: rollout.Weights{6: 95, 7: 5}}, {Do: rollout.Watch}}}
	ask := func(address string) rollout.Answer {
		g := &webhook{base: base{spec: spec.Gate{Webhook: address, Else: "rollback"}, evidence: spec.Evidence{Wait: spec.Duration(1e9), Inconclusive: "pause"}, step: -1}}
		first := g.Ask(t.Context(), rollout.Moment{Plan: plan, Step: 1})
		if again := g.Ask(t.Context(), rollout.Moment{Plan: plan, Step: 1}); again.Verdict != first.Verdict {
			t.Errorf("a moment later it says %s", again.Verdict)
		}
		return first
	}
	for _, tc := range []struct {
		status int
		text   string
		want   rollout.Verdict
	}{{200, "fine", rollout.Pass}, {202, "wait", rollout.Unsure}, {409, "orders are down\nmore", rollout.Breach}, {503, "", rollout.Unsure}} {
		status, text, n = tc.status, tc.text, 0
		a := ask(s.URL + "/hook?token=hunter2")
		line, _, _ := strings.Cut(tc.text, "\n")
		if a.Verdict != tc.want || !strings.Contains(a.Reason, line) || strings.Contains(a.Reason, "more") || n != 1 {
			t.Errorf("%d %q: %+v, asked %d times", tc.status, tc.text, a, n)
		}
	}
	if asked.Service != "shop" || asked.To != 7 || asked.Share != 5 || asked.Step != 2 {
		t.Errorf("it was asked %+v", asked)
	}
	s.Close()
	if a := ask(s.URL + "/hook?token=hunter2"); a.Verdict != rollout.Unsure || strings.Contains(a.Reason, "hunter2") {
		t.Errorf("nobody answers: %+v", a)
	}
}
