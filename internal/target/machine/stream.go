package machine

import (
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// streamOf is how a spec wants its route's connections passed on, nil where the edge reads requests.
func streamOf(r spec.Route) *edge.Stream {
	if !r.Streams() {
		return nil
	}
	version := map[string]int{"": 0, "v1": 1, "v2": 2}[r.SendProxy]
	return &edge.Stream{Passthrough: r.TLS == "passthrough", Introduce: version, Idle: r.Timeouts.Idle.D()}
}
