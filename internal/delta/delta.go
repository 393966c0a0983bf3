// Package delta makes and applies patches between two builds of a program: uncompressed tar files, or the programs
// themselves, of up to 2 GB.
//
// Inserting one line into a Go program moves everything behind it, and so changes every displacement that crosses the line
// and every table of offsets: some hundred thousand places in a program of 50 MB. The scheme is Colin Percival's ("Naive
// differences of executable code", 2003, known as bsdiff): new is put together of pieces of old that need not be quite equal,
// and of bytes that resemble nothing in old. What differs within the pieces is not subtracted and compressed blindly,
// however. Both ends know which piece went where, so both can say what a displacement must become when its target moved, as
// Google's Courgette and Zucchini do, but without taking the program apart: every four bytes that, read as a displacement,
// point to something that moved by another amount are a candidate, and an adaptive coder learns which candidates to believe
// (see lane). That works for every format and nearly as well for data that is not a program at all.
//
// A patch is:
//
//	8 bytes    "FLDELTA" and the version of the format, 1
//	4 bytes    CRC-32C of all that follows, little-endian
//	64 bytes   SHA-256 of old, SHA-256 of new
//	4 bytes    CRC-32C of old, little-endian
//	uvarints   size of old, size of new, size of each lane's changes (how many lanes there are follows from the size of new)
//	lanes      for each part of new the changes within its pieces, range-coded
//	the rest   deflated: the number of pieces, for each piece three varints (bytes of new before it that no piece gives, its
//	           size, its place in old less the end of the piece before), and then the bytes that no piece gives
//
// The same two inputs give the same patch on every machine with the same version of Go, whatever the number of its
// processors; a patch can be applied on all of them. The room keeps no state, opens no files and imports nothing of this module.
package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// The errors that callers ask for with errors.Is; what comes back says more.
var (
	// ErrTooBig means that the patch or what it makes would be bigger than the caller allowed.
	ErrTooBig = errors.New("too big")
	// ErrWrongBase means that the patch is in order but was made from other bytes than those given as old.
	ErrWrongBase = errors.New("the patch was made from another base")
	// ErrDamaged means that the patch is not one, is cut off, or was changed after it was made.
	ErrDamaged = errors.New("damaged patch")
)

const (
	laneBits = 23 // lanes have 8 MB and more: in smaller ones there is too little to learn from
	maxLanes = 16
	magic    = "FLDELTA\x01"
	preamble = len(magic) + crc32.Size
	fixed    = preamble + 2*sha256.Size + crc32.Size // what every patch has
	maxSize  = math.MaxInt32 - 1<<16                 // offsets are kept in 32 bits
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Make returns a patch with which [Apply] turns old into newer. It neither keeps nor changes them. It takes time in proportion
// to their sizes, whatever they hold, and besides them at most as much memory as old has, and 10 MB for each processor.
//
// The patch has at most limit bytes; where it would get bigger, Make ends with [ErrTooBig] as soon as that is certain. A limit
// of 0 or less is none. Inputs of 2 GB and more are [ErrTooBig] too. When ctx ends, so does Make, with ctx's cause.
func Make(ctx context.Context, old, newer []byte, limit int64) ([]byte, error) {
	if len(old) > maxSize || len(newer) > maxSize {
		return nil, fmt.Errorf("inputs of %d and %d bytes, at most %d are possible: %w", len(old), len(newer), maxSize, ErrTooBig)
	}
	m := &maker{ctx: ctx, old: old, newer: newer, limit: limit}
	if limit <= 0 {
		m.limit = math.MaxInt64
	}
	if err := m.spend(fixed); err != nil {
		return nil, err
	}
	var sums [2][sha256.Size]byte
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		sums[0], sums[1] = sha256.Sum256(old), sha256.Sum256(newer)
	}()
	bodies, err := m.bodies()
	<-hashed
	if err != nil {
		return nil, err
	}
	head := append(sums[0][:], sums[1][:]...)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(old, castagnoli))
	head = binary.AppendUvarint(head, uint64(len(old)))
	head = binary.AppendUvarint(head, uint64(len(newer)))
	for _, b := range bodies[:len(bodies)-1] {
		head = binary.AppendUvarint(head, uint64(len(b)))
	}
	crc := crc32.Checksum(head, castagnoli)
	size := preamble + len(head)
	for _, b := range bodies {
		crc = crc32.Update(crc, castagnoli, b)
		size += len(b)
	}
	if int64(size) > m.limit {
		return nil, fmt.Errorf("a patch of %d bytes where %d are allowed: %w", size, limit, ErrTooBig)
	}
	patch := append(make([]byte, 0, size), magic...)
	patch = binary.LittleEndian.AppendUint32(patch, crc)
	return append(append(patch, head...), bytes.Join(bodies, nil)...), nil
}

