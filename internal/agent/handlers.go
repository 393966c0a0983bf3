package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rpc"
)

// Handler is the agent's API.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	rpc.Handle(mux, "GET /v1/info", func(*http.Request) (any, error) { return a.info, nil })
	rpc.Handle(mux, "POST /v1/artifacts", a.offer)
	rpc.Handle(mux, "PUT /v1/layers/{digest}", a.putLayer)
	rpc.Handle(mux, "GET /v1/policy", func(*http.Request) (any, error) {
		p, _, err := a.depot.Policy()
		return p, err
	})
	rpc.Handle(mux, "PUT /v1/policy", a.setPolicy)
	rpc.Handle(mux, "POST /v1/plan", func(r *http.Request) (any, error) {
		i, err := intentOf(r, a.deploy)
		if err != nil {
			return nil, err
		}
		return a.planned(i)
	})
	rpc.Handle(mux, "POST /v1/rollouts", func(r *http.Request) (any, error) { return started(a, r, a.deploy) })
	rpc.Handle(mux, "POST /v1/rollback", func(r *http.Request) (any, error) { return started(a, r, a.rollback) })
	rpc.Handle(mux, "POST /v1/restart", func(r *http.Request) (any, error) { return started(a, r, a.restart) })
	rpc.Handle(mux, "POST /v1/drill", func(r *http.Request) (any, error) { return started(a, r, a.drill) })
	rpc.Handle(mux, "POST /v1/rollouts/{id}/cancel", a.cancel)
	rpc.Handle(mux, "POST /v1/rollouts/{id}/orders", a.order)
	rpc.Handle(mux, "GET /v1/rollouts/{id}/decisions", func(r *http.Request) (any, error) {
		_, id, err := a.find(r)
		if err != nil {
			return nil, err
		}
		return a.journal.Decisions(r.Context(), id)
	})
	mux.HandleFunc("GET /v1/rollouts/{id}/events", a.events)
	rpc.Handle(mux, "POST /v1/stop", func(r *http.Request) (any, error) { return a.move(r, a.stop) })
	rpc.Handle(mux, "POST /v1/remove", func(r *http.Request) (any, error) { return a.move(r, a.remove) })
	rpc.Handle(mux, "GET /v1/status", func(r *http.Request) (any, error) {
		return a.status(r.Context(), r.FormValue("service"), r.FormValue("environment"))
	})
	rpc.Handle(mux, "GET /v1/certificates", func(r *http.Request) (any, error) { return a.machine.Certificates(r.Context()) })
	rpc.Handle(mux, "GET /v1/history", func(r *http.Request) (any, error) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil || n < 1 {
			return nil, fail.New(fail.Usage, "", "n must be a number above zero")
		}
		return a.history(r.Context(), r.FormValue("service"), r.FormValue("environment"), n)
	})
	mux.HandleFunc("GET /v1/logs", a.logs)
	a.handleAlerts(mux)
	a.handleFleet(mux)
	mux.HandleFunc("/api/v1/", a.prometheus)
	mux.HandleFunc("/-/", a.prometheus)
	mux.Handle("GET /metrics", edge.MetricsHandler(a.stats))
	return mux
}

// planned is an intent as it is told.
func (a *Agent) planned(i intent) (api.Planned, error) {
	plan, err := json.Marshal(i.plan)
	return api.Planned{Plan: plan, URL: a.url(i.plan.Service, i.plan.Environment, i.listen)}, err
}

// intentOf decodes a request and plans it.
func intentOf[T any](r *http.Request, f func(context.Context, T) (intent, error)) (intent, error) {
	v, err := rpc.Decode[T](r)
	if err != nil {
		return intent{}, err
	}
	return f(r.Context(), v)
}

// started decodes a request, plans it and begins the rollout.
func started[T any](a *Agent, r *http.Request, f func(context.Context, T) (intent, error)) (any, error) {
	v, err := rpc.Decode[T](r)
	if err != nil {
		return nil, err
	}
	id, err := a.begin(r.Context(), func() (intent, error) {
		i, err := f(r.Context(), v)
		if err == nil {
			err = a.alone(i.release.Service, i.release.Environment)
		}
		return i, err
	})
	return api.Started{Rollout: id}, err
}

func (a *Agent) find(r *http.Request) (*run, int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, 0, fail.New(fail.Usage, "", "%q is not the number of a rollout", r.PathValue("id"))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.runs[id], id, nil
}

func (a *Agent) cancel(r *http.Request) (any, error) {
	run, id, err := a.find(r)
	if err != nil {
		return nil, err
	}
	if run == nil {
		return nil, fail.New(fail.NotFound, "", "rollout %d does not run (any more)", id)
	}
	run.cancel(fail.New(fail.Interrupted, "", "it was interrupted by its user"))
	return struct{}{}, nil
}

