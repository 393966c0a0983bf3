package spec

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

const (
	maxHosts      = 1000
	maxFleetPause = 24 * time.Hour
)

// destForm is [USER@]HOST[:PORT], or a name of ssh's configuration. A dash in front would be taken for an option by other tools.
var destForm = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]*@)?(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9_][A-Za-z0-9._-]*)(:[0-9]{1,5})?$`)

func (d *decoder) fleetDefaults(s *Spec) {
	f := &s.Release.Fleet
	if len(s.Target.SSH) > 1 {
		def(d, "release.fleet.canary", &f.Canary, 1)
	}
	if len(s.Target.SSH) > 0 && f.Batch.IsZero() {
		f.Batch = Amount{Share: Percent(25_000), Set: true}
	}
}

func (d *decoder) checkFleet(s *Spec) error {
	hosts := s.Target.SSH
	if len(hosts) > maxHosts {
		return d.at("target.ssh", "%d hosts are more than the %d that one environment may have", len(hosts), maxHosts)
	}
	for i, h := range hosts {
		at := fmt.Sprintf("target.ssh[%d]", i)
		if !destForm.MatchString(h) {
			return d.at(at, "%q is not a host", h).Hinted("write USER@HOST, USER@HOST:PORT, or a Host of ~/.ssh/config")
		}
		if slices.Contains(hosts[:i], h) {
			return d.at(at, "%s is there twice", h)
		}
	}
	f := s.Release.Fleet
	if len(hosts) == 0 {
		if f != (Fleet{}) {
			return d.at("release.fleet", "is about several machines, and there is only this one").Hinted("name them: `target: {ssh: [deploy@web1.example.com]}`, here or in an environment")
		}
		return nil
	}
	switch {
	case s.Route.Listen == "":
		return d.at("route.listen", "is missing: on other machines fairlead does not choose an address").Hinted("write `route: {listen: \":80\"}`, or another port")
	case s.Target.Kubernetes != nil:
		return d.at("target", "has hosts and a cluster").Hinted("give each an environment of its own")
	case f.Canary < 0 || f.Canary > len(hosts):
		return d.at("release.fleet.canary", "%d of %d hosts cannot be first", f.Canary, len(hosts))
	case f.Batch.Share == 0 && f.Batch.N < 1 || f.Batch.Share > 100_000:
		return d.at("release.fleet.batch", "%s is no number of hosts", f.Batch).Hinted("write a number above 0, or a share as 25%%")
	case f.Pause < 0 || f.Pause.D() > maxFleetPause:
		return d.at("release.fleet.pause", "%s is not between 0s and %s", f.Pause, maxFleetPause)
	case f.Failures < 0 || f.Failures >= len(hosts):
		return d.at("release.fleet.max_failures", "%d of %d hosts cannot fail: then no host has the release", f.Failures, len(hosts))
	}
	return nil
}
