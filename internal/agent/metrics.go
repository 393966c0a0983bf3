package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rpc"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// How often the agent measures, and looks which instances there are to ask for their own metrics.
const (
	measureEvery = 5 * time.Second
	targetsEvery = time.Second
	expiryEvery  = 15 * time.Second
)

// openMetrics opens the time series database. Without it the agent does everything but answer PromQL: a full disk must not
// take the machine's brain away.
func (a *Agent) openMetrics() {
	db, err := metrics.Open(metrics.Options{Dir: a.dirs.Metrics(), Version: a.info.Version, Log: a.log, Notify: a.dispatch})
	if err != nil {
		a.log.Error("no metrics are kept", "error", err)
		return
	}
	a.metrics, a.promAPI = db, db.API()
	db.Source("edge", measureEvery, metrics.Gather(edge.Gatherer(a.stats)))
	db.Source("instances", measureEvery, metrics.Instances(a.measured))
	db.Source("disk", measureEvery, metrics.Disks(a.dirs.State))
	db.Source("certificates", expiryEvery, metrics.Expiries(a.expiries))
}

// expiries are when the certificates in use end, by host.
func (a *Agent) expiries(ctx context.Context) (map[string]time.Time, error) {
	found, err := a.machine.Certificates(ctx)
	out := map[string]time.Time{}
	for _, c := range found.All {
		for _, n := range c.Names {
			if !c.NotAfter.IsZero() {
				out[n] = c.NotAfter
			}
		}
	}
	return out, err
}

// measured are the instances that are wanted.
func (a *Agent) measured(ctx context.Context) ([]metrics.Instance, error) {
	snap, err := a.machine.Supervised(ctx)
	var out []metrics.Instance
	for _, i := range wanted(snap.Instances) {
		out = append(out, metrics.Instance{Service: i.Service, Environment: i.Environment, Release: i.Release, Instance: i.Number, PID: i.Process.PID,
			Ready: i.State == supervise.Ready, Restarts: i.Restarts})
	}
	return out, err
}

// wanted leaves out those that end.
func wanted(all []supervise.Instance) []supervise.Instance {
	return slices.DeleteFunc(all, func(i supervise.Instance) bool { return i.State == supervise.Stopping || i.State == supervise.Stopped })
}

// scrape keeps the targets in step with the instances whose spec names a path for metrics.
func (a *Agent) scrape() {
	if a.metrics == nil {
		return
	}
	paths := map[[3]string]string{} // by service, environment and release, which never changes
	var last []metrics.Target
	a.every(targetsEvery, func() {
		var targets []metrics.Target
		for _, i := range wanted(a.machine.All()) {
			if path := a.metricsPath(paths, i); path != "" && i.State != supervise.Starting {
				targets = append(targets, metrics.Target{URL: "http://" + i.Addr() + path, Labels: map[string]string{"service": i.Service,
					"environment": i.Environment, "release": strconv.Itoa(i.Release), "instance": strconv.Itoa(i.Number)}})
			}
		}
		if reflect.DeepEqual(targets, last) {
			return
		}
		if err := a.metrics.Targets(targets); err != nil {
			a.log.Error("services' own metrics are not asked for", "error", err)
		}
		last = targets
	})
}

func (a *Agent) metricsPath(known map[[3]string]string, i supervise.Instance) string {
	key := [3]string{i.Service, i.Environment, strconv.Itoa(i.Release)}
	if path, ok := known[key]; ok {
		return path
	}
	r, err := a.journal.Release(a.ctx, i.Service, i.Environment, release.ID(i.Release))
	var s spec.Spec
	if err != nil || json.Unmarshal(r.Config, &s) != nil {
		return ""
	}
	known[key] = s.Run.Metrics
	return s.Run.Metrics
}

// prometheus serves Prometheus's HTTP API over what the agent keeps.
func (a *Agent) prometheus(w http.ResponseWriter, r *http.Request) {
	if a.metrics == nil {
		rpc.WriteError(w, fail.New(fail.Unavailable, "", "this machine keeps no metrics; the agent's log says why"))
		return
	}
	a.promAPI.ServeHTTP(w, r)
}
