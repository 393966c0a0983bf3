package inspect

import (
	"encoding/binary"
	"io"
	"strings"
)

// The most that is read at once, in bytes, whatever a file says of itself. Memory then stays below the file's own size
// plus these.
const (
	maxTable   = 16 << 20 // a string or header table; the largest of Debian's libraries has 4 MB
	maxName    = 255      // a section's name
	maxPath    = 4096     // a path or a library's name, Linux's PATH_MAX
	maxRunPath = 64 << 10 // a list of folders; Nix gives each library one of its own
	maxEntries = 1024     // libraries, versions, segments
)

// input is a file of known length.
type input struct {
	r    io.ReaderAt
	size uint64
}

// read returns up to n bytes from off: fewer where the file ends or n is beyond all reason.
func (in input) read(off, n uint64) []byte {
	if off >= in.size {
		return nil
	}
	b := make([]byte, min(n, in.size-off, maxTable))
	got, err := in.r.ReadAt(b, int64(off))
	if err != nil && got < len(b) {
		return b[:got]
	}
	return b
}

// holds reports whether n bytes from off lie in the file.
func (in input) holds(off, n uint64) bool { return off <= in.size && n <= in.size-off }

// part is the n bytes from off as a file of their own.
func (in input) part(off, n uint64) input {
	off = min(off, in.size)
	n = min(n, in.size-off)
	return input{io.NewSectionReader(in.r, int64(off), int64(n)), n}
}

// words reads numbers from bytes; beyond their end it reads 0.
type words struct {
	b     []byte
	order binary.ByteOrder
}

func (w words) has(off, n uint64) bool {
	return off <= uint64(len(w.b)) && n <= uint64(len(w.b))-off
}

func (w words) u16(off uint64) uint16 {
	if !w.has(off, 2) {
		return 0
	}
	return w.order.Uint16(w.b[off:])
}

func (w words) u32(off uint64) uint32 {
	if !w.has(off, 4) {
		return 0
	}
	return w.order.Uint32(w.b[off:])
}

func (w words) u64(off uint64) uint64 {
	if !w.has(off, 8) {
		return 0
	}
	return w.order.Uint64(w.b[off:])
}

// word is the file's own word: 8 bytes where wide, else 4.
func (w words) word(off uint64, wide bool) uint64 {
	if wide {
		return w.u64(off)
	}
	return uint64(w.u32(off))
}

// from is what follows off.
func (w words) from(off uint64) words {
	if off > uint64(len(w.b)) {
		return words{nil, w.order}
	}
	return words{w.b[off:], w.order}
}

// text is the string that starts at off of table and ends with a zero byte, or after limit bytes. It shares table's
// memory, so that a file with many entries for one long name costs nothing.
func text(table string, off uint64, limit int) string {
	if off >= uint64(len(table)) {
		return ""
	}
	s := table[off:]
	s = s[:min(len(s), limit)]
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return s
}

// trimmed is a string in a field of fixed width.
func trimmed(b []byte) string { return text(string(b), 0, len(b)) }
