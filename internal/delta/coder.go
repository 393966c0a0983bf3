package delta

import "fmt"

// The entropy coder is the binary range coder of LZMA (Igor Pavlov, LZMA SDK), with probabilities of 16 bits that learn as
// the counters of lpaq do (Matt Mahoney): by 1/n at first and ever more slowly.

// A chance is the probability that the next bit is 1, in the upper 22 bits, and in the lower 10 how often it was asked.
type chance uint32

const (
	even    chance = 1 << 31
	patient        = 255 // a chance moves by at least 1/patient
	surest         = 4   // no bit is thought less likely than surest/65536
)

var learn = func() (t [1024]uint32) {
	for n := range t {
		t[n] = uint32(65536 * 2 / (2*n + 3))
	}
	return t
}()

// p16 returns the probability of a 1 in units of 1/65536.
func (c chance) p16() uint32 { return min(max(uint32(c>>16), surest), 65536-surest) }

// update moves the chance towards the bit that came.
func (c *chance) update(bit uint32) {
	v := uint32(*c)
	n := v & 1023
	p := v >> 10
	if bit != 0 {
		p += uint32(uint64(1<<22-1-p) * uint64(learn[n]) >> 16)
	} else {
		p -= uint32(uint64(p) * uint64(learn[n]) >> 16)
	}
	if n < patient {
		n++
	}
	*c = chance(p<<10 | n)
}

// A coder writes bits or reads them back; which of the two is settled when it is made. That one method does both lets one
// model serve both ways, so that they cannot come to differ.
type coder struct {
	low     uint64
	span    uint32
	code    uint32
	reading bool
	buf     []byte
	pos     int // of the next byte to read
	cache   byte
	pending int
}

func newWriter() *coder { return &coder{span: 1<<32 - 1, pending: 1} }

// newReader reads what a writer wrote. A reader never fails: behind the end there are zeros, and what they mean is for the
// caller to judge.
func newReader(b []byte) *coder {
	c := &coder{span: 1<<32 - 1, reading: true, buf: b}
	for range 5 {
		c.code = c.code<<8 | uint32(c.next())
	}
	return c
}

func (c *coder) next() byte {
	if c.pos >= len(c.buf) {
		c.pos++
		return 0
	}
	c.pos++
	return c.buf[c.pos-1]
}

// bit codes one bit by its chance, and lets the chance learn from it. A reader does not look at bit.
func (c *coder) bit(p *chance, bit uint32) uint32 {
	bit = c.raw(p.p16(), bit)
	p.update(bit)
	return bit
}

// raw codes one bit whose probability to be 1 is p16/65536.
func (c *coder) raw(p16, bit uint32) uint32 {
	bound := (c.span >> 16) * p16
	if c.reading {
		if c.code < bound {
			c.span, bit = bound, 1
		} else {
			c.code -= bound
			c.span -= bound
			bit = 0
		}
		for c.span < 1<<24 {
			c.span <<= 8
			c.code = c.code<<8 | uint32(c.next())
		}
		return bit
	}
	if bit != 0 {
		c.span = bound
	} else {
		c.low += uint64(bound)
		c.span -= bound
	}
	for c.span < 1<<24 {
		c.span <<= 8
		c.shift()
	}
	return bit
}

// shift moves the top byte of low out. It waits for those of 0xFF, through which a carry may still pass.
func (c *coder) shift() {
	if uint32(c.low) < 0xFF000000 || c.low>>32 != 0 {
		carry := byte(c.low >> 32)
		for b := c.cache; c.pending > 0; c.pending-- {
			c.buf = append(c.buf, b+carry)
			b = 0xFF
		}
		c.cache = byte(c.low >> 24)
	}
	c.pending++
	c.low = c.low & 0x00FFFFFF << 8
}

// end returns all that was written.
func (c *coder) end() []byte {
	for range 5 {
		c.shift()
	}
	return c.buf
}

// number codes the n low bits of v from the top, each by the chances of those before it. It needs 1<<n chances.
func (c *coder) number(tree []chance, n int, v uint32) uint32 {
	at := uint32(1)
	for i := n - 1; i >= 0; i-- {
		at = at<<1 | c.bit(&tree[at], v>>i&1)
	}
	return at - 1<<n
}

// overrun reports a reader that was asked for clearly more than was written.
func (c *coder) overrun() error {
	if c.pos > len(c.buf)+16 {
		return fmt.Errorf("%w: its changes are cut off", ErrDamaged)
	}
	return nil
}
