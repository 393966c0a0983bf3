package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/jsonutil"
	"github.com/prometheus/prometheus/util/stats"
)

// options are the query parameters that both kinds of query take.
type options struct {
	limit int
	opts  promql.QueryOpts
}

func queryOptions(r *http.Request) (options, error) {
	var o options
	var err error
	if o.limit, err = limitParam(r); err != nil {
		return o, err
	}
	var lookback time.Duration
	if r.Form.Get("lookback_delta") != "" {
		if lookback, err = durationParam(r, "lookback_delta"); err != nil {
			return o, err
		}
	}
	o.opts = promql.NewPrometheusQueryOpts(false, lookback)
	return o, nil
}

// within applies the parameter timeout, as far as it is shorter than the database's own.
func (db *DB) within(r *http.Request) (context.Context, context.CancelFunc, error) {
	limit := db.opt.QueryTimeout
	if r.Form.Get("timeout") != "" {
		d, err := durationParam(r, "timeout")
		if err != nil {
			return nil, nil, err
		}
		limit = min(limit, d)
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	return ctx, cancel, nil
}

// badQueryParam blames the query for an error at its beginning, unless that is only that its turn did not come.
func badQueryParam(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &apiError{"timeout", http.StatusServiceUnavailable, err}
	case errors.Is(err, context.Canceled):
		return err
	}
	return badParam("query", err)
}

func (db *DB) apiQuery(r *http.Request) (any, annotations.Annotations, error) {
	o, err := queryOptions(r)
	if err != nil {
		return nil, nil, err
	}
	at, err := timeParam(r, "time", time.Now())
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel, err := db.within(r)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	q, err := db.engine.NewInstantQuery(ctx, db.tsdb, o.opts, r.Form.Get("query"), at)
	if err != nil {
		return nil, nil, badQueryParam(err)
	}
	return o.exec(ctx, r, q)
}

func (db *DB) apiQueryRange(r *http.Request) (any, annotations.Annotations, error) {
	o, err := queryOptions(r)
	if err != nil {
		return nil, nil, err
	}
	var span Span
	if span.From, err = timeParam(r, "start", time.Time{}); err != nil {
		return nil, nil, err
	}
	if span.To, err = timeParam(r, "end", time.Time{}); err != nil {
		return nil, nil, err
	}
	if span.To.Before(span.From) {
		return nil, nil, badParam("end", span.check())
	}
	if span.Step, err = durationParam(r, "step"); err != nil {
		return nil, nil, err
	}
	if span.Step <= 0 {
		return nil, nil, badParam("step", span.check())
	}
	if err := span.check(); err != nil {
		return nil, nil, badData(err)
	}
	ctx, cancel, err := db.within(r)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	q, err := db.engine.NewRangeQuery(ctx, db.tsdb, o.opts, r.Form.Get("query"), span.From, span.To, span.Step)
	if err != nil {
		return nil, nil, badQueryParam(err)
	}
	return o.exec(ctx, r, q)
}

// exec runs a query and writes its result, before the memory it lies in is given back.
func (o options) exec(ctx context.Context, r *http.Request, q promql.Query) (any, annotations.Annotations, error) {
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, nil, res.Err
	}
	cut := false
	if o.limit > 0 {
		switch v := res.Value.(type) {
		case promql.Vector:
			if cut = len(v) > o.limit; cut {
				res.Value = v[:o.limit]
			}
		case promql.Matrix:
			if cut = len(v) > o.limit; cut {
				res.Value = v[:o.limit]
			}
		}
	}
	if cut {
		res.Warnings = res.Warnings.Add(errTruncated)
	}
	s := jsoniter.NewStream(jsoniter.ConfigDefault, nil, 4096) // without a writer it keeps all in its buffer
	s.WriteRaw(`{"resultType":"` + string(res.Value.Type()) + `","result":`)
	writeValue(s, res.Value)
	if r.Form.Get("stats") != "" {
		st, err := json.Marshal(stats.NewQueryStats(q.Stats()))
		if err != nil {
			return nil, nil, err
		}
		s.WriteRaw(`,"stats":`)
		s.WriteRaw(string(st))
	}
	s.WriteRaw("}")
	return json.RawMessage(s.Buffer()), res.Warnings, s.Error
}

// writeValue writes a result to the byte as Prometheus does, with its own functions for numbers and histograms.
func writeValue(s *jsoniter.Stream, v parser.Value) {
	switch v := v.(type) {
	case promql.Scalar:
		writePoint(s, v.T, func() { jsonutil.MarshalFloat(v.V, s) })
	case promql.String:
		writePoint(s, v.T, func() { s.WriteString(v.V) })
	case promql.Vector:
		writeList(s, v, func(x promql.Sample) {
			s.WriteRaw(`{"metric":`)
			writeLabels(s, x.Metric)
			if x.H != nil {
				s.WriteRaw(`,"histogram":`)
				writePoint(s, x.T, func() { jsonutil.MarshalHistogram(x.H, s) })
			} else {
				s.WriteRaw(`,"value":`)
				writePoint(s, x.T, func() { jsonutil.MarshalFloat(x.F, s) })
			}
			s.WriteRaw("}")
		})
	case promql.Matrix:
		writeList(s, v, func(x promql.Series) {
			s.WriteRaw(`{"metric":`)
			writeLabels(s, x.Metric)
			if len(x.Floats) > 0 {
				s.WriteRaw(`,"values":`)
				writeList(s, x.Floats, func(p promql.FPoint) { writePoint(s, p.T, func() { jsonutil.MarshalFloat(p.F, s) }) })
			}
			if len(x.Histograms) > 0 {
				s.WriteRaw(`,"histograms":`)
				writeList(s, x.Histograms, func(p promql.HPoint) { writePoint(s, p.T, func() { jsonutil.MarshalHistogram(p.H, s) }) })
			}
			s.WriteRaw("}")
		})
	}
}

