package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"crypto/sha256"
)

// FuzzApply gives Apply foreign patches whose checksums are right, since a fuzzer would not find those.
func FuzzApply(f *testing.F) {
	old, newer := edited(40)
	for _, n := range [][]byte{newer, old, nil, noise(300, 1), append(noise(100, 2), old...), bytes.Repeat(old[5000:6000], 9)} {
		f.Add(mustMake(f, old, n))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		if len(patch) >= fixed {
			binary.LittleEndian.PutUint32(patch[fixed-crc32.Size:], crc32.Checksum(old, castagnoli))
		}
		const most = 1 << 17
		got, err := Apply(old, seal(bytes.Clone(patch)), most)
		switch {
		case err == nil:
			if sum := sha256.Sum256(got); len(got) > most || !bytes.Equal(sum[:], patch[preamble+sha256.Size:][:sha256.Size]) {
				t.Error("a result that the patch does not speak of")
			}
		case !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooBig) && !errors.Is(err, ErrWrongBase):
			t.Errorf("an error of no kind: %v", err)
		}
	})
}

// FuzzRoundTrip makes patches between any two files.
func FuzzRoundTrip(f *testing.F) {
	program, relinked := edited(20)
	f.Add(program[0xF80:], relinked[0xF80:])
	f.Add([]byte{}, []byte("new"))
	f.Add([]byte("old old old old old old old"), []byte("old old old new old old old old"))
	f.Add(bytes.Repeat([]byte{0}, 300), bytes.Repeat([]byte{0, 0, 0, 1}, 99))
	f.Fuzz(func(t *testing.T, old, newer []byte) {
		roundTrip(t, old, newer)
	})
}
