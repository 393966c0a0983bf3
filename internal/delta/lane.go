package delta

import (
	"encoding/binary"
	"math/bits"
)

// A lane codes what differs within the pieces of one span. It goes over the bytes of old, and at every place it first looks
// at what could be known there:
//
//   - Four bytes that, taken as a displacement from their end, point to something that moved by another amount than they
//     themselves. Such are the operands of calls, jumps and loads. The bytes before them, the opcode, tell how likely it is.
//   - Four aligned bytes whose value lies near one that changed before. Such are pointers and the entries of offset tables,
//     for instance those of Go's pclntab: what they point to moved by the same amount.
//
// For such a candidate one bit says whether the four bytes changed as foreseen. The bytes up to the next candidate, or to the
// next multiple of 8, are a stretch, for which one bit says whether anything in it changed unforeseen; if so, further bits
// say where, and by how much. All bits are coded by what came of them before in like circumstances.
//
// The same code writes and reads (see coder). When it writes, new is only looked at.
type lane struct {
	c          *coder
	old, newer []byte
	moved      []int32 // by page of old, see shifts

	beyond []int32 // what moved behind the end of old, as a program's bss does: learned, by place, 0 for unknown
	values []guess // what aligned values changed by

	asMoved table // by opcode: does a displacement change as foreseen?
	asValue table // by trust and history: does an aligned value?
	opcode  table // by opcode: does the stretch, or byte, change?
	since   table // by the change before and the distance to it: the same
	mixers  [64]mixer
	amount  amounts

	before int32  // by how much the change before changed four bytes
	place  int    // where in old it was
	past   uint32 // whether the values before came as foreseen, the last in bit 0

	calm     int        // bytes since the last change
	leapt    uint32     // whether leaps before succeeded, the last in bit 0
	leapable [64]chance // by leapt
}

// A guess is how much four bytes with like values changed.
type guess struct {
	delta int32 // 0 for unknown
	tag   uint16
	trust uint8
}

const (
	calmEnough = 512      // bytes without a change after which whole leaps are tried
	leap       = 256      // bytes that one bit can tell to be equal
	ahead      = 12       // bytes that step may touch
	bssSize    = 64 << 20 // bytes behind the end of old that displacements may point to
	mostTrust  = 15
	near       = 8  // lowest bits in which near values differ
	around     = 16 // and those around them
)

// A table holds chances by a hash of what is known. Different things may share one: that costs a little and is no error.
type table struct {
	chances []chance
	shift   int
}

func newTable(log int) table {
	t := table{chances: make([]chance, 1<<log), shift: 32 - log}
	for i := range t.chances {
		t.chances[i] = even
	}
	return t
}

func (t *table) at(known uint32) *chance { return &t.chances[hash32(known)>>t.shift] }

// hash32 spreads v over the upper bits (multiplicative hashing, Knuth, "Sorting and Searching", 6.4; the factors are xxHash's).
func hash32(v uint32) uint32 {
	v *= 0x9E3779B1
	v ^= v >> 15
	return v * 0x85EBCA77
}

// newLane makes a lane whose tables suit the size of old: in a small file there is little to learn.
func newLane(c *coder, old, newer []byte, moved []int32) *lane {
	log := min(max(bits.Len(uint(len(old)>>6)), 8), 16)
	l := &lane{c: c, old: old, newer: newer, moved: moved, beyond: make([]int32, 1<<(log-2)), values: make([]guess, 1<<log),
		asMoved: newTable(log), asValue: newTable(12), opcode: newTable(log + 1), since: newTable(log + 1), amount: newAmounts(log)}
	for i := range l.mixers {
		l.mixers[i] = mixer{1 << 15, 1 << 15}
	}
	for i := range l.leapable {
		l.leapable[i] = even
	}
	return l
}

