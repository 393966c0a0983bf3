package delta

import "testing"

// Benchmark makes and applies a patch for an edit in the middle of a program of some 20 MB. test/bench does that for real ones.
func Benchmark(b *testing.B) {
	old, newer := edited(80000)
	patch := mustMake(b, old, newer)
	b.Run("make", func(b *testing.B) {
		b.SetBytes(int64(len(newer)))
		for b.Loop() {
			mustMake(b, old, newer)
		}
		b.ReportMetric(100*float64(len(patch))/float64(len(newer)), "patch_%")
	})
	b.Run("apply", func(b *testing.B) {
		b.SetBytes(int64(len(newer)))
		for b.Loop() {
			if _, err := Apply(old, patch, int64(len(newer))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