func writeList[T any](s *jsoniter.Stream, list []T, one func(T)) {
	s.WriteRaw("[")
	for i, x := range list {
		if i > 0 {
			s.WriteRaw(",")
		}
		one(x)
	}
	s.WriteRaw("]")
}

func writePoint(s *jsoniter.Stream, ms int64, value func()) {
	s.WriteRaw("[")
	jsonutil.MarshalTimestamp(ms, s)
	s.WriteRaw(",")
	value()
	s.WriteRaw("]")
}

func writeLabels(s *jsoniter.Stream, l labels.Labels) {
	s.WriteRaw("{")
	first := true
	l.Range(func(x labels.Label) {
		if !first {
			s.WriteRaw(",")
		}
		first = false
		s.WriteString(x.Name)
		s.WriteRaw(":")
		s.WriteString(x.Value)
	})
	s.WriteRaw("}")
}

func (db *DB) apiFormat(r *http.Request) (any, annotations.Annotations, error) {
	e, err := db.parser.ParseExpr(r.Form.Get("query"))
	if err != nil {
		return nil, nil, badParam("query", err)
	}
	return e.Pretty(0), nil, nil
}

// look is what series, labels and label values have in common: a span, selectors, and a limit.
type look struct {
	storage.Querier
	from, to int64 // ms since 1970
	sets     [][]*labels.Matcher
	limit    int
}

// hintLimit asks for one more than the limit, so that it is seen when there are more.
func (l look) hintLimit() int {
	if l.limit == 0 {
		return 0
	}
	return l.limit + 1
}

func (db *DB) look(r *http.Request) (look, error) {
	var l look
	var err error
	if l.limit, err = limitParam(r); err != nil {
		return l, err
	}
	start, err := timeParam(r, "start", minTime)
	if err != nil {
		return l, err
	}
	end, err := timeParam(r, "end", maxTime)
	if err != nil {
		return l, err
	}
	if l.sets, err = db.matchers(r); err != nil {
		return l, badParam("match[]", err)
	}
	l.from, l.to = start.UnixMilli(), end.UnixMilli()
	l.Querier, err = db.tsdb.Querier(l.from, l.to)
	return l, err
}

func (db *DB) apiSeries(r *http.Request) (any, annotations.Annotations, error) {
	if len(r.Form["match[]"]) == 0 {
		return nil, nil, badData(errors.New("no match[] parameter provided"))
	}
	l, err := db.look(r)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	hints := &storage.SelectHints{Start: l.from, End: l.to, Func: "series", Limit: l.hintLimit()}
	sets := make([]storage.SeriesSet, len(l.sets))
	for i, m := range l.sets {
		sets[i] = l.Select(r.Context(), len(l.sets) > 1, hints, m...)
	}
	set := sets[0]
	if len(sets) > 1 {
		set = storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	}
	var found []labels.Labels
	notes := set.Warnings()
	for set.Next() {
		if l.limit > 0 && len(found) == l.limit {
			notes = notes.Add(errTruncated)
			break
		}
		found = append(found, set.At().Labels())
	}
	if err := set.Err(); err != nil {
		return nil, nil, err
	}
	s := jsoniter.NewStream(jsoniter.ConfigDefault, nil, 4096) // without a writer it keeps all in its buffer
	writeList(s, found, func(x labels.Labels) { writeLabels(s, x) })
	return json.RawMessage(s.Buffer()), notes, s.Error
}

func (db *DB) apiLabels(r *http.Request) (any, annotations.Annotations, error) {
	return db.strings(r, func(l look, h *storage.LabelHints, m []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return l.LabelNames(r.Context(), h, m...)
	})
}

func (db *DB) apiLabelValues(r *http.Request) (any, annotations.Annotations, error) {
	name := r.PathValue("name")
	if strings.HasPrefix(name, "U__") {
		name = model.UnescapeName(name, model.ValueEncodingEscaping)
	}
	if !model.UTF8Validation.IsValidLabelName(name) {
		return nil, nil, badData(fmt.Errorf("invalid label name: %q", name))
	}
	return db.strings(r, func(l look, h *storage.LabelHints, m []*labels.Matcher) ([]string, annotations.Annotations, error) {
		return l.LabelValues(r.Context(), name, h, m...)
	})
}

// strings collects what get finds for each selector, or for all series where there is none: sorted, and each once.
func (db *DB) strings(r *http.Request, get func(look, *storage.LabelHints, []*labels.Matcher) ([]string, annotations.Annotations, error)) (any, annotations.Annotations, error) {
	l, err := db.look(r)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if len(l.sets) == 0 {
		l.sets = [][]*labels.Matcher{nil}
	}
	all := map[string]bool{}
	var notes annotations.Annotations
	for _, m := range l.sets {
		found, n, err := get(l, &storage.LabelHints{Limit: l.hintLimit()}, m)
		if err != nil {
			return nil, nil, err
		}
		notes.Merge(n)
		for _, s := range found {
			all[s] = true
		}
	}
	out := slices.AppendSeq(make([]string, 0, len(all)), maps.Keys(all))
	slices.Sort(out)
	if l.limit > 0 && len(out) > l.limit {
		out = out[:l.limit]
		notes = notes.Add(errTruncated)
	}
	return out, notes, nil
}
