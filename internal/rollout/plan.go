package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/release"
)

// Action is what a step does.
type Action string

// The actions.
const (
	Stage  Action = "stage"  // make the new release startable
	Hook   Action = "hook"   // run a program of the release once
	Scale  Action = "scale"  // so many instances of a release
	Route  Action = "route"  // split the traffic
	Verify Action = "verify" // ask the gates before the new release has traffic
	Watch  Action = "watch"  // ask the gates for a while
	Warm   Action = "warm"   // leave the old release's instances up for a while
)

// Step is one thing that shall be true before the next one begins.
type Step struct {
	Do        Action        `json:"do"`
	Release   release.ID    `json:"release,omitempty"`
	Instances int           `json:"instances,omitempty"`
	Weights   Weights       `json:"weights,omitempty"`
	For       time.Duration `json:"for,omitempty"`
	Hook      string        `json:"hook,omitempty"` // HookBefore or HookAfter
}

// The hooks of a release.
const (
	HookBefore = "before" // any of its instances starts
	HookAfter  = "after"  // it got all traffic
)

// String says the step as a sentence without a subject.
func (s Step) String() string {
	switch s.Do {
	case Stage:
		return fmt.Sprintf("make release %d startable", s.Release)
	case Hook:
		return fmt.Sprintf("run hooks.%s of release %d", s.Hook, s.Release)
	case Scale:
		if s.Instances == 0 {
			return fmt.Sprintf("drain and stop release %d", s.Release)
		}
		return fmt.Sprintf("%s of release %d ready", plural(s.Instances, "instance"), s.Release)
	case Route:
		if len(s.Weights) == 0 {
			return "let requests wait"
		}
		ids := make([]release.ID, 0, len(s.Weights))
		for id := range s.Weights {
			ids = append(ids, id)
		}
		sort.Slice(ids, func(i, j int) bool { return ids[i] > ids[j] })
		parts := make([]string, len(ids))
		for i, id := range ids {
			parts[i] = fmt.Sprintf("%d %% to release %d", s.Weights[id], id)
			if s.Weights[id] == 0 {
				parts[i] = fmt.Sprintf("previews and copies to release %d", id)
			}
		}
		return "traffic: " + strings.Join(parts, ", ")
	case Verify:
		return fmt.Sprintf("ask the gates before release %d gets traffic", s.Release)
	case Watch:
		return fmt.Sprintf("watch release %d for %s", s.Release, s.For)
	case Warm:
		return fmt.Sprintf("keep release %d warm for %s, then stop it", s.Release, s.For)
	}
	return string(s.Do)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Plan is a whole rollout, before it runs.
type Plan struct {
	Service      string     `json:"service"`
	Environment  string     `json:"environment"`
	Strategy     string     `json:"strategy"`
	Old          release.ID `json:"old,omitempty"` // 0 on the first deploy
	New          release.ID `json:"new"`
	OldInstances int        `json:"old_instances,omitempty"`
	Instances    int        `json:"instances"`
	Exclusive    bool       `json:"exclusive,omitempty"` // old and new never run side by side
	NoReturn     int        `json:"no_return"`           // index of the first step from which there is only forward
	Steps        []Step     `json:"steps"`
}

// visible reports whether clients or capacity may have been touched once step at was begun.
func (p Plan) visible(at int) bool {
	for _, s := range p.Steps[:min(at+1, len(p.Steps))] {
		if s.Do == Route && s.Weights[p.Old] != 100 || s.Do == Scale && s.Release == p.Old {
			return p.Old != 0
		}
	}
	return false
}

// Request is what a strategy plans for.
type Request struct {
	Service      string
	Environment  string
	Old, New     release.ID
	OldInstances int
	Instances    int
	Watch        time.Duration // after each change of traffic
	Bake         time.Duration // after the last one, in place of Watch where it is longer
	Steps        []int         // canary: its shares of the traffic in percent, rising
	Verify       bool          // some gate has a question before there is traffic
	Preview      bool          // some may see the new release before it has traffic
	Mirror       time.Duration // how long it gets copies of requests before that
	Before       bool          // hooks
	After        bool
	Warm         time.Duration // blue-green: how long the old instances stay
	Surge        int           // rolling: instances above the wanted number
	Unavailable  int           // rolling: instances that may be missing
}

// Strategy turns a request into a plan. It is pure: no clock, no I/O.
type Strategy func(q Request, c Caps) (Plan, error)

// Strategies by their name in fairlead.yaml.
var Strategies = map[string]Strategy{"recreate": Recreate, "rolling": Rolling, "blue-green": BlueGreen, "canary": Canary}

// Make plans q with the named strategy.
func Make(strategy string, q Request, c Caps) (Plan, error) {
	f, ok := Strategies[strategy]
	if !ok {
		return Plan{}, fail.New(fail.Usage, "plan", "strategy %q is not known", strategy).Hinted("use recreate, rolling, blue-green or canary")
	}
	if q.Old == q.New || q.Instances < 1 {
		return Plan{}, fail.New(fail.Internal, "plan", "from %d to %d with %d instances", q.Old, q.New, q.Instances)
	}
	if q.Old == 0 {
		f = first // there is nothing to go from, so all strategies are the same
	}
	q.Preview = q.Preview && !c.WeightFromScale
	if c.WeightFromScale && q.Mirror > 0 {
		return Plan{}, fail.New(fail.Usage, "plan", "this target cannot copy requests").Hinted("remove release.mirror")
	}
	p, err := f(q, c)
	if err != nil {
		return Plan{}, err
	}
	p.hooks(q)
	p.Service, p.Environment, p.Strategy = q.Service, q.Environment, strategy
	p.Old, p.New, p.OldInstances, p.Instances = q.Old, q.New, q.OldInstances, q.Instances
	return p, nil
}

func first(q Request, _ Caps) (Plan, error) {
	steps := ready(q, q.Instances)
	steps = append(steps, route(Weights{q.New: 100}), bake(q))
	return Plan{Steps: steps, NoReturn: len(steps)}, nil
}

// Recreate ends the old release before it starts the new one: for services that cannot run twice. Requests wait meanwhile.
func Recreate(q Request, _ Caps) (Plan, error) {
	steps := []Step{stage(q), route(nil), scale(q.Old, 0), scale(q.New, q.Instances), route(Weights{q.New: 100}), bake(q)}
	return Plan{Steps: steps, NoReturn: len(steps), Exclusive: true}, nil
}

// BlueGreen starts all of the new release beside the old one, then moves all traffic at once.
func BlueGreen(q Request, c Caps) (Plan, error) {
	if !c.Surge || c.WeightFromScale {
		return Plan{}, fail.New(fail.Usage, "plan", "this target cannot hold two whole releases without splitting the traffic").
			Hinted("set `release: {strategy: rolling}`")
	}
	steps := append(ready(q, q.Instances), route(Weights{q.New: 100}), bake(q))
	return Plan{Steps: append(steps, last(q)), NoReturn: len(steps)}, nil
}

// Canary lets a growing share of the traffic try the new release while the old one keeps its instances: going back is one
// change of weights at any time. Each share has as many instances as carry it. Where traffic follows the numbers of
// instances the shares are as near as those allow.
func Canary(q Request, c Caps) (Plan, error) {
	if !c.Surge {
		return Plan{}, fail.New(fail.Usage, "plan", "this target cannot run two releases side by side").Hinted("set `release: {strategy: recreate}`")
	}
	shares := q.Steps
	if len(shares) == 0 {
		shares = []int{5, 25, 50}
	}
	var steps []Step
	have, before := 0, 0
	for _, percent := range shares {
		if percent >= 100 {
			break
		}
		n := max(1, (q.Instances*percent+99)/100)
		w := share(q, c, n, percent)
		if w[q.New] <= before || w[q.New] >= 100 {
			continue // too fine for this target
		}
		if before = w[q.New]; have == 0 {
			steps = ready(q, n)
		} else if n > have {
			steps = append(steps, scale(q.New, n))
		}
		have = max(have, n)
		steps = append(steps, route(w), watch(q))
	}
	if have == 0 {
		steps = ready(q, q.Instances)
	} else if have < q.Instances {
		steps = append(steps, scale(q.New, q.Instances))
	}
	steps = append(steps, route(Weights{q.New: 100}), bake(q))
	return Plan{Steps: append(steps, last(q)), NoReturn: len(steps)}, nil
}

// share is the split that comes nearest to percent for n new instances.
func share(q Request, c Caps, n, percent int) Weights {
	if c.WeightFromScale {
		return split(q, q.OldInstances, n)
	}
	if step := c.WeightStep; step > 1 {
		percent = max(step, percent/step*step)
	}
	return Weights{q.Old: 100 - percent, q.New: percent}
}

// ready begins a plan: the new release has n instances that may get traffic.
func ready(q Request, n int) []Step {
	steps := []Step{stage(q), scale(q.New, n)}
	if q.Old != 0 && (q.Preview || q.Mirror > 0) {
		steps = append(steps, route(Weights{q.Old: 100, q.New: 0}))
	}
	if q.Verify {
		steps = append(steps, verify(q))
	}
	if q.Old != 0 && q.Mirror > 0 {
		steps = append(steps, Step{Do: Watch, Release: q.New, For: q.Mirror})
	}
	return steps
}

// hooks puts those that the release has into the plan: one before anything of it starts, one behind the step after which the
// new release has had all traffic for as long as it is watched.
func (p *Plan) hooks(q Request) {
	insert := func(at int, name string) {
		p.Steps = slices.Insert(p.Steps, at, Step{Do: Hook, Release: q.New, Hook: name})
		if at < p.NoReturn {
			p.NoReturn++
		}
	}
	if q.After {
		for i, s := range p.Steps {
			if s.Do == Watch && i > 0 && p.Steps[i-1].Do == Route && p.Steps[i-1].Weights[q.New] == 100 {
				insert(i+1, HookAfter)
				break
			}
		}
	}
	if q.Before {
		insert(1, HookBefore)
	}
}

// last ends the old release, at once or when it is not kept warm any more.
func last(q Request) Step {
	if q.Warm > 0 {
		return Step{Do: Warm, Release: q.Old, For: q.Warm}
	}
	return scale(q.Old, 0)
}

// bake is the watch behind the last change of traffic.
func bake(q Request) Step {
	return Step{Do: Watch, Release: q.New, For: max(q.Watch, q.Bake)}
}

// Rolling replaces instances a few at a time: never more than the wanted number plus Surge, never fewer ready than the
// wanted number less Unavailable. Traffic follows the share of new instances.
func Rolling(q Request, c Caps) (Plan, error) {
	if q.Surge == 0 && q.Unavailable == 0 {
		return Plan{}, fail.New(fail.Usage, "plan", "rolling with neither surge nor unavailable instances cannot move").
			Hinted("set `release: {surge: 1}`")
	}
	if !c.Surge && q.Unavailable == 0 {
		return Plan{}, fail.New(fail.Usage, "plan", "this target cannot run more instances than wanted").
			Hinted("set `release: {surge: 0, unavailable: 1}`")
	}
	steps := []Step{stage(q)}
	most := max(q.Instances, q.OldInstances) + q.Surge
	least := max(min(q.Instances, q.OldInstances)-q.Unavailable, 0)
	old, fresh := q.OldInstances, 0
	share := func() { steps = append(steps, route(split(q, old, fresh))) }
	for fresh < q.Instances {
		if n := min(q.Instances, most-old); n > fresh {
			first := fresh == 0
			fresh = n
			steps = append(steps, scale(q.New, fresh))
			if first && q.Verify {
				steps = append(steps, verify(q))
			}
			share()
			if fresh == q.Instances {
				steps = append(steps, bake(q))
			} else {
				steps = append(steps, watch(q))
			}
		}
		if n := max(least-fresh, 0); n < old && fresh < q.Instances {
			before := old
			old = max(n, 0)
			if fresh == 0 && old == 0 {
				old = min(1, before-1) // somebody has to answer while the first new one starts
			}
			share()
			steps = append(steps, scale(q.Old, old))
		}
		if old == 0 && fresh == 0 && least == 0 && q.OldInstances == 1 && q.Surge == 0 {
			return Plan{}, fail.New(fail.Usage, "plan", "one instance cannot be replaced in place without a gap").
				Hinted("set `release: {surge: 1}`, or `strategy: recreate` if it must not run twice")
		}
	}
	steps = append(steps, scale(q.Old, 0))
	return Plan{Steps: steps, NoReturn: len(steps) - 1}, nil
}

// split gives traffic by the numbers of instances.
func split(q Request, old, fresh int) Weights {
	if fresh == 0 {
		return Weights{q.Old: 100}
	}
	if fresh == q.Instances || old == 0 {
		return Weights{q.New: 100}
	}
	n := fresh * 100 / (fresh + old)
	return Weights{q.Old: 100 - n, q.New: n}
}

func stage(q Request) Step            { return Step{Do: Stage, Release: q.New} }
func scale(id release.ID, n int) Step { return Step{Do: Scale, Release: id, Instances: n} }
func route(w Weights) Step            { return Step{Do: Route, Weights: w} }
func verify(q Request) Step           { return Step{Do: Verify, Release: q.New} }
func watch(q Request) Step            { return Step{Do: Watch, Release: q.New, For: q.Watch} }

// MarshalJSON adds the step's sentence, for people who read the JSON.
func (s Step) MarshalJSON() ([]byte, error) {
	type plain Step
	return json.Marshal(struct {
		plain
		Text string `json:"text"`
	}{plain(s), s.String()})
}
