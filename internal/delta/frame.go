package delta

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
)

// A frameReader reads the deflated part of a patch. The first error stays, and what is read after it is 0.
type frameReader struct {
	r   *bufio.Reader
	err error
}

func newFrameReader(b []byte) *frameReader {
	return &frameReader{r: bufio.NewReader(flate.NewReader(bytes.NewReader(b)))}
}

// number reads a number of at most top.
func (f *frameReader) number(top int64) int64 {
	if f.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(f.r)
	if err == nil && v > uint64(max(top, 0)) {
		err = errors.New("a number that is too big")
	}
	if f.err = err; err != nil {
		return 0
	}
	return int64(v)
}

// signed reads a number between plus and minus maxSize.
func (f *frameReader) signed() int64 {
	if f.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(f.r)
	if err == nil && (v > maxSize || v < -maxSize) {
		err = errors.New("a number that is too big")
	}
	if f.err = err; err != nil {
		return 0
	}
	return v
}

// bytes reads the n bytes that must be the last ones. What it allocates grows with what really comes.
func (f *frameReader) bytes(n int64) []byte {
	if f.err != nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f.r, n+1))
	if err == nil && int64(len(b)) != n {
		err = errors.New("too many bytes or too few")
	}
	f.err = err
	return b
}
