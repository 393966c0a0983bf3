package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// threshold holds what was measured since the step began against a limit.
type threshold struct {
	base
	check  spec.Check
	limits spec.Limits

	began    time.Time
	counts   edge.Counts
	restarts int
	cpu      map[int]used // by instance
	lines    int
	counted  time.Time // when lines was
}

// used is how much processor time an instance had used by a time.
type used struct {
	at      time.Time
	pid     int
	seconds float64
	share   float64 // of its processors, in the time before at
	known   bool    // share is
}

func newThreshold(b base, c spec.Check, l spec.Limits) *threshold {
	return &threshold{base: b, check: c, limits: l, cpu: map[int]used{}}
}

// Ask implements [rollout.Gate].
func (t *threshold) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	if m.Before {
		return t.idle()
	}
	if t.begins(m) {
		if err := t.start(ctx, m); err != nil {
			t.step = -1
			return t.blind(m, err)
		}
	}
	switch t.check.Metric {
	case "errors", "latency":
		return t.traffic(m)
	case "differs":
		if weightOf(m) > 0 {
			return t.pass("asked of copied requests (release.mirror)", nil)
		}
		return t.traffic(m)
	case "log":
		return t.log(ctx, m)
	}
	return t.instances(ctx, m)
}

// start notes from where on things count.
func (t *threshold) start(ctx context.Context, m rollout.Moment) error {
	var err error
	t.began, t.counted, t.lines = time.Now(), time.Time{}, 0
	if t.counts, err = t.e.Counts(m.Plan.New); err != nil {
		return err
	}
	all, err := t.e.Instances(ctx, m.Plan.New)
	t.restarts = 0
	for _, i := range all {
		t.restarts += i.Restarts
	}
	return err
}

// traffic judges a share of the requests. It says no as soon as the limit would be broken even if all that is missing to
// enough evidence went well, and yes only with enough.
func (t *threshold) traffic(m rollout.Moment) rollout.Answer {
	now, err := t.e.Counts(m.Plan.New)
	if err != nil {
		return t.blind(m, err)
	}
	c := now.Sub(t.counts)
	enough := uint64(t.evidence.Requests)
	n := c.Requests
	var bad uint64
	var text string
	allowed := t.check.Value
	switch t.check.Metric {
	case "errors":
		bad = c.Failed
		text = fmt.Sprintf("%s of %s failed", percent(bad, n), requests(n))
	case "differs":
		n, bad = c.Mirrored, c.Differed
		text = fmt.Sprintf("%s of %s answered with another status than the old release's", percent(bad, n), requests(n))
	default:
		allowed, n = 1-t.check.Q, 0
		limit := time.Duration(t.check.Value * float64(time.Second))
		for i, k := range c.Hist {
			if n += k; edge.BucketStart(i) >= limit {
				bad += k
			}
		}
		text = fmt.Sprintf("p%g is %s over %s", t.check.Q*100, round(c.Quantile(t.check.Q)), requests(n))
	}
	evidence := map[string]any{"requests": n, "beyond": bad, "quantile_ns": c.Quantile(t.check.Q)}
	most := max(n, enough)
	beyond := float64(bad) > allowed*float64(most)
	if t.check.Op == "<" && bad > 0 {
		beyond = float64(bad) >= allowed*float64(most)
	}
	if t.atLeast() { // more is wanted: what is not beyond it is too little
		if n < enough {
			return t.unsure(m, text+", "+missing(n, enough), evidence)
		}
		beyond = !beyond && (t.check.Op == ">" || float64(bad) < allowed*float64(n))
	}
	switch {
	case beyond:
		return t.breach(text+", which is not "+t.check.Text, evidence)
	case n < enough:
		return t.unsure(m, text+", "+missing(n, enough), evidence)
	}
	return t.pass(text, evidence)
}

func missing(n, enough uint64) string { return fmt.Sprintf("%d more are needed", enough-n) }

