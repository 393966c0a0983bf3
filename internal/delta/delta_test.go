package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

func noise(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func mustMake(t testing.TB, old, newer []byte) []byte {
	t.Helper()
	patch, err := Make(t.Context(), old, newer, 0)
	if err != nil {
		t.Fatal(err)
	}
	return patch
}

// roundTrip makes a patch, applies it, and looks that neither touched its inputs.
func roundTrip(t testing.TB, old, newer []byte) (patch []byte) {
	t.Helper()
	o, n := bytes.Clone(old), bytes.Clone(newer)
	patch = mustMake(t, old, newer)
	p := bytes.Clone(patch)
	got, err := Apply(old, patch, int64(len(newer)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, newer) {
		t.Fatal("the result is not new")
	}
	if !bytes.Equal(o, old) || !bytes.Equal(n, newer) || !bytes.Equal(p, patch) {
		t.Fatal("an input was changed")
	}
	return patch
}

func TestRoundTrip(t *testing.T) {
	program, relinked := edited(3000)
	random := noise(1<<20, 1)
	zeros := make([]byte, 3<<20)
	pattern := bytes.Repeat([]byte("sixteen bytes!!\n"), 1<<16)
	period := bytes.Repeat([]byte("seventeen bytes!\n"), 1<<16)
	for _, c := range []struct {
		name       string
		old, newer []byte
		most       int // bytes of patch
	}{
		{"both empty", nil, nil, 100},
		{"old empty", nil, random[:5000], 5400},
		{"new empty", random, nil, 200},
		{"one byte", []byte{1}, []byte{2}, 200},
		{"shorter than a match", []byte("0123456789"), []byte("0123456789a"), 200},
		{"identical", program, program, 200},
		{"edited", program, relinked, len(relinked) / 400},
		{"edited back", relinked, program, len(program) / 400},
		{"moved by one", random, append([]byte{7}, random...), 300},
		{"cut off in front", random, random[12345:], 300},
		{"halves swapped", random, append(bytes.Clone(random[1<<19:]), random[:1<<19]...), 400},
		{"much smaller", random, random[1000:1100], 300},
		{"much bigger", random[:5000], bytes.Repeat(random[:5000], 300), 2500},
		{"unrelated", random, noise(1<<20, 3), 1<<20 + 2000},
		{"zeros", zeros, zeros[:2<<20], 300},
		{"zeros from noise", random, zeros, 4000},
		{"noise from zeros", zeros, random, 1<<20 + 2000},
		{"patterns", pattern, period, 20000},
		{"the same pattern moved", pattern, pattern[5:], 300},
		{"three lanes", bytes.Repeat(random, 25), bytes.Repeat(random[1:], 25), 5000},
	} {
		t.Run(c.name, func(t *testing.T) {
			patch := roundTrip(t, c.old, c.newer)
			t.Logf("%d bytes", len(patch))
			if len(patch) > c.most {
				t.Errorf("the patch has %d bytes, more than %d", len(patch), c.most)
			}
			if again := mustMake(t, c.old, c.newer); !bytes.Equal(again, patch) {
				t.Error("a second patch is another one")
			}
		})
	}
}

// TestAnyEdit cuts an old file up and puts it together in any order, with noise between, changed bytes and shifted numbers.
func TestAnyEdit(t *testing.T) {
	program, _ := edited(300)
	base := append(program[:60000:60000], make([]byte, 5000)...)
	rapid.Check(t, func(r *rapid.T) {
		old := base[rapid.IntRange(0, len(base)).Draw(r, "from"):]
		var newer []byte
		for range rapid.IntRange(0, 12).Draw(r, "parts") {
			from := rapid.IntRange(0, len(old)).Draw(r, "begin")
			part := bytes.Clone(old[from : from+rapid.IntRange(0, len(old)-from).Draw(r, "size")])
			shift := rapid.Uint32().Draw(r, "shift")
			for at := rapid.IntRange(0, 2000).Draw(r, "first"); at+4 <= len(part); at += rapid.IntRange(4, 2000).Draw(r, "gap") {
				binary.LittleEndian.PutUint32(part[at:], binary.LittleEndian.Uint32(part[at:])+shift>>(at%32))
			}
			newer = append(append(newer, part...), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(r, "noise")...)
		}
		patch, err := Make(t.Context(), old, newer, 0)
		if err != nil {
			r.Fatal(err)
		}
		if got, err := Apply(old, patch, int64(len(newer))); err != nil || !bytes.Equal(got, newer) {
			r.Fatalf("%v, equal: %v", err, bytes.Equal(got, newer))
		}
	})
}

func TestDamage(t *testing.T) {
	old, newer := edited(40)
	patch := mustMake(t, old, newer)
	for n := range patch {
		if _, err := Apply(old, patch[:n], 1<<20); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut off at %d of %d: %v", n, len(patch), err)
		}
	}
	for i := range len(patch) * 8 {
		bad := bytes.Clone(patch)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := Apply(old, bad, 1<<20); !errors.Is(err, ErrDamaged) {
			t.Fatalf("bit %d of %d flipped: %v", i, len(patch)*8, err)
		}
	}
	if _, err := Apply(old, append(bytes.Clone(patch), 0), 1<<20); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// TestForgery flips bits and sets the checksum right again, as an attacker would: the SHA-256 of the result must hold.
func TestForgery(t *testing.T) {
	old, newer := edited(40)
	patch := mustMake(t, old, newer)
	for i := fixed * 8; i < len(patch)*8; i++ {
		bad := bytes.Clone(patch)
		bad[i/8] ^= 1 << (i % 8)
		got, err := Apply(old, seal(bad), 1<<20)
		if err == nil && !bytes.Equal(got, newer) {
			t.Fatalf("bit %d: a wrong result", i)
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTooBig) && !errors.Is(err, ErrWrongBase) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	bad := bytes.Clone(patch)
	bad[preamble+sha256.Size]++
	if _, err := Apply(old, seal(bad), 1<<20); !errors.Is(err, ErrDamaged) {
		t.Errorf("another SHA-256 of new: %v", err)
	}
}

// seal sets a patch's checksum right.
func seal(patch []byte) []byte {
	if len(patch) >= preamble {
		binary.LittleEndian.PutUint32(patch[len(magic):], crc32.Checksum(patch[preamble:], castagnoli))
	}
	return patch
}

func TestWrongBase(t *testing.T) {
	old, newer := edited(40)
	patch := mustMake(t, old, newer)
	other := bytes.Clone(old)
	other[len(other)/2]++
	for name, base := range map[string][]byte{"a byte changed": other, "cut off": old[1:], "empty": nil, "new": newer} {
		if _, err := Apply(base, patch, 1<<20); !errors.Is(err, ErrWrongBase) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A base that CRC-32C does not tell apart: the SHA-256 does.
	binary.LittleEndian.PutUint32(patch[preamble+2*sha256.Size:], crc32.Checksum(other, castagnoli))
	if _, err := Apply(other, seal(patch), 1<<20); !errors.Is(err, ErrWrongBase) {
		t.Errorf("the same CRC: %v", err)
	}
}

func TestTooBig(t *testing.T) {
	old, newer := edited(3000)
	patch := mustMake(t, old, newer)
	if _, err := Make(t.Context(), old, newer, int64(len(patch))); err != nil {
		t.Errorf("with just enough: %v", err)
	}
	for _, limit := range []int64{1, int64(fixed), int64(len(patch)) / 2, int64(len(patch)) - 1} {
		if _, err := Make(t.Context(), old, newer, limit); !errors.Is(err, ErrTooBig) {
			t.Errorf("limit %d of %d: %v", limit, len(patch), err)
		}
	}
	for _, most := range []int64{-1, 0, int64(len(newer)) - 1} {
		if _, err := Apply(old, patch, most); !errors.Is(err, ErrTooBig) {
			t.Errorf("at most %d of %d: %v", most, len(newer), err)
		}
	}
	m := &maker{ctx: t.Context(), old: old, newer: noise(8<<20, 5), limit: 10000}
	if _, err := m.bodies(); !errors.Is(err, ErrTooBig) || m.spent.Load() > 200000 {
		t.Errorf("%d bytes were made: %v", m.spent.Load(), err)
	}
}

// countdown is a context that ends when it was asked often enough.
type countdown struct {
	context.Context
	left chan struct{}
}

func (c countdown) Err() error {
	select {
	case <-c.left:
		return nil
	default:
		return context.Canceled
	}
}

func TestCancelAnywhere(t *testing.T) {
	old, newer := edited(300)
	want := mustMake(t, old, newer)
	for n := 0; ; n++ {
		if n == 1000 {
			t.Fatal("Make does not end")
		}
		left := make(chan struct{}, n)
		for range n {
			left <- struct{}{}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("no longer wanted")
		cancel(reason)
		patch, err := Make(countdown{ctx, left}, old, newer, 0)
		if err == nil {
			if !bytes.Equal(patch, want) {
				t.Error("another patch")
			}
			if n < 5 {
				t.Errorf("ctx was asked only %d times", n)
			}
			return
		}
		if !errors.Is(err, reason) || patch != nil {
			t.Fatalf("after %d: %v", n, err)
		}
	}
}

// TestProcessors makes a patch of several lanes with one processor and with more.
func TestProcessors(t *testing.T) {
	program, relinked := edited(1000)
	old, newer := bytes.Repeat(program, 64), bytes.Repeat(relinked, 64)
	if n := len(lanesOf(len(newer))); n < 2 {
		t.Fatalf("%d bytes make only %d lanes", len(newer), n)
	}
	var first []byte
	for _, n := range []int{1, 2} {
		before := runtime.GOMAXPROCS(n)
		patch := roundTrip(t, old, newer)
		runtime.GOMAXPROCS(before)
		if first == nil {
			first = patch
		}
		if !bytes.Equal(first, patch) {
			t.Errorf("with %d processors the patch is another one", n)
		}
	}
}

// TestNoBomb gives a patch of a few bytes that promises a gigabyte.
func TestNoBomb(t *testing.T) {
	m := &maker{ctx: t.Context(), limit: 1 << 20}
	frame, err := m.frame(nil)
	if err != nil {
		t.Fatal(err)
	}
	patch := append([]byte(magic), make([]byte, fixed-len(magic))...)
	none := sha256.Sum256(nil)
	copy(patch[preamble:], none[:])
	patch = binary.AppendUvarint(patch, 0)
	patch = binary.AppendUvarint(patch, 1<<30)
	patch = append(patch, make([]byte, maxLanes)...)
	patch = seal(append(patch, frame...))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = Apply(nil, patch, 1<<30)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestFormat applies a patch that version 1 made on amd64: a format that reads its own patches only is none.
func TestFormat(t *testing.T) {
	old, newer := edited(3000)
	const name = "testdata/v1.patch"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, mustMake(t, old, newer), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	patch, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Apply(old, patch, 1<<30); err != nil || !bytes.Equal(got, newer) {
		t.Errorf("a patch of version 1 is not understood: %v", err)
	}
	patch[len(magic)-1]++
	if _, err := Apply(old, patch, 1<<30); !errors.Is(err, ErrDamaged) {
		t.Errorf("version 2: %v", err)
	}
}
