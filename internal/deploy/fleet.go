package deploy

import (
	"cmp"
	"context"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/preflight"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Receipt is of this machine or of a fleet.
type Receipt struct {
	Machine *api.Receipt
	Fleet   *fleet.Receipt
}

// upFleet is Up where the environment's target is machines that are reached over SSH: the same artifact goes to all of them before anything
// is changed on one, and each one's agent runs its part.
func (d Deploy) upFleet(ctx context.Context, s *spec.Spec, secrets map[string]string) (*fleet.Receipt, error) {
	f, made, err := d.makeFor(ctx, s)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Prepare(ctx, d.Exe); err != nil {
		return nil, err
	}
	return f.Roll(ctx, d.over(s, made, secrets))
}

// planFleet is upFleet without what changes anything on a host.
func (d Deploy) planFleet(ctx context.Context, s *spec.Spec) (*fleet.Plan, error) {
	f, made, err := d.makeFor(ctx, s)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := f.Plan(ctx, d.over(s, made, nil))
	return &p, nil
}

// makeFor builds for the hosts of s, to which it connects first: they say for which platforms. The caller closes the fleet.
func (d Deploy) makeFor(ctx context.Context, s *spec.Spec) (*fleet.Fleet, *Made, error) {
	if err := d.preflight(ctx, s); err != nil {
		return nil, nil, err
	}
	f, err := d.open(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	var made *Made
	if err = buildFor(s, f); err == nil {
		made, err = d.make(ctx, s)
	}
	if err != nil {
		f.Close()
	}
	return f, made, err
}

// over is a deploy as the fleet sees it.
func (d Deploy) over(s *spec.Spec, made *Made, secrets map[string]string) fleet.Rollout {
	return fleet.Rollout{Kind: api.FleetDeploy, Service: s.Service, Environment: s.Environment, Fleet: s.Release.Fleet,
		Ready: func(ctx context.Context, h *fleet.Host) error { return d.to(h).publish(ctx, h.Client, made) },
		Draft: func(h *fleet.Host) api.Draft {
			draft := d.draft(made, secrets)
			draft.Artifact = made.artifact(h.Facts.Platform)
			return draft
		}}
}

// to is d for what is sent to a host: its events name it, and what it has already is not sent again, as the way there is long.
func (d Deploy) to(h *fleet.Host) Deploy {
	events := d.Events
	d.Events = func(e event.Event) {
		e.Text = h.Name + ": " + e.Text
		events.Send(e)
	}
	if d.Delta == DeltaAuto || d.Delta == "" {
		d.Delta = DeltaAlways
	}
	return d
}

// rollbackFleet goes back on every host of the environment.
func (d Deploy) rollbackFleet(ctx context.Context, s *spec.Spec, id release.ID) (*fleet.Receipt, error) {
	f, err := d.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Roll(ctx, fleet.Rollout{Kind: api.FleetRollback, Service: s.Service, Environment: s.Environment, Fleet: s.Release.Fleet, Release: id})
}

// Fleet connects to the machines of the environment that the spec in Dir names; nil where its target is this machine. The caller closes it.
func (d Deploy) Fleet(ctx context.Context) (*fleet.Fleet, *spec.Spec, error) {
	s, err := spec.Load(d.Dir, d.Env)
	if err != nil || len(s.Target.SSH) == 0 {
		return nil, s, err
	}
	f, err := d.open(ctx, s)
	return f, s, err
}

// elsewhere is the spec in this folder, where it is of that service and its target is other machines; nil where commands mean this machine.
func (d Deploy) elsewhere(service string) *spec.Spec {
	s, err := spec.Load(cmp.Or(d.Dir, "."), d.Env)
	if err != nil || s.Service != service || len(s.Target.SSH) == 0 {
		return nil
	}
	return s
}

// open connects to the hosts of s and looks what they are.
func (d Deploy) open(ctx context.Context, s *spec.Spec) (*fleet.Fleet, error) {
	f := fleet.Open(ctx, fleet.Options{SSH: d.ssh(), Hosts: s.Target.SSH, By: d.By, Events: d.Events})
	f.LeavePaused = d.LeavePaused
	if err := f.Look(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d Deploy) ssh() remote.Options {
	o := d.SSH
	o.Getenv = d.Getenv
	o.Passphrase = d.Passphrase
	return o
}

// buildFor makes s be built for the platforms of the hosts that answer.
func buildFor(s *spec.Spec, f *fleet.Fleet) error {
	var wanted []string
	for _, h := range f.Hosts {
		p := h.Facts.Platform
		if h.Err != nil || slices.Contains(wanted, p.String()) {
			continue
		}
		wanted = append(wanted, p.String())
		if len(s.Build.Platforms) > 0 && !slices.ContainsFunc(s.Build.Platforms, func(text string) bool {
			b, err := platform.Parse(text)
			return err == nil && b.OS == p.OS && b.Arch == p.Arch
		}) {
			return fail.New(fail.Usage, "build.platforms", "%s is %s, which the service is not built for", h.Name, p).Hinted("add %s", p)
		}
	}
	if len(s.Build.Platforms) == 0 {
		s.Build.Platforms = wanted
	}
	return nil
}

// preflightFor are preflight's parameters for a service that runs on other machines: its source and what builds it are here.
func preflightFor(p preflight.Params, s *spec.Spec) preflight.Params {
	p.Elsewhere = len(s.Target.SSH) > 0
	return p
}
