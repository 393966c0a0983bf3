package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/rollout"
)

// promQL holds a comparison in PromQL, for every series there is. A comparison that does not hold and one about nothing look
// alike in PromQL, both are empty, and one that holds for a single series of many has an answer: so the opposite is asked, too.
type promQL struct {
	base
	expr     string
	opposite string // "" where expr is no comparison, or one that answers 0 and 1
	truth    bool   // expr answers 0 and 1
}

// opposites of the comparisons.
var opposites = map[parser.ItemType]parser.ItemType{
	parser.LSS: parser.GTE, parser.LTE: parser.GTR, parser.GTR: parser.LTE, parser.GTE: parser.LSS, parser.EQLC: parser.NEQ, parser.NEQ: parser.EQLC,
}

func newPromQL(b base) (rollout.Gate, error) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(b.spec.PromQL)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "%q is not PromQL: %w", b.spec.PromQL, err)
	}
	for p, ok := e.(*parser.ParenExpr); ok; p, ok = e.(*parser.ParenExpr) {
		e = p.Expr
	}
	q := &promQL{base: b, expr: b.spec.PromQL}
	if c, ok := e.(*parser.BinaryExpr); ok && c.Op.IsComparisonOperator() {
		q.truth = c.ReturnBool
		if c.Op = opposites[c.Op]; !q.truth {
			q.opposite = c.String()
		}
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
	if q.opposite != "" {
		broken, err := q.e.Query(ctx, fill.Replace(q.opposite))
		switch {
		case err != nil:
			return q.blind(m, err)
		case len(broken) > 0:
			return q.breach(fmt.Sprintf("it is %.6g%s", broken[0].Value, others(broken)), broken)
		}
	}
	holds, err := q.e.Query(ctx, fill.Replace(q.expr))
	switch {
	case err != nil:
		return q.blind(m, err)
	case len(holds) == 0:
		return q.unsure(m, "there is nothing to compare yet", nil)
	case q.truth && slices.ContainsFunc(holds, func(s Sample) bool { return s.Value == 0 }):
		return q.breach("it does not hold", holds)
	}
	return q.pass(fmt.Sprintf("holds: %.6g%s", holds[0].Value, others(holds)), holds)
}

// others says that there are more series than the first.
func others(all []Sample) string {
	if len(all) == 1 {
		return ""
	}
	return fmt.Sprintf(", the first of %d", len(all))
}
