package spec

import "time"

const (
	defaultEjectFailures = 5
	defaultEjectFor      = Duration(10 * time.Second)
	defaultQueue         = 100
	defaultQueueWait     = Duration(2 * time.Second)
)

// Timeouts bound how long a request may take; what is 0 is not bounded.
type Timeouts struct {
	Request Duration `json:"request,omitzero" jsonschema:"from a request's arrival to the end of its answer; default: no bound"`
	Try     Duration `json:"try,omitzero" jsonschema:"from handing it to an instance to the beginning of the answer; default: no bound"`
}

// Eject leaves an instance out for a while; the other instances of its release take its share.
type Eject struct {
	Failures int      `json:"failures,omitempty" jsonschema:"5xx answers and requests it did not answer, in a row; default 5"`
	For      Duration `json:"for,omitzero" jsonschema:"the first time; up to ten times that when it goes on failing; default 10s"`
}

// Concurrency bounds the requests that the instances work on at once, all together.
type Concurrency struct {
	Limit int      `json:"limit" jsonschema:"requests under way"`
	Queue int      `json:"queue,omitempty" jsonschema:"how many more may wait their turn; default 100"`
	Wait  Duration `json:"wait,omitzero" jsonschema:"for how long; default 2s"`
}

// guardDefaults fills in what a protection that is asked for leaves open.
func (d *decoder) guardDefaults(r *Route) {
	if d.places["route.eject"] != nil {
		def(d, "route.eject.failures", &r.Eject.Failures, defaultEjectFailures)
		def(d, "route.eject.for", &r.Eject.For, defaultEjectFor)
	}
	if d.places["route.concurrency"] != nil {
		def(d, "route.concurrency.queue", &r.Concurrency.Queue, defaultQueue)
		def(d, "route.concurrency.wait", &r.Concurrency.Wait, defaultQueueWait)
	}
}

// checkGuard holds the protections of a route to what can be done.
func (d *decoder) checkGuard(r Route) error {
	if t := r.Timeouts; t.Request != 0 && t.Try >= t.Request {
		return d.at("route.timeouts.try", "%s is not less than the %s for the whole request: no instance could be late", t.Try, t.Request)
	}
	if d.places["route.eject"] != nil && (r.Eject.Failures < 1 || r.Eject.For <= 0) {
		return d.at("route.eject", "failures and for must be above zero").Hinted("write eject: {failures: 5, for: 10s}, or nothing")
	}
	switch c := r.Concurrency; {
	case d.places["route.concurrency"] == nil:
	case c.Limit < 1:
		return d.at("route.concurrency.limit", "at least one request must be let through").Hinted("write concurrency: {limit: 200, queue: 100, wait: 2s}")
	case c.Queue < 0 || c.Queue > 0 && c.Wait <= 0:
		return d.at("route.concurrency", "queue must not be negative, and wait must be above zero for those in it").Hinted("write queue: 0 for no waiting")
	}
	return nil
}
