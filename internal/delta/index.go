package delta

import (
	"context"
	"encoding/binary"
	"math/bits"
)

// An index finds 16 bytes of new in old. It stands for bsdiff's suffix array: it knows only every stride-th place of old and
// one place for each hash, which finds nearly the same pieces in a tenth of the time and of the memory.
type index struct {
	old    []byte
	places []uint32 // place/stride + 1, 0 for none, by hash
	stride int
	shift  int
}

func newIndex(ctx context.Context, old []byte) (*index, error) {
	x := &index{old: old, stride: 8}
	for len(old)/x.stride > 1<<25 {
		x.stride *= 2
	}
	log := max(bits.Len(uint(len(old)/x.stride)), 4)
	x.places, x.shift = make([]uint32, 1<<log), 64-log
	// Downwards, so that of equal places the first one stays.
	for i := (len(old) - kmer) / x.stride; i >= 0 && len(old) >= kmer; i-- {
		x.places[hash(old[i*x.stride:])>>x.shift] = uint32(i + 1)
		if i&(1<<18-1) == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return x, nil
}

// hash mixes the first 16 bytes of b into the upper bits of its result. The factors are those of xxHash (Yann Collet).
func hash(b []byte) uint64 {
	lo, hi := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	h := (lo*0x9E3779B185EBCA87 ^ hi) * 0xC2B2AE3D27D4EB4F
	return (h ^ h>>32) * 0x9E3779B185EBCA87
}

// find returns a place in old that begins with the same 16 bytes as b, and how many bytes are equal there, at most reach.
func (x *index) find(b []byte) (from, n int) {
	if len(b) < kmer {
		return 0, 0
	}
	i := x.places[hash(b)>>x.shift]
	if i == 0 {
		return 0, 0
	}
	from = int(i-1) * x.stride
	n = equal(x.old[from:], b[:min(reach, len(b))])
	if n < kmer {
		return 0, 0
	}
	return from, n
}
