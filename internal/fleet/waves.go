package fleet

import (
	"slices"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Waves divides hosts into those that get a release together: first the canaries, then batches. The order is that of the list.
func Waves(hosts []string, o spec.Fleet) [][]string {
	canary := min(o.Canary, len(hosts))
	var out [][]string
	if canary > 0 {
		out = append(out, hosts[:canary])
	}
	batch := max(o.Batch.Of(len(hosts), true), 1)
	return slices.AppendSeq(out, slices.Chunk(hosts[canary:], batch))
}
