package delta

import "math/bits"

// amounts codes by how much four bytes changed. Changes come in few sizes, for they are the sizes of what was put in or taken
// out; so most are told by the change that followed the same one at the same distance before, or by their place among the most
// recent ones.
type amounts struct {
	follow   []int32 // what followed, by a hash of distance
	shift    int
	followed [256]chance // by distance in bytes and place in the word: is it that one?
	recent   [6]int32    // the last ones, the latest first
	repeats  [32]chance  // by index in recent and place in the word: is it that one?
	big      [4]chance   // by place in the word: is it too big for that, so that only a byte is told?
	negative [4]chance
	size     [32]chance   // how many bits it has
	bits     [8192]chance // by the number of bits and those that were told before
	bytes    []chance     // by the upper bits of the byte of old
}

const bigAmount = 1 << 24 // what changes by so much is not a displaced number

func newAmounts(log int) amounts {
	a := amounts{follow: make([]int32, 1<<log), shift: 32 - log, bytes: make([]chance, 256<<(log/2))}
	for _, set := range [][]chance{a.followed[:], a.repeats[:], a.big[:], a.negative[:], a.size[:], a.bits[:], a.bytes} {
		for i := range set {
			set[i] = even
		}
	}
	return a
}

// code codes the amount d at a place that is distance from the last change (see lane.distance) and word in its aligned word.
// It returns d, or that d is too big and was not coded.
func (a *amounts) code(c *coder, distance, word uint32, d int32) (amount int32, ok bool) {
	f := &a.follow[hash32(distance)>>a.shift]
	if c.bit(&a.followed[distance&63<<2|word], b2u(*f == d)) == 1 {
		return *f, true
	}
	i := a.index(c, word, d)
	if i < len(a.recent) {
		d = a.recent[i]
	} else {
		if c.bit(&a.big[word], b2u(d <= -bigAmount || d >= bigAmount)) == 1 {
			return 0, false
		}
		d = a.plain(c, word, d)
		i--
	}
	copy(a.recent[1:i+1], a.recent[:i])
	a.recent[0], *f = d, d
	return d, true
}

// index codes which of the recent amounts d is, len(recent) for none.
func (a *amounts) index(c *coder, word uint32, d int32) int {
	for i, r := range a.recent {
		if c.bit(&a.repeats[uint32(i)<<2|word], b2u(r == d)) == 1 {
			return i
		}
	}
	return len(a.recent)
}

// plain codes an amount by sign, number of bits, and the bits below the first.
func (a *amounts) plain(c *coder, word uint32, d int32) int32 {
	sign := c.bit(&a.negative[word], b2u(d < 0))
	v := uint32(max(d, -d))
	n := c.number(a.size[:], 5, uint32(bits.Len32(v)))
	got := min(n, 1)
	for i := int(n) - 2; i >= 0; i-- {
		known := got
		if known >= 128 {
			known = 128 + uint32(i) // the lower bits are as good as random
		}
		got = got<<1 | c.bit(&a.bits[n<<8|known], v>>i&1)
	}
	if sign == 1 {
		return -int32(got)
	}
	return int32(got)
}

// byte codes the byte that old became.
func (a *amounts) byte(c *coder, old, newer byte) byte {
	known := int(old) * len(a.bytes) >> 16 // as many upper bits as there are tables for
	return byte(c.number(a.bytes[known<<8:], 8, uint32(newer)))
}