// Apply returns what the patch makes of old. It neither keeps nor changes them. A result that is not byte for byte what
// [Make] was given is never returned.
//
// The result has at most limit bytes; for a patch that would make more, Apply ends with [ErrTooBig] before it allocates. A
// patch may come from anybody: besides the result, memory is taken for at most what the sizes of old and patch and the limit
// justify. Other errors are [ErrWrongBase] and [ErrDamaged].
func Apply(old, patch []byte, limit int64) ([]byte, error) {
	h, err := parse(patch)
	if err != nil {
		return nil, err
	}
	if limit < 0 || h.newSize > uint64(limit) {
		return nil, fmt.Errorf("the patch makes %d bytes where %d are allowed: %w", h.newSize, limit, ErrTooBig)
	}
	if h.oldSize != uint64(len(old)) || h.oldCRC != crc32.Checksum(old, castagnoli) {
		return nil, fmt.Errorf("%w: of %d bytes with SHA-256 %x", ErrWrongBase, h.oldSize, h.oldSum)
	}
	out, err := h.build(old)
	if err == nil {
		return out, nil
	}
	// The SHA-256 of old takes long, and when that of new is right, it has nothing to add. Now it says whose fault it is.
	if sum := sha256.Sum256(old); sum != h.oldSum {
		return nil, fmt.Errorf("%w: with SHA-256 %x, not %x", ErrWrongBase, h.oldSum, sum)
	}
	return nil, err
}

// A header is what a patch says of itself, and its parts, which are not yet looked into.
type header struct {
	oldSum, newSum   [sha256.Size]byte
	oldCRC           uint32
	oldSize, newSize uint64
	lanes            [][]byte
	frame            []byte
}

func parse(patch []byte) (*header, error) {
	if len(patch) < fixed {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(patch))
	}
	if got := string(patch[:len(magic)]); got != magic {
		if got[:len(magic)-1] == magic[:len(magic)-1] {
			return nil, fmt.Errorf("%w: version %d of the format, not %d", ErrDamaged, got[len(magic)-1], magic[len(magic)-1])
		}
		return nil, fmt.Errorf("%w: it does not begin as a patch", ErrDamaged)
	}
	rest := patch[preamble:]
	if crc32.Checksum(rest, castagnoli) != binary.LittleEndian.Uint32(patch[len(magic):]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrDamaged)
	}
	h := &header{}
	rest = rest[copy(h.oldSum[:], rest):]
	rest = rest[copy(h.newSum[:], rest):]
	h.oldCRC, rest = binary.LittleEndian.Uint32(rest), rest[crc32.Size:]
	bad := false
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > maxSize {
			bad = true
			return 0
		}
		rest = rest[n:]
		return v
	}
	h.oldSize, h.newSize = number(), number()
	sizes := make([]uint64, len(lanesOf(int(h.newSize))))
	for i := range sizes {
		sizes[i] = number()
	}
	for _, n := range sizes {
		if bad || n > uint64(len(rest)) {
			return nil, fmt.Errorf("%w: its sizes are impossible", ErrDamaged)
		}
		h.lanes = append(h.lanes, rest[:n])
		rest = rest[n:]
	}
	h.frame = rest
	return h, nil
}

// build puts new together and verifies it. The bytes of the frame are read before new is allocated, so that new is no bigger
// than they and the pieces of old can fill.
func (h *header) build(old []byte) ([]byte, error) {
	pieces, extra, err := readFrame(h.frame, len(old), int(h.newSize))
	if err != nil {
		return nil, err
	}
	out := make([]byte, h.newSize)
	at := 0
	for _, p := range append(pieces, piece{at: len(out)}) {
		extra = extra[copy(out[at:p.at], extra):]
		at = p.at + p.n
	}
	moved, spans := shifts(len(old), pieces), lanesOf(len(out))
	ready := make([]chan error, len(spans))
	for i := range ready {
		ready[i] = make(chan error, 1)
	}
	go inParallel(len(spans), func(i int) {
		l := newLane(newReader(h.lanes[i]), old, out, moved)
		ready[i] <- l.run(spans[i].of(pieces), l.c.overrun)
	})
	// Lanes become ready from the first to the last: those are hashed while others are still being read.
	hash := sha256.New()
	for i, s := range spans {
		if e := <-ready[i]; e != nil {
			err = e // the other lanes are waited for
		}
		if err == nil {
			hash.Write(out[s.lo:s.hi])
		}
	}
	if err != nil {
		return nil, err
	}
	if sum := hash.Sum(nil); !bytes.Equal(sum, h.newSum[:]) {
		return nil, fmt.Errorf("%w: it makes bytes with SHA-256 %x, not %x", ErrDamaged, sum, h.newSum)
	}
	return out, nil
}

// inParallel calls do(0) to do(n-1), on all processors, and the lower ones first.
func inParallel(n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	wg.Wait()
}

// A span is the part of new that one lane works on.
type span struct{ lo, hi int }

// lanesOf splits new into parts that are worked on at the same time. It follows from the size alone, because the lanes are
// part of the format.
func lanesOf(size int) []span {
	n := min(max(size>>laneBits, 1), maxLanes)
	spans := make([]span, n)
	for i := range spans {
		spans[i] = span{lo: int(int64(size) * int64(i) / int64(n)), hi: int(int64(size) * int64(i+1) / int64(n))}
	}
	return spans
}

// of returns the pieces that begin in the span.
func (s span) of(pieces []piece) []piece {
	first := 0
	for first < len(pieces) && pieces[first].at < s.lo {
		first++
	}
	last := first
	for last < len(pieces) && pieces[last].at < s.hi {
		last++
	}
	return pieces[first:last]
}