// run codes the pieces. From time to time it asks check whether to go on.
func (l *lane) run(pieces []piece, check func() error) error {
	for _, p := range pieces {
		o, n, end := p.from, p.at, p.at+p.n
		l.place, l.calm = o, 0
		for next := n; n+ahead <= end; {
			if n >= next {
				if err := check(); err != nil {
					return err
				}
				next = n + 1<<16
			}
			w := 0
			if l.calm >= calmEnough && n+leap <= end {
				w = l.leap(o, n)
			}
			if w == 0 {
				w = l.step(o, n)
			}
			o, n = o+w, n+w
		}
		for ; n < end; o, n = o+1, n+1 {
			l.put(n, l.amount.byte(l.c, l.old[o], l.newer[n]))
		}
	}
	return check()
}

// leap codes whether the next bytes are all equal, and returns their number if they are.
func (l *lane) leap(o, n int) int {
	same := !l.c.reading && string(l.old[o:o+leap]) == string(l.newer[n:n+leap])
	bit := l.c.bit(&l.leapable[l.leapt&63], b2u(same))
	l.leapt = l.leapt<<1 | bit
	if bit == 0 {
		l.calm = 0
		return 0
	}
	l.keep(o, n, leap)
	return leap
}

// step codes the bytes up to the next candidate, and returns how many those were.
func (l *lane) step(o, n int) int {
	foreseen, missed := l.foreseen(o, n)
	if foreseen {
		return 4
	}
	size := l.stretch(o, int32(n-o))
	changed := !l.c.reading && string(l.old[o:o+size]) != string(l.newer[n:n+size])
	known := l.distance(o)<<5 | uint32(size)<<2 | missed
	mixer := &l.mixers[uint32(size-1)<<2|missed]
	if l.either(l.opcode.at(l.op(o)|missed<<16), l.since.at(known), mixer, changed) == 0 {
		l.keep(o, n, size)
		return size
	}
	i := 0
	for ; i < size-1; i++ {
		known := l.distance(o+i)<<5 | missed
		mixer := &l.mixers[32|uint32(o+i)&3<<2|missed]
		changed := !l.c.reading && l.old[o+i] != l.newer[n+i]
		if l.either(l.opcode.at(1<<18|missed<<16|l.op(o+i)), l.since.at(known), mixer, changed) == 1 {
			break
		}
		missed = 0
	}
	l.keep(o, n, i)
	return i + l.change(o+i, n+i)
}

// foreseen codes whether the four bytes are a candidate that changed as foreseen. If not, missed says which kinds of candidate
// they were: 1 for a displacement, 2 for a value.
func (l *lane) foreseen(o, n int) (ok bool, missed uint32) {
	v := binary.LittleEndian.Uint32(l.old[o:])
	if d := l.displaced(o, n-o, v); d != 0 {
		if l.changedBy(l.asMoved.at(l.op(o)), n, v, d) {
			l.calm = 0
			return true, 0
		}
		missed = 1
	}
	if o&3 != 0 {
		return false, missed
	}
	if g := l.guess(o, v); g != nil {
		ok := l.changedBy(l.asValue.at(uint32(g.trust)<<8|l.past&0xFF), n, v, g.delta)
		l.past = l.past<<1 | b2u(ok)
		if ok {
			g.trust = min(g.trust+1, mostTrust)
			l.note(o, g.delta)
			return true, 0
		}
		if g.trust /= 2; g.trust == 0 {
			g.delta = 0
		}
		missed |= 2
	}
	return false, missed
}

// stretch returns how many bytes from o on, at least one, come before the next candidate or multiple of 8.
func (l *lane) stretch(o int, shift int32) int {
	k := o + 1
	for end := (o + 8) &^ 7; k < end; k++ {
		v := binary.LittleEndian.Uint32(l.old[k:])
		if l.displaced(k, int(shift), v) != 0 {
			break
		}
		if k&3 == 0 {
			if g := l.guess(k, v); g != nil {
				break
			}
		}
	}
	return k - o
}

// displaced returns by how much v, read at o as a displacement, must change if it is one, 0 if it is none or does not change.
func (l *lane) displaced(o, shift int, v uint32) int32 {
	t := int64(o) + 4 + int64(int32(v))
	if t < 0 || t >= int64(len(l.old))+bssSize {
		return 0
	}
	if t < int64(len(l.old)) {
		return l.moved[t>>pageBits] - int32(shift)
	}
	if m := *l.behind(t); m != 0 {
		return m - int32(shift)
	}
	return 0
}

