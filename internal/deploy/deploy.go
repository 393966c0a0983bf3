// Package deploy is the story of fairlead: how a folder of Go source becomes served traffic, and how it goes back.
//
//	load spec -> preflight -> build -> bundle -> publish -> plan -> run the rollout -> receipt -> history
//
// Everything up to the plan happens here and changes nothing. The rollout itself runs in the agent, so that it goes on or
// goes back by itself when this process is ended. Over several machines it runs in the agent of each, led from here.
package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/fairlead-dev/fairlead/internal/agent"
	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/fleet"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/preflight"
	"github.com/fairlead-dev/fairlead/internal/registry"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Deploy is one service on its way. Its methods report to Events and return errors with a kind and a hint.
type Deploy struct {
	Dir      string // the service's folder
	Env      string // environment; "" for the default one
	Strategy string // in place of the spec's; "" for the spec's
	Dirs     home.Dirs
	Exe      string // this program, for a machine without an agent
	Version  string // of this program
	By       string // who asks: user@host, pid
	Getenv   func(string) string
	Events   event.Sink

	// LeavePaused ends what is followed with a [fail.Paused] when it waits for a person. The rollout stays as it is.
	LeavePaused bool

	// Passphrase asks a person; it fails where there is none.
	Passphrase func(prompt string) ([]byte, error)
	Registry   registry.Options
	Agent      *api.Client    // of the machine that Rollback and Restart are about; nil for this one's
	SSH        remote.Options // how hosts are reached; Getenv and Passphrase are those above
	Delta      string         // when a machine is sent only what changed: DeltaAuto (also ""), DeltaAlways or DeltaNever
}

// Up deploys the source in Dir: it returns the receipt once the new release serves all traffic, or an error after which
// the old one serves as before.
func (d Deploy) Up(ctx context.Context) (r Receipt, err error) {
	s, err := d.load()
	if err != nil {
		return r, err
	}
	secrets, err := readSecrets(s, d.Getenv)
	if err != nil {
		return r, err
	}
	if len(s.Target.SSH) > 0 {
		r.Fleet, err = d.upFleet(ctx, s, secrets)
	} else {
		r.Machine, err = d.upHere(ctx, s, secrets)
	}
	return r, err
}

// upHere is Up where the target is this machine.
func (d Deploy) upHere(ctx context.Context, s *spec.Spec, secrets map[string]string) (*api.Receipt, error) {
	if err := d.preflight(ctx, s); err != nil {
		return nil, err
	}
	made, err := d.make(ctx, s)
	if err != nil {
		return nil, err
	}
	draft := d.draft(made, secrets)
	machine, err := agent.Up(ctx, d.Dirs, d.Exe)
	if err != nil {
		return nil, err
	}
	if err := d.publish(ctx, machine, made); err != nil {
		return nil, err
	}
	planned, err := machine.Plan(ctx, draft)
	if err != nil {
		return nil, err
	}
	if err := d.announce(planned); err != nil {
		return nil, err
	}
	started, err := machine.Deploy(ctx, draft)
	if err != nil {
		return nil, err
	}
	return d.follow(ctx, machine, started.Rollout)
}

// Planned is what a deploy would do: on this machine, or on a fleet.
type Planned struct {
	Machine rollout.Plan
	URL     string
	Fleet   *fleet.Plan
}

// Plan is Up without its last step: it says what would happen and changes nothing that serves.
func (d Deploy) Plan(ctx context.Context) (p Planned, err error) {
	s, err := d.load()
	if err != nil {
		return p, err
	}
	if len(s.Target.SSH) > 0 {
		p.Fleet, err = d.planFleet(ctx, s)
		return p, err
	}
	if err := d.preflight(ctx, s); err != nil {
		return p, err
	}
	made, err := d.make(ctx, s)
	if err != nil {
		return p, err
	}
	machine, err := agent.Up(ctx, d.Dirs, d.Exe)
	if err != nil {
		return p, err
	}
	planned, err := machine.Plan(ctx, d.draft(made, nil))
	if err != nil {
		return p, err
	}
	p.URL = planned.URL
	return p, json.Unmarshal(planned.Plan, &p.Machine)
}

// CheckOptions say how far a check goes.
type CheckOptions struct {
	Fix    bool   // mend what is safe to mend, and look again
	Vulns  bool   // scan for known vulnerabilities also where the spec does not ask for it
	VulnDB string // the database for that; "" means the spec's
}

// Check looks at everything that could make a deploy fail.
func (d Deploy) Check(ctx context.Context, o CheckOptions) ([]preflight.Finding, error) {
	s, err := spec.Load(d.Dir, d.Env)
	if err != nil {
		return nil, err
	}
	if o.VulnDB != "" {
		s.Build.Vulns.DB = o.VulnDB
	}
	p := preflightFor(d.checks(ctx, s), s)
	p.Vulns = o.Vulns
	if !o.Fix {
		return preflight.Run(ctx, p, d.Events)
	}
	found, err := preflight.Run(ctx, p, nil)
	if err != nil {
		return found, err
	}
	fixed, err := preflight.Fix(ctx, p, found)
	for _, f := range fixed {
		d.Events.Send(event.Event{Type: "fixed", Text: f.ID + ": " + f.Found, Data: f})
	}
	if err != nil {
		return found, fail.New(fail.Preflight, "fix", "%w", err)
	}
	return preflight.Run(ctx, p, d.Events)
}

