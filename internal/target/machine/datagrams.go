package machine

import (
	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// datagramsOf is how a spec wants its route's datagrams passed on, nil where it is one of TCP.
func datagramsOf(s *spec.Spec) *edge.Datagrams {
	if !s.Route.Datagrams() {
		return nil
	}
	return &edge.Datagrams{Idle: s.Route.Timeouts.Idle.D(), Drain: s.Run.Stop.Drain.D()}
}
