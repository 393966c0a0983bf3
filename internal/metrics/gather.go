package metrics

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
)

// Gather makes a source of what a Go program would offer on its /metrics, with labels in pairs put on every series: the way
// from a collector in this process to the database without HTTP and text between.
func Gather(g prometheus.Gatherer, extra ...string) Source {
	return func(_ context.Context, r *Round) error {
		fams, err := g.Gather()
		if err != nil {
			return err
		}
		for _, f := range fams {
			r.family(f, extra)
		}
		return nil
	}
}

var kinds = map[dto.MetricType]model.MetricType{
	dto.MetricType_COUNTER:   model.MetricTypeCounter,
	dto.MetricType_GAUGE:     model.MetricTypeGauge,
	dto.MetricType_HISTOGRAM: model.MetricTypeHistogram,
	dto.MetricType_SUMMARY:   model.MetricTypeSummary,
	dto.MetricType_UNTYPED:   model.MetricTypeUnknown,
}

func (r *Round) family(f *dto.MetricFamily, extra []string) {
	name := f.GetName()
	kind, ok := kinds[f.GetType()]
	if !ok {
		return // native histograms of gauges: nothing of ours has them
	}
	r.describe(name, metadata.Metadata{Type: kind, Help: f.GetHelp(), Unit: f.GetUnit()})
	var pairs []string
	for _, m := range f.GetMetric() {
		pairs = append(pairs[:0], extra...)
		for _, l := range m.GetLabel() {
			pairs = append(pairs, l.GetName(), l.GetValue())
		}
		switch kind {
		case model.MetricTypeCounter:
			r.put(name, kind, m.GetCounter().GetValue(), pairs)
		case model.MetricTypeGauge:
			r.put(name, kind, m.GetGauge().GetValue(), pairs)
		case model.MetricTypeUnknown:
			r.put(name, kind, m.GetUntyped().GetValue(), pairs)
		case model.MetricTypeSummary:
			r.summary(name, m.GetSummary(), pairs)
		case model.MetricTypeHistogram:
			r.Histogram(name, classic(m.GetHistogram()), pairs...)
		}
	}
}

// classic takes the buckets of a histogram as client_golang gives them; a +Inf among them is what Count says anyway.
func classic(h *dto.Histogram) Histogram {
	out := Histogram{Count: h.GetSampleCount(), Sum: h.GetSampleSum()}
	for _, b := range h.GetBucket() {
		if s := bound(b.GetUpperBound()); s != "+Inf" {
			out.Bounds = append(out.Bounds, b.GetUpperBound())
			out.Counts = append(out.Counts, b.GetCumulativeCount())
		}
	}
	return out
}

func (r *Round) summary(name string, s *dto.Summary, pairs []string) {
	for _, q := range s.GetQuantile() {
		r.put(name, model.MetricTypeSummary, q.GetValue(), append(pairs[:len(pairs):len(pairs)], "quantile", strconv.FormatFloat(q.GetQuantile(), 'g', -1, 64)))
	}
	r.put(name+"_sum", model.MetricTypeSummary, s.GetSampleSum(), pairs)
	r.put(name+"_count", model.MetricTypeSummary, float64(s.GetSampleCount()), pairs)
}
