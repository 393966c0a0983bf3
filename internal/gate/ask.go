package gate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// smoke asks every new instance once whether it can do its work: all of the first ones before the release gets traffic, those
// that come later as soon as they are ready.
type smoke struct {
	base
	ask   func(ctx context.Context, i supervise.Instance) error
	asked map[asked]bool
}

// asked names a run of an instance.
type asked struct {
	number  int
	process proc.ID
}

// smokeWait bounds one question of a smoke test.
const (
	smokeWait = 10 * time.Second
	execWait  = time.Minute
)

// Ask implements [rollout.Gate].
func (s *smoke) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	all, err := s.e.Instances(ctx, m.Plan.New)
	if err != nil {
		return s.blind(m, err)
	}
	if want := scaled(m); m.Before && len(all) < want {
		return s.unsure(m, fmt.Sprintf("%d of %d instances are known", len(all), want), nil)
	}
	for _, i := range all {
		run := asked{i.Number, i.Process}
		if s.asked[run] || !m.Before && i.State != supervise.Ready {
			continue
		}
		if err := s.ask(ctx, i); err != nil {
			a := s.breach(fmt.Sprintf("instance %d: %v", i.Number, err), nil)
			a.Lines = s.e.Tail(m.Plan.New, i.Number)
			return a
		}
		s.asked[run] = true
	}
	return s.pass(plural(len(all), "instance")+" answered", nil)
}

// scaled is how many instances the new release has at this step: one that is not seen was not asked.
func scaled(m rollout.Moment) int {
	for i := m.Step; i >= 0; i-- {
		if s := m.Plan.Steps[i]; s.Do == rollout.Scale && s.Release == m.Plan.New {
			return s.Instances
		}
	}
	return 1
}

// exec runs the gate's command for an instance.
func (s *smoke) exec(run Runner) func(context.Context, supervise.Instance) error {
	return func(ctx context.Context, i supervise.Instance) error {
		ctx, cancel := context.WithTimeoutCause(ctx, execWait, fmt.Errorf("%s took longer than %s", s.spec.Exec[0], execWait))
		defer cancel()
		err := run(ctx, i, s.spec.Exec)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
}

func (s *smoke) get(ctx context.Context, i supervise.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, smokeWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.Addr()+s.spec.HTTP, nil)
	if err != nil {
		return err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 200))
	if err != nil {
		return err
	}
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("%s answers %s: %s", s.spec.HTTP, res.Status, body)
	}
	return nil
}

// window waits until traffic may begin to move.
type window struct {
	base
	window spec.Window
}

// Ask implements [rollout.Gate].
func (w *window) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	if !m.Before || w.window.Open(time.Now()) {
		return w.pass("open", nil)
	}
	return rollout.Answer{Gate: w.spec.Name(), Verdict: rollout.Unsure, Reason: "closed now; the rollout waits until it opens"}
}

// approval waits for a person.
type approval struct{ base }

// Ask implements [rollout.Gate].
func (a *approval) Ask(_ context.Context, m rollout.Moment) rollout.Answer {
	if (a.spec.Approve == "before") != m.Before {
		return a.pass("not asked here", nil)
	}
	if m.Orders.Approved > m.Step {
		return a.pass(m.Orders.Approval, nil)
	}
	return rollout.Answer{Gate: a.spec.Name(), Verdict: rollout.Unsure, Person: true,
		Reason: fmt.Sprintf("waits for a person: `fairlead approve %s`, or `fairlead abort %s`", m.Plan.Service, m.Plan.Service)}
}