// events streams a rollout's events, kept and coming, from number "from" on.
func (a *Agent) events(w http.ResponseWriter, r *http.Request) {
	run, id, err := a.find(r)
	from, _ := strconv.Atoi(r.FormValue("from"))
	from = max(from, 0)
	var past []event.Event
	if err == nil && run == nil {
		past, err = a.pastEvents(r.Context(), id, from)
	}
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	out := rpc.NewStream(w)
	for _, e := range past {
		if out.Send(e) != nil {
			return
		}
	}
	for run != nil {
		more, over, wait := run.from(from)
		for _, e := range more {
			if out.Send(e) != nil {
				return
			}
		}
		if from += len(more); over {
			return
		}
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
}

// pastEvents are those of a rollout that does not run here. One that was not ended has no last event yet: the client
// asks again until this agent has taken it up.
func (a *Agent) pastEvents(ctx context.Context, id int64, from int) ([]event.Event, error) {
	ro, err := a.journal.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	past, err := a.journal.Events(ctx, id, from)
	if err != nil || ro.Outcome == "" || len(past) > 0 && past[len(past)-1].Type == api.EventEnd {
		return past, err
	}
	// The agent died between noting the outcome and telling it.
	end := api.End{Outcome: string(ro.Outcome), Error: ro.Error}
	if len(ro.Receipt) > 0 {
		end.Receipt = &api.Receipt{}
		if err := json.Unmarshal(ro.Receipt, end.Receipt); err != nil {
			return nil, err
		}
	}
	return append(past, event.Event{Time: ro.Ended, Type: api.EventEnd, Service: ro.Plan.Service, Release: int(ro.Plan.New), Data: end}), nil
}

func (a *Agent) move(r *http.Request, f func(context.Context, api.Move) error) (any, error) {
	m, err := rpc.Decode[api.Move](r)
	if err != nil {
		return nil, err
	}
	if err := a.alone(m.Service, m.Environment); err != nil {
		return nil, err
	}
	if a.busy(m.Service, m.Environment) {
		return nil, fail.New(fail.Busy, "", "a rollout of %s is under way", m.Service).
			Hinted("wait for it (`fairlead status %s`), or make it go back: `fairlead abort %s`", m.Service, m.Service)
	}
	return struct{}{}, f(r.Context(), m)
}

// stop ends all instances; the releases stay, and `restart` or `up` brings the service back.
func (a *Agent) stop(ctx context.Context, m api.Move) error {
	e, err := a.journal.Environment(ctx, m.Service, m.Environment)
	if err != nil {
		return err
	}
	if err := a.journal.SetStopped(ctx, m.Service, m.Environment, true); err != nil {
		return err
	}
	var ids []release.ID
	seen := map[int]bool{}
	for _, i := range a.machine.Instances(m.Service, m.Environment) {
		if !seen[i.Release] {
			seen[i.Release] = true
			ids = append(ids, release.ID(i.Release))
		}
	}
	if err := a.target(m.Service, m.Environment, e.Listen).Stop(ctx, ids); err != nil {
		return err
	}
	a.reloadRules()
	return a.journal.Cooled(ctx, m.Service, m.Environment)
}

// remove forgets a service with everything it left on the machine.
func (a *Agent) remove(ctx context.Context, m api.Move) error {
	if _, err := a.journal.Environment(ctx, m.Service, m.Environment); err != nil {
		return err
	}
	all, err := a.journal.Releases(ctx, m.Service, m.Environment)
	if err != nil {
		return err
	}
	var ids []int
	for _, r := range all {
		ids = append(ids, int(r.ID))
	}
	if err := a.machine.Remove(ctx, m.Service, m.Environment, ids); err != nil {
		return err
	}
	for _, dir := range []string{a.dirs.Service(m.Service, m.Environment), filepath.Join(a.dirs.Logs(), m.Service+"@"+m.Environment)} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := a.journal.Remove(ctx, m.Service, m.Environment); err != nil {
		return err
	}
	if err := os.Remove(a.dirs.Fleet(m.Service, m.Environment)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a.pruneArtifacts()
	a.reloadRules()
	return nil
}

// logs streams records as JSON lines.
func (a *Agent) logs(w http.ResponseWriter, r *http.Request) {
	q, err := logQuery(r)
	if err == nil {
		_, err = a.journal.Environment(r.Context(), q.Service, q.Env)
	}
	if err == nil && q.Access && !q.Follow {
		if _, no := os.Stat(logs.AccessDir(a.dirs.Logs(), q.Service, q.Env)); errors.Is(no, fs.ErrNotExist) {
			err = fail.New(fail.NotFound, "", "there is no access log of %s", q.Service).Hinted("write route: {access_log: {}} into fairlead.yaml and deploy; it begins with the next request")
		}
	}
	if err != nil {
		rpc.WriteError(w, err)
		return
	}
	out := rpc.NewStream(w)
	if err := logs.Read(r.Context(), a.dirs.Logs(), q, func(rec logs.Record) error { return out.Send(rec) }); err != nil && r.Context().Err() == nil {
		a.log.Info("reading logs", "service", q.Service, "error", err)
	}
}

func logQuery(r *http.Request) (logs.Query, error) {
	q := logs.Query{Service: r.FormValue("service"), Env: r.FormValue("environment"), Level: r.FormValue("level"), Follow: r.FormValue("follow") == "true",
		Access: r.FormValue("access") == "true"}
	for name, p := range map[string]*int{"release": &q.Release, "instance": &q.Instance, "tail": &q.Tail} {
		n, err := strconv.Atoi(r.FormValue(name))
		if err != nil {
			return q, fail.New(fail.Usage, "", "%s: %q is not a number", name, r.FormValue(name))
		}
		*p = n
	}
	if g := r.FormValue("grep"); g != "" {
		re, err := regexp.Compile(g)
		if err != nil {
			return q, fail.New(fail.Usage, "", "grep: %w", err)
		}
		q.Grep = re
	}
	if s := r.FormValue("since"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return q, fail.New(fail.Usage, "", "since: %w", err)
		}
		q.Since = t
	}
	return q, nil
}
