package delta

const (
	pageBits = 7 // the bytes of old that share a shift, as a power of 2: Go aligns functions on amd64 to this
	noShift  = -1 << 31
)

// shifts says for each page of old by how much it lies further up in new. A page that is in no piece has the shift of the one
// before: most likely it would have moved with it. Where pieces share a page, the one counts that begins in front of it.
func shifts(oldSize int, pieces []piece) []int32 {
	s := make([]int32, oldSize>>pageBits+1)
	for i := range s {
		s[i] = noShift
	}
	for _, p := range pieces {
		for k := p.from >> pageBits; k <= (p.from+p.n-1)>>pageBits; k++ {
			if s[k] == noShift || k<<pageBits >= p.from {
				s[k] = int32(p.at - p.from)
			}
		}
	}
	last := int32(0)
	for i, v := range s {
		if v == noShift {
			s[i] = last
		}
		last = s[i]
	}
	return s
}
