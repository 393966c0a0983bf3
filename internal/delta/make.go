package delta

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// A maker holds what the parts of one patch have in common while they are made at the same time.
type maker struct {
	ctx        context.Context
	old, newer []byte
	limit      int64
	spent      atomic.Int64
}

// spend counts bytes of the patch. What is spent is spent for certain, so that a patch is refused at the first byte too many
// and yet for the same inputs always or never.
func (m *maker) spend(n int) error {
	if got := m.spent.Add(int64(n)); got > m.limit {
		return fmt.Errorf("at least %d bytes of patch where %d are allowed: %w", got, m.limit, ErrTooBig)
	}
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	return nil
}

// bodies returns the lanes' changes and then the frame.
func (m *maker) bodies() ([][]byte, error) {
	x, err := newIndex(m.ctx, m.old)
	if err != nil {
		return nil, err
	}
	spans := lanesOf(len(m.newer))
	parts := make([][]piece, len(spans))
	err = m.each(len(spans), func(i int) (err error) {
		parts[i], err = match(m.ctx, x, m.newer, spans[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for _, p := range parts {
		pieces = append(pieces, p...)
	}
	moved := shifts(len(m.old), pieces)
	bodies := make([][]byte, len(spans)+1)
	err = m.each(len(bodies), func(i int) (err error) {
		if i == len(spans) {
			bodies[i], err = m.frame(pieces)
			return err
		}
		bodies[i], err = m.lane(parts[i], moved)
		return err
	})
	return bodies, err
}

// each calls do(0) to do(n-1) at the same time.
func (m *maker) each(n int, do func(i int) error) error {
	errs := make([]error, n)
	inParallel(n, func(i int) { errs[i] = do(i) })
	for _, err := range errs {
		if err != nil {
			return err // one is enough: they all fail for the same reason
		}
	}
	return nil
}

func (m *maker) lane(pieces []piece, moved []int32) ([]byte, error) {
	c := newWriter()
	told := 0
	err := newLane(c, m.old, m.newer, moved).run(pieces, func() error {
		fresh := len(c.buf) - told
		told = len(c.buf)
		return m.spend(fresh)
	})
	return c.end(), err
}

// deflaters are kept, because to make one takes longer than all else of a small patch.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestCompression)
	if err != nil {
		panic(err) // there is such a level
	}
	return w
}}

// frame writes what readFrame reads.
func (m *maker) frame(pieces []piece) ([]byte, error) {
	var buf bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(spender{m, &buf})
	list := binary.AppendUvarint(nil, uint64(len(pieces)))
	at, from := 0, 0
	for _, p := range pieces {
		list = binary.AppendUvarint(list, uint64(p.at-at))
		list = binary.AppendUvarint(list, uint64(p.n))
		list = binary.AppendVarint(list, int64(p.from-from))
		at, from = p.at+p.n, p.from+p.n
	}
	_, err := w.Write(list)
	at = 0
	for _, p := range append(pieces[:len(pieces):len(pieces)], piece{at: len(m.newer)}) {
		if err == nil {
			_, err = w.Write(m.newer[at:p.at])
		}
		at = p.at + p.n
	}
	if err == nil {
		err = w.Close()
	}
	return buf.Bytes(), err
}

// A spender counts what the frame takes.
type spender struct {
	m   *maker
	buf *bytes.Buffer
}

// Write keeps p, unless the patch is too big with it.
func (s spender) Write(p []byte) (int, error) {
	if err := s.m.spend(len(p)); err != nil {
		return 0, err
	}
	return s.buf.Write(p)
}

// readFrame returns the pieces, each of which lies within old, in one span of new and behind the one before, and exactly the
// bytes of new that they leave open.
func readFrame(frame []byte, oldSize, newSize int) ([]piece, []byte, error) {
	r := newFrameReader(frame)
	count := r.number(int64(newSize / minPiece))
	spans := lanesOf(newSize)
	var pieces []piece
	at, from, covered := int64(0), int64(0), int64(0)
	for range count {
		at += r.number(int64(newSize) - at)
		n := r.number(int64(newSize) - at)
		from += r.signed()
		for len(spans) > 1 && at >= int64(spans[0].hi) {
			spans = spans[1:]
		}
		if r.err == nil && (n < minPiece || at+n > int64(spans[0].hi) || from < 0 || from+n > int64(oldSize)) {
			r.err = errors.New("a piece that cannot be")
		}
		if r.err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, r.err)
		}
		pieces = append(pieces, piece{at: int(at), from: int(from), n: int(n)})
		at, from, covered = at+n, from+n, covered+n
	}
	extra := r.bytes(int64(newSize) - covered)
	if r.err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, r.err)
	}
	return pieces, extra, nil
}
