package gate

import (
	"context"
	"fmt"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// promQL holds a comparison in PromQL. In PromQL a comparison that does not hold and one about nothing look alike, both are
// empty: so what is compared is asked for, too.
type promQL struct {
	base
	expr, left string
}

func newPromQL(b base) (rollout.Gate, error) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(b.spec.PromQL)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "%q is not PromQL: %w", b.spec.PromQL, err)
	}
	q := &promQL{base: b, expr: b.spec.PromQL}
	if c, ok := e.(*parser.BinaryExpr); ok && c.Op.IsComparisonOperator() {
		q.left = c.LHS.String()
	}
	return q, nil
}

// Ask implements [rollout.Gate].
func (q *promQL) Ask(ctx context.Context, m rollout.Moment) rollout.Answer {
	if m.Before {
		return q.idle()
	}
	fill := strings.NewReplacer("$service", m.Plan.Service, "$environment", m.Plan.Environment,
		"$canary", fmt.Sprint(m.Plan.New), "$stable", fmt.Sprint(m.Plan.Old))
	holds, err := q.e.Query(ctx, fill.Replace(q.expr))
	if err != nil {
		return q.blind(m, err)
	}
	if len(holds) > 0 {
		return q.pass(fmt.Sprintf("holds: %.6g", holds[0].Value), holds)
	}
	if q.left == "" {
		return q.unsure(m, "the query has no answer yet", nil)
	}
	left, err := q.e.Query(ctx, fill.Replace(q.left))
	switch {
	case err != nil:
		return q.blind(m, err)
	case len(left) == 0:
		return q.unsure(m, "there is nothing to compare yet", nil)
	}
	return q.breach(fmt.Sprintf("it is %.6g", left[0].Value), left)
}
