package spec

import (
	"net/url"
	"strings"
)

// Traces says which requests leave spans at the edge, and which collector gets them.
type Traces struct {
	Endpoint string  `json:"endpoint" jsonschema:"the address of a collector that takes OTLP over HTTP, as the machine sees it: http://127.0.0.1:4318"`
	Sample   Percent `json:"sample,omitzero" jsonschema:"share of the traces that begin at the edge; of the others who began them has decided; default 100%"`
}

// On reports whether there are any.
func (t Traces) On() bool { return t.Endpoint != "" }

// tracesPath is what OTLP puts behind an endpoint.
const tracesPath = "/v1/traces"

func (d *decoder) tracesDefaults(t *Traces) {
	if d.places["route.traces"] != nil {
		def(d, "route.traces.sample", &t.Sample, Percent(100_000))
	}
}

// checkTraces holds an endpoint to its form.
func (d *decoder) checkTraces(t Traces) error {
	if d.places["route.traces"] == nil {
		return nil
	}
	const path, hint = "route.traces.endpoint", "write traces: {endpoint: http://127.0.0.1:4318}"
	if t.Endpoint == "" {
		return d.at(path, "where to?").Hinted(hint)
	}
	u, err := url.Parse(t.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "":
		if err == nil && u.User != nil {
			break // what is said of it below does not show it
		}
		return d.at(path, "%q is not the address of a collector", t.Endpoint).Hinted(hint)
	case strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), tracesPath):
		return d.at(path, "%s is put behind it anyway", tracesPath).Hinted("write %s", strings.TrimSuffix(strings.TrimSuffix(t.Endpoint, "/"), tracesPath))
	}
	if u.User != nil {
		return d.at(path, "a password does not belong here, where everybody reads it").Hinted("let a collector on the machine add it, and send there: http://127.0.0.1:4318")
	}
	return nil
}