// instances judges what the busiest instance uses, or what all did together.
func (t *threshold) instances(ctx context.Context, m rollout.Moment) rollout.Answer {
	all, err := t.e.Instances(ctx, m.Plan.New)
	if err != nil {
		return t.blind(m, err)
	}
	now := time.Now()
	worst, number, seen := 0.0, 0, 0
	restarts := -t.restarts
	for _, i := range all {
		restarts += i.Restarts
		if i.Usage == nil {
			continue
		}
		v, ok := 0.0, true
		switch t.check.Metric {
		case "memory":
			v = float64(i.Usage.Memory)
			if !t.check.Bytes {
				v /= float64(t.memoryLimit())
			}
		case "files":
			v = float64(i.Usage.Files)
		case "cpu":
			v, ok = t.cpuShare(i.Number, used{at: now, pid: i.Process.PID, seconds: i.Usage.CPU})
		}
		if ok {
			seen++
			if number == 0 || v > worst {
				worst, number = v, i.Number
			}
		}
	}
	if t.check.Metric == "restarts" {
		v, during := t.rate(m, max(restarts, 0))
		return t.judge(v, plural(max(restarts, 0), "restart")+during)
	}
	if seen == 0 {
		return t.unsure(m, t.check.Metric+" is not known yet", nil)
	}
	return t.judge(worst, fmt.Sprintf("instance %d uses %s of %s", number, t.amount(worst), t.of()))
}

// cpuEvery is the time over which processor use is measured: shorter ones jump.
const cpuEvery = 2 * time.Second

// cpuShare is the share of its processors that an instance used lately.
func (t *threshold) cpuShare(number int, now used) (float64, bool) {
	old, ok := t.cpu[number]
	if !ok || old.pid != now.pid {
		t.cpu[number] = now
		return 0, false
	}
	d := now.at.Sub(old.at)
	if d < cpuEvery {
		return old.share, old.known
	}
	now.share, now.known = (now.seconds-old.seconds)/d.Seconds()/t.cores(), true
	t.cpu[number] = now
	return now.share, true
}

func (t *threshold) cores() float64 {
	if t.limits.CPU > 0 {
		return float64(t.limits.CPU) / 1000
	}
	_, cores := t.e.Machine()
	return float64(cores)
}

func (t *threshold) memoryLimit() int64 {
	if t.limits.Memory > 0 {
		return int64(t.limits.Memory)
	}
	memory, _ := t.e.Machine()
	return memory
}

// of says what a share is a share of.
func (t *threshold) of() string {
	switch {
	case t.check.Metric == "files":
		return "files"
	case t.check.Bytes:
		return "memory"
	case t.check.Metric == "memory" && t.limits.Memory > 0:
		return "its memory limit"
	case t.check.Metric == "memory":
		return "the machine's memory"
	case t.limits.CPU > 0:
		return "its processor limit"
	}
	return "the machine's processors"
}

func (t *threshold) amount(v float64) string {
	switch {
	case t.check.Metric == "files":
		return fmt.Sprint(v)
	case t.check.Bytes:
		return spec.Bytes(v).String()
	}
	return fmt.Sprintf("%.3g %%", v*100)
}

// linesEvery is how often logs are read: it costs more than a look at counters.
const linesEvery = time.Second

// log judges how many lines were logged, in all or by time.
func (t *threshold) log(ctx context.Context, m rollout.Moment) rollout.Answer {
	if time.Since(t.counted) >= linesEvery || m.Elapsed >= m.For {
		n, err := t.e.Lines(ctx, m.Plan.New, t.began, t.check.Level, t.check.Match)
		if err != nil {
			return t.blind(m, err)
		}
		t.lines, t.counted = n, time.Now()
	}
	v, during := t.rate(m, t.lines)
	what := plural(t.lines, "line") + " with " + t.check.Arg + during
	if t.atLeast() && !t.check.Holds(v) && m.Elapsed < m.For {
		return t.unsure(m, what+" by now", nil)
	}
	return t.judge(v, what)
}

// rate is n by the check's unit of time, where it has one, and says over what. It is taken over one unit at least, or the
// first would break any limit.
func (t *threshold) rate(m rollout.Moment, n int) (v float64, during string) {
	if t.check.Per == 0 {
		return float64(n), ""
	}
	return float64(n) * float64(t.check.Per) / float64(max(m.Elapsed, t.check.Per)), fmt.Sprintf(" in %s", m.Elapsed.Round(time.Second))
}

// atLeast reports whether the check wants much of something, so that little is not too little before the step's time is over.
func (t *threshold) atLeast() bool { return t.check.Op == ">" || t.check.Op == ">=" }

func (t *threshold) judge(v float64, text string) rollout.Answer {
	evidence := map[string]any{"value": v}
	if !t.check.Holds(v) {
		return t.breach(text+", which is not "+t.check.Text, evidence)
	}
	return t.pass(text, evidence)
}

func percent(n, of uint64) string {
	if of == 0 {
		return "none"
	}
	return fmt.Sprintf("%.3g %%", 100*float64(n)/float64(of))
}

func requests(n uint64) string { return plural(int(n), "request") }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
