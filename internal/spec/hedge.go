package spec

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Hedge says when a request that no instance has begun to answer is sent to a second one as well.
type Hedge struct {
	After string `json:"after" jsonschema:"how long to wait for the first one, as 50ms, or p95: longer than 95 of a hundred took lately"`
}

// On reports whether any request is.
func (h Hedge) On() bool { return h.After != "" }

// ParseAfter reads how long a hedge waits: a time, or a percentile of what it took lately. The error says how it is written.
func ParseAfter(s string) (after time.Duration, percentile int, err error) {
	if p, ok := strings.CutPrefix(s, "p"); ok {
		n, err := strconv.Atoi(p)
		if err != nil || strconv.Itoa(n) != p || n < 50 || n > 99 {
			return 0, 0, fmt.Errorf("%q is no percentile from p50 to p99: write p95", s)
		}
		return 0, n, nil
	}
	var d Duration
	if err := d.parse(s); err != nil {
		return 0, 0, err
	}
	if d.D() < time.Millisecond {
		return 0, 0, fmt.Errorf("%q would send everything twice: at least 1ms", s)
	}
	return d.D(), 0, nil
}

// checkHedge holds a hedge to its form.
func (d *decoder) checkHedge(r Route) error {
	if d.places["route.hedge"] == nil {
		return nil
	}
	const path, hint = "route.hedge.after", "write hedge: {after: p95}, or a time as 50ms"
	after, _, err := ParseAfter(r.Hedge.After)
	switch {
	case r.Hedge.After == "":
		return d.at(path, "after what time?").Hinted(hint)
	case err != nil:
		return d.at(path, "%v", err).Hinted(hint)
	case r.Timeouts.Try > 0 && after >= r.Timeouts.Try.D(), r.Timeouts.Request > 0 && after >= r.Timeouts.Request.D():
		return d.at(path, "%s is not less than what route.timeouts leaves: nobody would be asked a second time", r.Hedge.After)
	}
	return nil
}