// Rollback goes back to release id, or to the one before when id is 0.
func (d Deploy) Rollback(ctx context.Context, service string, id release.ID) (r Receipt, err error) {
	if s := d.elsewhere(service); s != nil && d.Agent == nil {
		r.Fleet, err = d.rollbackFleet(ctx, s, id)
		return r, err
	}
	c := d.agent()
	started, err := c.Rollback(ctx, d.move(service, id))
	if err != nil {
		return r, err
	}
	r.Machine, err = d.follow(ctx, c, started.Rollout)
	return r, err
}

// Restart replaces every instance of the current release by a new one, without a gap.
func (d Deploy) Restart(ctx context.Context, service string) (*api.Receipt, error) {
	c := d.agent()
	started, err := c.Restart(ctx, d.move(service, 0))
	if err != nil {
		return nil, err
	}
	return d.follow(ctx, c, started.Rollout)
}

// load reads the spec as it holds for the environment and this deploy.
func (d Deploy) load() (*spec.Spec, error) {
	s, err := spec.Load(d.Dir, d.Env)
	if err == nil && d.Strategy != "" {
		err = s.UseStrategy(d.Strategy)
	}
	if err == nil {
		err = readFiles(s)
	}
	return s, err
}

func (d Deploy) agent() *api.Client {
	if d.Agent != nil {
		return d.Agent
	}
	return api.Dial(d.Dirs)
}

func (d Deploy) move(service string, id release.ID) api.Move {
	return api.Move{Service: service, Environment: d.env(), Release: id, By: d.By}
}

func (d Deploy) env() string {
	if d.Env == "" {
		return spec.DefaultEnvironment
	}
	return d.Env
}

func (d Deploy) preflight(ctx context.Context, s *spec.Spec) error {
	p := preflightFor(d.checks(ctx, s), s)
	p.VerifyEvery = 24 * time.Hour // `fairlead check` always makes it
	found, err := preflight.Run(ctx, p, d.Events)
	if err != nil {
		return err
	}
	return preflight.Refuses(found)
}

// make is build and bundle: from source to an artifact in this user's store.
func (d Deploy) make(ctx context.Context, s *spec.Spec) (*Made, error) {
	key, err := d.key(s)
	if err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // buffers come and go here, and little of it stays
	a := &ahead{key: key, zones: zones(ctx, s.Dir)}
	built, err := d.build(ctx, s, a)
	if err != nil {
		return nil, err
	}
	defer built.Close()
	return d.bundle(ctx, s, built, a)
}

// draft is what the agent is asked for: the resolved configuration, the artifact and the values of the secrets.
func (d Deploy) draft(m *Made, secrets map[string]string) api.Draft {
	resolved := *m.Spec
	resolved.Environments = nil
	return api.Draft{Environment: m.Spec.Environment, Spec: resolved, Artifact: m.artifact(platform.Host()), Secrets: secrets, By: d.By}
}

// announce tells what is about to happen.
func (d Deploy) announce(planned api.Planned) error {
	var p rollout.Plan
	if err := json.Unmarshal(planned.Plan, &p); err != nil {
		return err
	}
	d.Events.Send(event.Event{Type: "plan", Service: p.Service, Release: int(p.New), Steps: len(p.Steps),
		Text: fmt.Sprintf("%s: release %d, %s, %d steps", p.Service, p.New, p.Strategy, len(p.Steps)), Data: p})
	return nil
}

// follow shows a rollout until its end. When ctx is done it asks the agent to go back, and still waits for the end: a
// rollout never stays half way.
func (d Deploy) follow(ctx context.Context, c *api.Client, id int64) (*api.Receipt, error) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-done:
		case <-ctx.Done():
			d.Events.Send(event.Event{Type: "interrupt", Level: event.Warn, Text: "interrupted: going back (once more: leave it to the agent)"})
			if err := c.Cancel(context.WithoutCancel(ctx), id); err != nil && fail.KindOf(err) != fail.NotFound {
				d.Events.Send(event.Event{Type: "interrupt", Level: event.Error, Text: "cannot tell the agent: " + err.Error()})
			}
		}
	}()
	following, leave := context.WithCancelCause(context.WithoutCancel(ctx))
	defer leave(nil)
	end, err := c.Follow(following, id, func(e event.Event) {
		d.Events.Send(e)
		if d.LeavePaused && (e.Type == event.Paused || e.Type == event.Waits) {
			leave(fail.New(fail.Paused, "", "release %d of %s is half way: %s", e.Release, e.Service, e.Text).
				Hinted("`fairlead watch %s` follows it, `fairlead promote`, `approve`, `resume` and `abort` say how it goes on", e.Service))
		}
	})
	if err != nil {
		return nil, err
	}
	if end.Error != nil {
		return end.Receipt, end.Error
	}
	return end.Receipt, nil
}
