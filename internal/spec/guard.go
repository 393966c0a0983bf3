package spec

// Timeouts bound how long a request may take; what is 0 is not bounded.
type Timeouts struct {
	Request Duration `json:"request,omitzero" jsonschema:"from a request's arrival to the end of its answer; default: no bound"`
	Try     Duration `json:"try,omitzero" jsonschema:"from handing it to an instance to the beginning of the answer; default: no bound"`
}

// guardDefaults fills in what a protection that is asked for leaves open.
func (d *decoder) guardDefaults(*Route) {}

// checkGuard holds the protections of a route to what can be done.
func (d *decoder) checkGuard(r Route) error {
	if t := r.Timeouts; t.Request != 0 && t.Try >= t.Request {
		return d.at("route.timeouts.try", "%s is not less than the %s for the whole request: no instance could be late", t.Try, t.Request)
	}
	return nil
}
