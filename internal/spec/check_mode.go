package spec

import "slices"

// The values of route.mode.
const (
	ModeProxy    = "proxy"
	ModeKernel   = "kernel"
	ModeAdaptive = "adaptive"
)

// checkMode refuses what needs somebody who reads requests, where the kernel hands over connections that nobody reads.
func (d *decoder) checkMode(s *Spec) error {
	r := s.Route
	if err := d.oneOf("route.mode", r.Mode, ModeProxy, ModeKernel, ModeAdaptive); err != nil || r.Mode == ModeProxy {
		return err
	}
	needs := []setting{
		{"route.hosts", len(r.Hosts) > 0}, {"route.paths", len(r.Paths) > 0}, {"route.methods", len(r.Methods) > 0}, {"route.header", r.Header != ""}, {"route.tls", r.TLS != "off" && r.TLS != ""},
		{"route.headers.request", len(r.Headers.Request.Set)+len(r.Headers.Request.Remove) > 0},
		{"route.headers.response", len(r.Headers.Response.Set)+len(r.Headers.Response.Remove) > 0},
		{"route.trusted", len(r.Trusted) > 0}, {"route.timeouts", r.Timeouts != Timeouts{}}, {"route.eject", r.Eject != Eject{}},
		{"route.concurrency", r.Concurrency != Concurrency{}}, {"route.rate", len(r.Rate) > 0}, {"route.body", r.Body != 0},
		{"route.allow", len(r.Allow) > 0}, {"route.send_proxy", r.SendProxy != ""}, {"route.faults", len(r.Faults) > 0}, {"route.access_log", r.AccessLog.On()},
		{"route.traces", r.Traces.On()}, {"route.compress", r.Compress.On()}, {"route.cache", r.Cache.On()}, {"route.hedge", r.Hedge.On()}, {"route.auth", r.Auth.On()}, {"route.redirects", len(r.Redirects) > 0}, {"route.unavailable", r.Unavailable != ""},
	}
	if r.Mode == ModeKernel { // in the adaptive mode a rollout goes through the proxy
		needs = append(needs, setting{"route.preview", r.Preview.On()}, setting{"release.mirror", s.Release.Mirror.For > 0},
			setting{"release.sticky", s.Release.Sticky != "" && s.Release.Sticky != "client"})
	}
	if i := slices.IndexFunc(needs, func(n setting) bool { return n.set }); i >= 0 {
		e := d.at(needs[i].path, "this is done by who reads requests, and with route.mode: %s the kernel hands over connections that nobody reads", r.Mode)
		return e.Hinted("remove it, or set route.mode: proxy")
	}
	return nil
}