// behind is where the shift of a target behind the end of old is kept.
func (l *lane) behind(t int64) *int32 {
	return &l.beyond[hash32(uint32(t>>8))%uint32(len(l.beyond))]
}

// guess returns what is known of aligned values like v, nil for nothing: of the nearest ones, or else of those around them.
func (l *lane) guess(o int, v uint32) *guess {
	for _, far := range [...]uint32{near, around} {
		g, tag := l.guessAt(o, v, far)
		if g.delta != 0 && g.tag == tag {
			return g
		}
	}
	return nil
}

// guessAt is where the guess for values is kept that have all but the lowest bits in common with v.
func (l *lane) guessAt(o int, v, lowest uint32) (g *guess, tag uint16) {
	h := hash32(v>>lowest ^ uint32(o&4)<<27 ^ lowest<<26)
	return &l.values[h>>16&uint32(len(l.values)-1)], uint16(h)
}

// change codes four bytes that changed unforeseen, the first among them, or that byte alone. It returns how many.
func (l *lane) change(o, n int) int {
	v, d := binary.LittleEndian.Uint32(l.old[o:]), int32(0)
	if !l.c.reading {
		d = int32(binary.LittleEndian.Uint32(l.newer[n:]) - v)
	}
	d, small := l.amount.code(l.c, l.distance(o), uint32(o&3), d)
	if !small {
		l.put(n, l.amount.byte(l.c, l.old[o], l.newer[n]))
		l.note(o, l.before)
		return 1
	}
	l.put32(n, v+uint32(d))
	l.note(o, d)
	if o&3 == 0 {
		for _, far := range [...]uint32{near, around} {
			g, tag := l.guessAt(o, v, far)
			*g = guess{delta: d, tag: tag, trust: 1}
		}
	}
	if t := int64(o) + 4 + int64(int32(v)); t >= int64(len(l.old)) && t < int64(len(l.old))+bssSize {
		*l.behind(t) = d + int32(n-o)
	}
	return 4
}

// note remembers a change at o by d.
func (l *lane) note(o int, d int32) { l.calm, l.place, l.before = 0, o, d }

// distance says how far back the last change is, up to 63 bytes, and by how much it was.
func (l *lane) distance(o int) uint32 { return uint32(l.before)<<6 ^ uint32(min(o-l.place, 63)) }

// op returns the two bytes before o, or the one that tells enough: amd64's call and jmp.
func (l *lane) op(o int) uint32 {
	if o < 2 {
		return 0
	}
	op := uint32(l.old[o-1])
	if op&0xFE != 0xE8 {
		op |= uint32(l.old[o-2]) << 8
	}
	return op
}

// either codes a bit by two chances. Where both are all but certain that it is 0, as nearly always, no mixing is needed.
func (l *lane) either(a, b *chance, m *mixer, set bool) uint32 {
	p, q := a.p16(), b.p16()
	var bit uint32
	if p < 64 && q < 64 {
		bit = l.c.raw(min(p, q), b2u(set))
	} else {
		mixed, s, t := m.mix(p, q)
		bit = l.c.raw(mixed, b2u(set))
		m.learn(mixed, bit, s, t)
	}
	a.update(bit)
	b.update(bit)
	return bit
}

// changedBy codes whether v became v+d, and writes that if it did.
func (l *lane) changedBy(c *chance, n int, v uint32, d int32) bool {
	to := v + uint32(d)
	if l.c.bit(c, b2u(!l.c.reading && binary.LittleEndian.Uint32(l.newer[n:]) == to)) == 0 {
		return false
	}
	l.put32(n, to)
	return true
}

// keep copies size bytes.
func (l *lane) keep(o, n, size int) {
	l.calm += size
	if l.c.reading {
		copy(l.newer[n:n+size], l.old[o:o+size])
	}
}

func (l *lane) put(n int, b byte) {
	if l.c.reading {
		l.newer[n] = b
	}
}

func (l *lane) put32(n int, v uint32) {
	if l.c.reading {
		binary.LittleEndian.PutUint32(l.newer[n:], v)
	}
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
