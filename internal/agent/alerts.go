package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/alert"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/rpc"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// openAlerts takes up the machine's alerts file. Like the metrics, it never keeps the agent from starting.
func (a *Agent) openAlerts() {
	var c alert.Config
	if err := home.ReadJSON(a.dirs.Alerts(), &c); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("the alerts file cannot be read; nobody is told of alerts", "error", err)
		return
	}
	if err := a.applyAlerts(c); err != nil {
		a.log.Error("nobody is told of alerts", "error", err)
	}
}

// applyAlerts replaces receivers and rules. On an error what held before holds on.
func (a *Agent) applyAlerts(c alert.Config) error {
	if a.metrics == nil {
		return fail.New(fail.Unavailable, "", "this machine keeps no metrics, so there is nothing to raise alerts about; the agent's log says why")
	}
	a.alertsApply.Lock()
	defer a.alertsApply.Unlock()
	o, err := c.Options()
	if err != nil {
		return err
	}
	trial, err := alert.New(o) // without a state file: it only says whether they can work
	if err != nil {
		return err
	}
	if err := trial.Close(); err != nil {
		return err
	}
	o.State, o.Log = filepath.Join(filepath.Dir(a.dirs.Alerts()), "alerts-state.json"), a.log
	if err := a.loadRules(c.RuleFiles); err != nil {
		return err
	}
	a.alertsMu.Lock()
	defer a.alertsMu.Unlock()
	if a.alerts != nil { // two must not write one state file
		if err := a.alerts.Close(); err != nil {
			a.log.Error("end the old receivers", "error", err)
		}
	}
	a.alerts, err = alert.New(o)
	return err
}

// loadRules puts the machine's own rule files in force, and those of the releases that serve.
func (a *Agent) loadRules(own []alert.RuleFile) error {
	services, err := a.serviceRules()
	if err != nil {
		return err
	}
	files, err := a.writeRules(append(services, own...))
	if err != nil {
		return err
	}
	return a.metrics.Rules(files)
}

// serviceRules are the rule files of all releases that serve, named by their services.
func (a *Agent) serviceRules() ([]alert.RuleFile, error) {
	envs, err := a.journal.Environments(a.ctx)
	if err != nil {
		return nil, err
	}
	var out []alert.RuleFile
	for _, e := range envs {
		if e.Current == 0 || e.Stopped {
			continue
		}
		r, err := a.journal.Release(a.ctx, e.Service, e.Environment, e.Current)
		if err != nil {
			return nil, err
		}
		var s spec.Spec
		if err := json.Unmarshal(r.Config, &s); err != nil {
			return nil, err
		}
		for i, text := range s.Alerts.Rules {
			out = append(out, alert.RuleFile{Name: fmt.Sprintf("%s@%s-%d.yaml", e.Service, e.Environment, i+1), Text: text})
		}
	}
	return out, nil
}

// reloadRules follows a change of what serves.
func (a *Agent) reloadRules() {
	if a.metrics == nil {
		return
	}
	a.alertsApply.Lock()
	defer a.alertsApply.Unlock()
	var c alert.Config
	err := home.ReadJSON(a.dirs.Alerts(), &c)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = a.loadRules(c.RuleFiles)
	}
	if err != nil {
		a.log.Error("the rules of alerts stay as they were", "error", err)
	}
}

// writeRules puts rule files where the rule manager reads them. Each has a folder by its name, and by its number where two
// have one name: a group keeps its state while its file's path stays.
func (a *Agent) writeRules(all []alert.RuleFile) ([]string, error) {
	dir := filepath.Join(filepath.Dir(a.dirs.Alerts()), "rules")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	var out []string
	same := map[string]int{}
	for _, f := range all {
		name := filepath.Base(f.Name)
		same[name]++
		sub := filepath.Join(dir, fmt.Sprint(same[name]))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, err
		}
		path := filepath.Join(sub, name)
		if err := os.WriteFile(path, []byte(f.Text), 0o600); err != nil {
			return nil, err
		}
		out = append(out, path)
	}
	return out, nil
}

// dispatch hands raised alerts to whoever tells of them now.
func (a *Agent) dispatch(ctx context.Context, raised []metrics.Alert) {
	if d := a.dispatcher(); d != nil {
		d.Notify(ctx, raised)
	}
}

func (a *Agent) dispatcher() *alert.Dispatcher {
	a.alertsMu.Lock()
	defer a.alertsMu.Unlock()
	return a.alerts
}

func (a *Agent) closeAlerts() {
	if d := a.dispatcher(); d != nil {
		if err := d.Close(); err != nil {
			a.log.Error("close the alerts", "error", err)
		}
	}
}

// handleAlerts adds the alerts' part of the API.
func (a *Agent) handleAlerts(mux *http.ServeMux) {
	with := func(pattern string, f func(*http.Request, *alert.Dispatcher) (any, error)) {
		rpc.Handle(mux, pattern, func(r *http.Request) (any, error) {
			d := a.dispatcher()
			if d == nil {
				return nil, fail.New(fail.Unavailable, "", "alerts do not work on this machine; the agent's log says why")
			}
			return f(r, d)
		})
	}
	rpc.Handle(mux, "PUT /v1/alerts/config", func(r *http.Request) (any, error) {
		c, err := rpc.Decode[alert.Config](r)
		if err != nil {
			return nil, err
		}
		if err := a.applyAlerts(c); err != nil {
			return nil, err
		}
		return struct{}{}, home.WriteJSON(a.dirs.Alerts(), c, 0o600)
	})
	with("GET /v1/alerts", func(_ *http.Request, d *alert.Dispatcher) (any, error) {
		st := api.Alerts{Active: []api.Alert{}, Silences: d.Silences(), Receivers: map[string]string{}}
		var c alert.Config
		if err := home.ReadJSON(a.dirs.Alerts(), &c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, r := range c.Receivers {
			st.Receivers[r.Name] = r.Kind()
		}
		for _, x := range a.metrics.Alerts() {
			st.Active = append(st.Active, api.Alert{Name: x.Name, Labels: x.Labels, Annotations: x.Annotations, Value: x.Value, Firing: x.Firing,
				Since: x.Active, SilencedBy: d.SilencedBy(x.Labels)})
		}
		return st, nil
	})
	with("GET /v1/alerts/sent", func(_ *http.Request, d *alert.Dispatcher) (any, error) { return d.Sent(), nil })
	with("POST /v1/alerts/silences", func(r *http.Request, d *alert.Dispatcher) (any, error) {
		s, err := rpc.Decode[alert.Silence](r)
		if err != nil {
			return nil, err
		}
		return d.Silence(s)
	})
	with("DELETE /v1/alerts/silences/{id}", func(r *http.Request, d *alert.Dispatcher) (any, error) {
		return struct{}{}, d.Unsilence(r.PathValue("id"))
	})
	with("POST /v1/alerts/test/{receiver}", func(r *http.Request, d *alert.Dispatcher) (any, error) {
		ctx, cancel := context.WithTimeout(r.Context(), testWait)
		defer cancel()
		return struct{}{}, d.Test(ctx, r.PathValue("receiver"))
	})
}

// testWait bounds how long a receiver may take to be told of a test.
const testWait = 30 * time.Second
