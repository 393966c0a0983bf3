package delta

import (
	"context"
	"encoding/binary"
	"math/bits"
)

// A piece says that new[at:at+n] resembles old[from:from+n]. Pieces are in the order of at and do not overlap; what lies
// between them in new resembles nothing in old.
type piece struct {
	at, from, n int
}

const (
	kmer     = 16  // bytes that must be equal before a place in old is looked at
	minPiece = 16  // bytes that a piece must have to be worth saying where it is
	reach    = 256 // bytes by which a new place is compared with the present one
	likely   = 11  // equal bytes of 16 for which the present place is not doubted
	better   = 8   // equal bytes that a new place must have more: about what it costs to turn to it
	gain     = 3   // what an equal byte adds to the worth of a piece,
	loss     = 2   // and another byte takes: a table of numbers of which half the bytes changed is still one
	settle   = 32  // equal bytes in a row that make the present place certain
)

// equal returns how many bytes a and b have in common from their beginnings.
func equal(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[:n], b[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		if d := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); d != 0 {
			return i + bits.TrailingZeros64(d)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// A matcher walks over new and keeps the present offset: the place in old less the place in new.
type matcher struct {
	x      *index
	newer  []byte
	pieces []piece
	begin  int // where the present piece begins in new
	offset int
	sure   int // up to here in new the present offset is certain
}

// match splits the span of new into pieces of old. The work is O(len(new)): what is compared at one place is at most reach
// bytes, and when they are equal under one offset or the other, they are passed over.
func match(ctx context.Context, x *index, newer []byte, s span) ([]piece, error) {
	m := &matcher{x: x, newer: newer[:s.hi], begin: s.lo, sure: s.lo}
	misses := 0 // places in a row that resemble nothing: then the walk becomes faster, in odd steps that no stride escapes
	for p, next := s.lo, s.lo; p < s.hi; {
		if p >= next {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			next = p + 1<<20
		}
		run := m.run(p, min(s.hi, p+1<<20))
		if run >= settle {
			p += run
			m.sure, misses = p, 0
			continue
		}
		if m.alike(p) >= likely {
			p, misses = p+16, 0
			continue
		}
		from, n := x.find(m.newer[p:])
		switch {
		case n == 0:
			misses++
			p += 1 + 2*min(misses>>14, 3)
			continue
		case from-p != m.offset && n > m.same(p, p+n)+better:
			m.turn(p, from)
			p += n
			m.sure = p
		default:
			p += n
		}
		misses = 0
	}
	m.close(s.hi, m.forward(s.hi))
	return m.pieces, nil
}

// run returns how many bytes of new from p to end are those of old under the present offset.
func (m *matcher) run(p, end int) int {
	q := p + m.offset
	if q < 0 || q >= len(m.x.old) {
		return 0
	}
	return equal(m.x.old[q:], m.newer[p:end])
}

// alike counts the bytes equal under the present offset among the 16 from p on, 0 where there are no 16.
func (m *matcher) alike(p int) int {
	q := p + m.offset
	if q < 0 || q+16 > len(m.x.old) || p+16 > len(m.newer) {
		return 0
	}
	a, b := m.x.old[q:q+16], m.newer[p:p+16]
	return zeros(binary.LittleEndian.Uint64(a)^binary.LittleEndian.Uint64(b)) +
		zeros(binary.LittleEndian.Uint64(a[8:])^binary.LittleEndian.Uint64(b[8:]))
}

// zeros counts the bytes of v that are 0: their upper bit is what remains 0 when the lower seven carry into it.
func zeros(v uint64) int {
	const low = 0x7F7F7F7F7F7F7F7F
	return 8 - bits.OnesCount64(((v&low)+low|v)&^low)
}

// same counts the bytes of new[p:end] that are those of old under the present offset.
func (m *matcher) same(p, end int) int {
	n := 0
	for ; p < end; p++ {
		if q := p + m.offset; q >= 0 && q < len(m.x.old) && m.x.old[q] == m.newer[p] {
			n++
		}
	}
	return n
}

// forward returns where the present piece had best end, at most end: where its worth is greatest.
func (m *matcher) forward(end int) int {
	best, score, top := m.sure, 0, 0
	for p := m.sure; p < end && p+m.offset < len(m.x.old); p++ {
		if q := p + m.offset; q >= 0 && m.x.old[q] == m.newer[p] {
			score += gain
		} else {
			score -= loss
		}
		if score > top {
			best, top = p+1, score
		}
	}
	return best
}

// turn ends the present piece and begins one in which new[p] is old[from]. Both are stretched towards each other, the new
// one not beyond what is certain of the present one; where they overlap they are cut where most bytes are equal.
func (m *matcher) turn(p, from int) {
	end, offset := m.forward(p), from-p
	begin, score, top := p, 0, 0
	for s := p - 1; s >= m.sure && s+offset >= 0; s-- {
		if m.x.old[s+offset] == m.newer[s] {
			score += gain
		} else {
			score -= loss
		}
		if score > top {
			begin, top = s, score
		}
	}
	if begin < end {
		cut, sum, most := begin, 0, 0
		for s := begin; s < end; s++ {
			if m.x.old[s+m.offset] == m.newer[s] {
				sum++
			}
			if m.x.old[s+offset] == m.newer[s] {
				sum--
			}
			if sum > most {
				cut, most = s+1, sum
			}
		}
		begin, end = cut, cut
	}
	m.close(begin, end)
	m.offset = offset
}

// close records the present piece up to end and lets the next one begin at begin.
func (m *matcher) close(begin, end int) {
	if end-m.begin >= minPiece {
		m.pieces = append(m.pieces, piece{at: m.begin, from: m.begin + m.offset, n: end - m.begin})
	}
	m.begin, m.sure = begin, begin
}
