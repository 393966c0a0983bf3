package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Querier answers PromQL: this machine's own database, or an external Prometheus.
type Querier interface {
	// Query evaluates expr at one moment. A scalar is one sample without labels.
	Query(ctx context.Context, expr string, at time.Time) ([]Sample, error)
	// Range evaluates expr at every step of a span.
	Range(ctx context.Context, expr string, span Span) ([]Series, error)
}

// Sample is one value of one series. The name of a metric is the label __name__.
type Sample struct {
	Labels map[string]string
	At     time.Time
	Value  float64
}

// Span is a piece of time, both ends included.
type Span struct {
	From, To time.Time
	Step     time.Duration
}

// Series is what a range query returns for one set of labels.
type Series struct {
	Labels map[string]string
	Points []Point
}

// Point is a value at a moment.
type Point struct {
	At    time.Time
	Value float64
}

// maxPoints is how many steps a range query may have, as in Prometheus.
const maxPoints = 11000

var errNative = errors.New("the answer holds native histograms: ask for a number, with histogram_quantile() or histogram_count()")

// Query implements [Querier] over this database. An expression that cannot be parsed is an error of kind [fail.Usage]; one
// that takes too long, or too many samples, is [fail.Unavailable].
func (db *DB) Query(ctx context.Context, expr string, at time.Time) ([]Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, db.opt.QueryTimeout) // the engine's own begins after the wait for a slot
	defer cancel()
	q, err := db.engine.NewInstantQuery(ctx, db.tsdb, nil, expr, at)
	if err != nil {
		return nil, badQuery(expr, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, badQuery(expr, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Scalar:
		return []Sample{{Labels: map[string]string{}, At: time.UnixMilli(v.T), Value: v.V}}, nil
	case promql.Vector:
		out := make([]Sample, 0, len(v))
		for _, s := range v {
			if s.H != nil {
				return nil, badExpr(expr, errNative)
			}
			out = append(out, Sample{Labels: s.Metric.Map(), At: time.UnixMilli(s.T), Value: s.F})
		}
		return out, nil
	}
	return nil, badExpr(expr, errors.New("the answer is a "+string(res.Value.Type())+", not a number for each series"))
}

// Range implements [Querier] over this database, with the errors of [DB.Query].
func (db *DB) Range(ctx context.Context, expr string, span Span) ([]Series, error) {
	if err := span.check(); err != nil {
		return nil, badExpr(expr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, db.opt.QueryTimeout)
	defer cancel()
	q, err := db.engine.NewRangeQuery(ctx, db.tsdb, nil, expr, span.From, span.To, span.Step)
	if err != nil {
		return nil, badQuery(expr, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	m, err := res.Matrix()
	if err != nil {
		return nil, badQuery(expr, err)
	}
	out := make([]Series, 0, len(m))
	for _, s := range m {
		if len(s.Histograms) > 0 {
			return nil, badExpr(expr, errNative)
		}
		one := Series{Labels: s.Metric.Map(), Points: make([]Point, len(s.Floats))}
		for i, p := range s.Floats {
			one.Points[i] = Point{At: time.UnixMilli(p.T), Value: p.F}
		}
		out = append(out, one)
	}
	return out, nil
}

// check gives the reason why a span cannot be asked for, in Prometheus's words: its API has them from here.
func (s Span) check() error {
	switch {
	case s.To.Before(s.From):
		return errors.New("end timestamp must not be before start time")
	case s.Step <= 0:
		return errors.New("zero or negative query resolution step widths are not accepted. Try a positive integer")
	case s.To.Sub(s.From)/s.Step > maxPoints:
		return errors.New("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)")
	}
	return nil
}

func badExpr(expr string, err error) error {
	return fail.New(fail.Usage, "query "+expr, "%w", err)
}

func badQuery(expr string, err error) error {
	_, late := errors.AsType[promql.ErrQueryTimeout](err)
	_, gone := errors.AsType[promql.ErrQueryCanceled](err)
	_, many := errors.AsType[promql.ErrTooManySamples](err)
	switch {
	case many:
		return fail.New(fail.Unavailable, "query "+expr, "%w", err).Hinted("ask for fewer series or a shorter range")
	case late, gone, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fail.New(fail.Unavailable, "query "+expr, "%w", err)
	}
	return fail.New(fail.Usage, "query "+expr, "%w", err)
}
