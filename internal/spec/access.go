package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	defaultSlow      = Duration(time.Second)
	maxAccessHeaders = 20
)

// AccessLog says which requests the edge writes down, and what of them.
type AccessLog struct {
	Sample  Percent  `json:"sample,omitzero" jsonschema:"share of the requests that get a line; those that failed or were slow all do; default 100%"`
	Slow    Duration `json:"slow,omitzero" jsonschema:"what takes longer is slow; 0s for nothing; default 1s"`
	Query   bool     `json:"query,omitempty" jsonschema:"with what stands behind the path's question mark, where secrets often are"`
	Headers []string `json:"headers,omitempty" jsonschema:"headers of the request that are written down, as [User-Agent, X-Request-Id]"`
	Size    Bytes    `json:"size,omitzero" jsonschema:"what is kept on a machine; default 256MiB"`
	Age     Duration `json:"age,omitzero" jsonschema:"for how long; default 168h"`
}

// On reports whether there is an access log at all.
func (a AccessLog) On() bool { return a.Size > 0 }

// secretHeaders are let nowhere near a log.
var secretHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"}

// accessDefaults fills in what an access log that is asked for leaves open.
func (d *decoder) accessDefaults(a *AccessLog) {
	if d.places["route.access_log"] == nil {
		return
	}
	def(d, "route.access_log.sample", &a.Sample, Percent(100_000))
	def(d, "route.access_log.slow", &a.Slow, defaultSlow)
	def(d, "route.access_log.size", &a.Size, defaultLogSize)
	def(d, "route.access_log.age", &a.Age, defaultLogAge)
}

// checkAccess holds what is written down to what may be.
func (d *decoder) checkAccess(a AccessLog) error {
	if d.places["route.access_log"] == nil {
		return nil
	}
	if a.Size < minLogSize {
		return d.at("route.access_log.size", "%s is too little to keep anything; at least %s", a.Size, minLogSize)
	}
	if len(a.Headers) > maxAccessHeaders {
		return d.at("route.access_log.headers", "%d are more than the %d that a line may have", len(a.Headers), maxAccessHeaders)
	}
	for i, h := range a.Headers {
		path := fmt.Sprintf("route.access_log.headers[%d]", i)
		same := func(o string) bool { return strings.EqualFold(o, h) }
		switch {
		case !headerForm.MatchString(h) || strings.Contains(h, ":"):
			return d.at(path, "%q is not the name of a header", h).Hinted("write headers: [User-Agent, X-Request-Id]")
		case slices.ContainsFunc(secretHeaders, same):
			return d.at(path, "%s is a secret of who sends it, and a log is read by others", h).Hinted("remove it")
		case same("Host"):
			return d.at(path, "the host is in each line already, as server.address").Hinted("remove it")
		case slices.ContainsFunc(a.Headers[:i], same):
			return d.at(path, "%s stands here a second time", h)
		}
	}
	return nil
}
