package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
)

// Source writes what it knows at this moment. An error makes the round void, and its series stale, as a failed scrape does.
type Source func(ctx context.Context, r *Round) error

// Source has f write a round now and after every interval, until stop is called or the database is closed. All samples of a
// round carry the time it began. A series that a round does not write any more ends there: it is gone from queries at once,
// not after five minutes. stop ends all of them and returns when it is done. The name is for the log.
func (db *DB) Source(name string, every time.Duration, f Source) (stop func()) {
	ctx, cancel := context.WithCancel(db.ctx)
	s := &source{db: db, name: name, series: map[string]*series{}}
	done := make(chan struct{})
	if !db.run(func() { defer close(done); s.loop(ctx, every, f) }) {
		close(done)
	}
	return func() { cancel(); <-done }
}

// source is the memory of one Source between its rounds.
type source struct {
	db     *DB
	name   string
	round  uint64
	last   int64              // when it was, ms since 1970
	series map[string]*series // by name and labels as Round.find writes them
	failed bool               // the last round; so that a source that stays broken is logged once
}

type series struct {
	ref    storage.SeriesRef
	labels labels.Labels
	round  uint64 // the last that wrote it
}

func (s *source) loop(ctx context.Context, every time.Duration, f Source) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := s.once(ctx, max(every, time.Second), f)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !s.failed {
			s.db.opt.Log.Warn("a source of metrics fails", "source", s.name, "error", err)
		} else if err == nil && s.failed {
			s.db.opt.Log.Info("a source of metrics works again", "source", s.name)
		}
		s.failed = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	if s.db.ctx.Err() == nil { // stopped on its own: while the whole agent restarts, its series go on
		if err := s.void(time.Now()); err != nil {
			s.db.opt.Log.Warn("the series of a source could not be ended", "source", s.name, "error", err)
		}
	}
}

// begin opens a round, later than the one before by a millisecond at least: two samples of one moment are refused.
func (s *source) begin(ctx context.Context, now time.Time) *Round {
	s.round++
	s.last = max(now.UnixMilli(), s.last+1)
	return &Round{s: s, app: s.db.tsdb.AppenderV2(ctx), at: s.last}
}

// once writes one round. The samples of a round come into being together.
func (s *source) once(ctx context.Context, timeout time.Duration, f Source) error {
	now := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := s.begin(ctx, now)
	if err := f(ctx, r); err != nil {
		return errors.Join(err, r.app.Rollback(), s.void(now))
	}
	r.endOthers()
	return errors.Join(r.app.Commit(), r.err)
}

// void ends every series of the source.
func (s *source) void(now time.Time) error {
	if len(s.series) == 0 {
		return nil
	}
	r := s.begin(context.Background(), now)
	r.endOthers()
	return errors.Join(r.app.Commit(), r.err)
}

// Round takes the samples of one moment. Labels are given in pairs of name and value, as slog takes its attributes; the same
// name and labels twice in a round is an error. It must not be kept beyond the call it was made for.
type Round struct {
	s   *source
	app storage.AppenderV2
	at  int64 // ms since 1970
	key []byte
	err error // the first sample that was refused; the others are written
}

// Gauge writes a value that goes up and down.
func (r *Round) Gauge(name string, v float64, labels ...string) {
	r.put(name, model.MetricTypeGauge, v, labels)
}

// Counter writes a value that only grows, but for a restart from 0.
func (r *Round) Counter(name string, v float64, labels ...string) {
	r.put(name, model.MetricTypeCounter, v, labels)
}

// Histogram is a classic histogram: for each bound, ascending and without +Inf, how many observations were at most that.
type Histogram struct {
	Bounds []float64
	Counts []uint64 // cumulative, as many as Bounds
	Count  uint64   // of all observations
	Sum    float64
}

// Histogram writes name_bucket, name_sum and name_count.
func (r *Round) Histogram(name string, h Histogram, labels ...string) {
	if len(h.Bounds) != len(h.Counts) {
		r.refuse(fmt.Errorf("%s: %d bounds and %d counts", name, len(h.Bounds), len(h.Counts)))
		return
	}
	bucket := append(slices.Clone(labels), "le", "+Inf")
	le := len(bucket) - 1
	for i, b := range h.Bounds {
		bucket[le] = bound(b)
		r.put(name+"_bucket", model.MetricTypeHistogram, float64(h.Counts[i]), bucket)
	}
	bucket[le] = "+Inf"
	r.put(name+"_bucket", model.MetricTypeHistogram, float64(h.Count), bucket)
	r.put(name+"_sum", model.MetricTypeHistogram, h.Sum, labels)
	r.put(name+"_count", model.MetricTypeHistogram, float64(h.Count), labels)
}

// bound writes a bucket's bound as the scraper does, so that one that came over HTTP is the same series: 1 is "1.0".
func bound(b float64) string {
	s := strconv.FormatFloat(b, 'g', -1, 64)
	for _, c := range s {
		if c == '.' || c == 'e' || c == 'I' || c == 'N' {
			return s
		}
	}
	return s + ".0"
}

func (r *Round) refuse(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *Round) put(name string, kind model.MetricType, v float64, pairs []string) {
	e, err := r.find(name, kind, pairs)
	if err != nil {
		r.refuse(err)
		return
	}
	if e.round == r.s.round {
		r.refuse(fmt.Errorf("%s was written twice in one round", e.labels))
		return
	}
	e.round = r.s.round
	r.append(e, v)
}

func (r *Round) append(e *series, v float64) {
	ref, err := r.app.Append(e.ref, e.labels, 0, r.at, v, nil, nil, storage.AppendV2Options{})
	if err != nil {
		r.refuse(fmt.Errorf("%s: %w", e.labels, err))
		return
	}
	e.ref = ref
}

// find returns the series from the source's memory, without making anything when it is there already.
func (r *Round) find(name string, kind model.MetricType, pairs []string) (*series, error) {
	r.key = append(append(r.key[:0], name...), 0xff) // not in valid UTF-8, so it separates
	for _, p := range pairs {
		r.key = append(append(r.key, p...), 0xff)
	}
	if e, ok := r.s.series[string(r.key)]; ok {
		return e, nil
	}
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("%s: the label %q has no value", name, pairs[len(pairs)-1])
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	b.Set(model.MetricNameLabel, name)
	for i := 0; i < len(pairs); i += 2 {
		b.Set(pairs[i], pairs[i+1])
	}
	e := &series{labels: b.Labels()}
	if !e.labels.IsValid(model.LegacyValidation) {
		return nil, fmt.Errorf("%s is not a metric's name with labels", e.labels)
	}
	r.s.series[string(r.key)] = e
	r.s.db.families.add(name, kind)
	return e, nil
}

// endOthers writes a staleness marker to each series that this round did not write, and forgets it.
func (r *Round) endOthers() {
	for key, e := range r.s.series {
		if e.round != r.s.round {
			if e.ref != 0 {
				r.append(e, math.Float64frombits(value.StaleNaN))
			}
			delete(r.s.series, key)
		}
	}
}

// describe notes what a family is, for /api/v1/metadata.
func (r *Round) describe(name string, m metadata.Metadata) { r.s.db.families.set(name, m) }
