package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// strategies are what release.strategy may say.
var strategies = []string{"recreate", "rolling", "blue-green", "canary"}

// UseStrategy replaces the strategy of a spec that was loaded, and the time each of its steps is watched where that was left
// out. A strategy that is none is a [fail.Usage].
func (s *Spec) UseStrategy(name string) error {
	if !slices.Contains(strategies, name) {
		return fail.New(fail.Usage, "", "the strategy %q is none of %s", name, strings.Join(strategies, ", "))
	}
	if s.Release.Strategy != name && s.Release.Watch == defaultWatch && name == "canary" {
		s.Release.Watch = defaultCanaryWatch
	}
	s.Release.Strategy = name
	return nil
}

func (d *decoder) checkRelease(s *Spec) error {
	r := s.Release
	if err := d.oneOf("release.strategy", r.Strategy, strategies...); err != nil {
		return err
	}
	for i, g := range r.Gates {
		if err := d.checkGate(fmt.Sprintf("release.gates[%d]", i), g); err != nil {
			return err
		}
	}
	if err := d.checkEvidence(r); err != nil {
		return err
	}
	if err := d.checkExtras(s); err != nil {
		return err
	}
	last := Percent(0)
	for i, p := range r.Steps {
		if p <= last {
			return d.at(fmt.Sprintf("release.steps[%d]", i), "%s is not more than the step before", p)
		}
		if p%1000 != 0 {
			return d.at(fmt.Sprintf("release.steps[%d]", i), "%s is finer than 1 %%, which is the finest split", p)
		}
		last = p
	}
	if r.Strategy == "rolling" && r.Surge.Of(s.Run.Instances, true) == 0 && r.Unavailable.Of(s.Run.Instances, false) == 0 {
		return d.at("release", "rolling with neither surge nor unavailable instances cannot move").Hinted("write surge: 1")
	}
	if r.Keep < 1 {
		return d.at("release.keep", "at least one old release is kept")
	}
	return nil
}

// checkGate holds one gate to its form.
func (d *decoder) checkGate(path string, g Gate) error {
	kinds := 0
	for _, set := range []bool{g.Check != "", len(g.Compare) > 0, g.PromQL != "", g.HTTP != "", len(g.Exec) > 0, g.Webhook != "", g.Window != "", g.Approve != ""} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return d.at(path, "exactly one of check, compare, promql, http, exec, webhook, window and approve is wanted, here are %d", kinds)
	}
	if g.Else != "" {
		if err := d.oneOf(path+".else", g.Else, "rollback", "pause", "warn"); err != nil {
			return err
		}
	}
	if (g.FalseAlarm != 0 || g.Margin != 0) && len(g.Compare) == 0 {
		return d.at(path, "false_alarm and margin belong to compare")
	}
	for i, c := range g.Compare {
		if err := d.oneOf(fmt.Sprintf("%s.compare[%d]", path, i), c, "errors", "latency"); err != nil {
			return err
		}
	}
	switch {
	case g.Check != "":
		if _, err := ParseCheck(g.Check); err != nil {
			return d.at(path+".check", "%v", err)
		}
	case g.Window != "":
		if _, err := ParseWindow(g.Window); err != nil {
			return d.at(path+".window", "%v", err)
		}
	case g.Webhook != "" && !strings.HasPrefix(g.Webhook, "https://") && !strings.HasPrefix(g.Webhook, "http://"):
		return d.at(path+".webhook", "that is not an address").Hinted("write https://...") // it may hold a token, so it is not shown
	case g.HTTP != "" && !strings.HasPrefix(g.HTTP, "/"):
		return d.at(path+".http", "%q is not a path: write /smoke", g.HTTP)
	case g.Approve != "":
		return d.oneOf(path+".approve", g.Approve, "before", "steps")
	}
	return nil
}

func (d *decoder) checkEvidence(r Release) error {
	if err := d.oneOf("release.evidence.inconclusive", r.Evidence.Inconclusive, "pause", "promote", "rollback"); err != nil {
		return err
	}
	if r.Evidence.Requests < 1 || r.Evidence.Wait <= 0 {
		return d.at("release.evidence", "requests and wait must be above zero")
	}
	if p := r.Evidence.Prometheus; p != "" && !strings.HasPrefix(p, "http://") && !strings.HasPrefix(p, "https://") {
		return d.at("release.evidence.prometheus", "%q is not an address: write https://prometheus.example.com", p)
	}
	if p := r.Evidence.Probe; p != (TopUp{}) && (!strings.HasPrefix(p.HTTP, "/") || p.Rate < 1 || p.Rate > maxTopUp) {
		return d.at("release.evidence.probe", "wants a path and at most %d requests a second: write {http: /, rate: 20}", maxTopUp)
	}
	kind, name, named := strings.Cut(r.Sticky, ":")
	if r.Sticky != "" && !(r.Sticky == "client" || (kind == "cookie" || kind == "header") && named && programForm.MatchString(name)) {
		return d.at("release.sticky", "%q is none of client, cookie:NAME, header:NAME", r.Sticky)
	}
	return nil
}

// checkExtras holds the dark launch and the hooks to what can be done.
func (d *decoder) checkExtras(s *Spec) error {
	r := s.Release
	switch m := r.Mirror; {
	case m.For < 0 || m.For == 0 && m.Share != 0:
		return d.at("release.mirror", "for must be above zero: write {share: 10%%, for: 5m}")
	case m.For != 0 && m.Share%1000 != 0:
		return d.at("release.mirror.share", "%s is finer than 1 %%, which is the finest split", m.Share)
	case m.For != 0 && (r.Strategy == "recreate" || r.Strategy == "rolling"):
		return d.at("release.mirror", "a dark launch needs both releases side by side").Hinted("write strategy: blue-green or canary")
	}
	if h := r.Hooks; (h.Before != nil || h.After != nil) && h.Timeout <= 0 {
		return d.at("release.hooks.timeout", "must be above zero")
	}
	for _, hook := range []struct {
		name string
		argv []string
	}{{"before", r.Hooks.Before}, {"after", r.Hooks.After}} {
		name, argv := hook.name, hook.argv
		if len(argv) == 0 {
			continue
		}
		if _, own := s.Build.Programs[argv[0]]; !own && argv[0] != s.Service && !strings.HasPrefix(argv[0], "/") {
			e := d.at("release.hooks."+name, "%q is no program of this service", argv[0])
			return e.Hinted("name it under build.programs, as {%s: ./cmd/%s}, or write an absolute path", argv[0], argv[0])
		}
	}
	return nil
}

// maxTopUp bounds synthetic traffic: it must not be what loads the service.
const maxTopUp = 200
