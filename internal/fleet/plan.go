package fleet

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// Plan is what a deploy would do.
type Plan struct {
	Service     string     `json:"service"`
	Environment string     `json:"environment"`
	Release     release.ID `json:"release"`
	Waves       [][]string `json:"waves"`
	Hosts       []HostPlan `json:"hosts"`
}

// HostPlan is a host's part in it.
type HostPlan struct {
	Host  string        `json:"host"`
	Bare  bool          `json:"bare,omitempty"` // fairlead is not there yet: the first release has no way there from another one
	Plan  *rollout.Plan `json:"plan,omitempty"`
	Error *fail.Error   `json:"error,omitempty"`
}

// Plan asks every host what its part in a deploy would be. Nothing is changed anywhere.
func (f *Fleet) Plan(ctx context.Context, r Rollout) Plan {
	p := Plan{Service: r.Service, Environment: r.Environment, Release: 1, Waves: Waves(f.names(), r.Fleet), Hosts: make([]HostPlan, len(f.Hosts))}
	seats := make([]api.Seat, len(f.Hosts))
	each := func(do func(n int, h *Host) error) {
		for i, err := range f.each(f.Hosts, func(h *Host) error {
			n := slices.Index(f.Hosts, h)
			if p.Hosts[n].Host = h.Name; h.Err == nil && !h.Facts.Runs {
				p.Hosts[n].Bare = true
				return nil
			}
			return do(n, h)
		}) {
			p.Hosts[i].Host, p.Hosts[i].Error = f.Hosts[i].Name, fail.As(err)
		}
	}
	each(func(n int, h *Host) (err error) {
		seats[n], err = h.Client.Seat(ctx, r.Service, r.Environment)
		return err
	})
	for _, s := range seats {
		p.Release = max(p.Release, s.Next)
	}
	each(func(n int, h *Host) error {
		d := r.Draft(h)
		d.Release = p.Release
		planned, err := h.Client.Plan(ctx, d)
		if err != nil {
			return err
		}
		p.Hosts[n].Plan = &rollout.Plan{}
		return json.Unmarshal(planned.Plan, p.Hosts[n].Plan)
	})
	return p
}
