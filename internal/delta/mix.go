package delta

// Two chances are mixed as in PAQ (Matt Mahoney, "Adaptive weighing of context models for lossless data compression", 2005):
// as a weighted sum of their logits, in which the weights learn. All of it is whole numbers, because both ends of a patch must
// come to the same result on every processor.

// sigmoid is 65536/(1+e^-x) for x from -8 to 8 in steps of 1/2.
var sigmoid = [33]int32{22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11958, 17625, 24743, 32768,
	40793, 47911, 53578, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514}

// squash is the sigmoid of v/256, in units of 1/65536.
func squash(v int32) uint32 {
	v = min(max(v, -2047), 2047) + 2048
	i, part := v>>7, v&127
	return uint32(sigmoid[i] + (sigmoid[i+1]-sigmoid[i])*part>>7)
}

// logits is the inverse of squash, by the upper 12 bits of the probability.
var logits = func() (t [4096]int32) {
	p := 0
	for v := int32(-2047); v <= 2047; v++ {
		for ; p <= int(squash(v)>>4); p++ {
			t[p] = v
		}
	}
	for ; p < len(t); p++ {
		t[p] = 2047
	}
	return t
}()

// A mixer holds two weights in units of 1/65536.
type mixer [2]int32

const heaviest = 1 << 19

// mix returns the mixed probability of a 1 in units of 1/65536, and the logits for learn.
func (m *mixer) mix(p, q uint32) (mixed uint32, s, t int32) {
	s, t = logits[p>>4], logits[q>>4]
	dot := (int64(m[0])*int64(s) + int64(m[1])*int64(t)) >> 16
	return squash(int32(min(max(dot, -2047), 2047))), s, t
}

// learn moves the weights towards what would have foreseen the bit.
func (m *mixer) learn(mixed, bit uint32, s, t int32) {
	miss := (int32(bit<<16) - int32(mixed)) >> 4
	m[0] = min(max(m[0]+(s*miss+1<<13)>>14, -heaviest), heaviest)
	m[1] = min(max(m[1]+(t*miss+1<<13)>>14, -heaviest), heaviest)
}
