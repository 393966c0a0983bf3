package metrics

import (
	"context"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// BenchmarkRound is one round of the edge's counters for 200 instances: 40 series each, as every second.
func BenchmarkRound(b *testing.B) {
	db, err := Open(Options{Dir: filepath.Join(b.TempDir(), "m")})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s := &source{db: db, series: map[string]*series{}}
	h := Histogram{Bounds: make([]float64, 23), Counts: make([]uint64, 23)}
	for i := range h.Bounds {
		h.Bounds[i] = float64(i) + 0.5
	}
	v := 0.0
	round := func(_ context.Context, r *Round) error {
		v++
		for i := range 200 {
			l := []string{"service", "shop-" + strconv.Itoa(i/4), "environment", "production", "release", "1", "instance", strconv.Itoa(i % 4)}
			for k := range 14 {
				r.Counter("fairlead_test_"+strconv.Itoa(k)+"_total", v, l...)
			}
			h.Count = uint64(v)
			r.Histogram("fairlead_test_seconds", h, l...)
		}
		return nil
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.once(b.Context(), time.Minute, round); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(s.series)), "series")
}
