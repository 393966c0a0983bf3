package fleet

import (
	"reflect"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

func TestWaves(t *testing.T) {
	one, quarter, all := spec.Amount{N: 1, Set: true}, spec.Amount{Share: 25_000, Set: true}, spec.Amount{Share: 100_000, Set: true}
	for _, tt := range []struct {
		hosts []string
		o     spec.Fleet
		want  [][]string
	}{
		{[]string{"a"}, spec.Fleet{Batch: quarter}, [][]string{{"a"}}},
		{[]string{"a", "b", "c"}, spec.Fleet{Canary: 1, Batch: quarter}, [][]string{{"a"}, {"b"}, {"c"}}},
		{[]string{"a", "b", "c"}, spec.Fleet{Canary: 1, Batch: all}, [][]string{{"a"}, {"b", "c"}}},
		{[]string{"a", "b", "c", "d", "e", "f", "g", "h"}, spec.Fleet{Canary: 1, Batch: quarter}, [][]string{{"a"}, {"b", "c"}, {"d", "e"}, {"f", "g"}, {"h"}}},
		{[]string{"a", "b", "c"}, spec.Fleet{Canary: 3, Batch: one}, [][]string{{"a", "b", "c"}}},
		{[]string{"a", "b"}, spec.Fleet{Batch: one}, [][]string{{"a"}, {"b"}}},
		{[]string{"a"}, spec.Fleet{Canary: 2, Batch: one}, [][]string{{"a"}}},
	} {
		if got := Waves(tt.hosts, tt.o); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%v %+v: %v, want %v", tt.hosts, tt.o, got, tt.want)
		}
	}
}
