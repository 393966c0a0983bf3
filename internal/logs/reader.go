package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Query says which records are wanted. Zero fields ask for nothing in particular.
type Query struct {
	Service  string
	Env      string
	Release  int
	Instance int
	Since    time.Time
	Level    string // this one and worse
	Grep     *regexp.Regexp
	Access   bool // requests, as the edge saw them, and not what the instances printed
	Tail     int  // only the last so many
	Follow   bool // go on with what comes
}

// Levels in rising order.
var Levels = []string{"debug", "info", "warn", "error", "fatal"}

func rank(level string) int {
	for i, l := range Levels {
		if l == level {
			return i
		}
	}
	return 0
}

func (q Query) wants(r *Record) bool {
	// An access log is of all instances together.
	mine := (q.Release == 0 || r.Release == q.Release) && (q.Instance == 0 || r.Instance == q.Instance)
	return mine && (q.Level == "" || rank(r.Level) >= rank(q.Level)) && !r.Time.Before(q.Since)
}

// followEvery is how often a followed log is looked at. Looking costs one stat an instance.
const followEvery = 100 * time.Millisecond

// Read calls f for every record q asks for, in the order of time, until f fails, ctx is done, or, without Follow, the
// end. The records of one instance keep the order in which it printed them. The error is f's or the context's; a segment
// that cannot be read is left out with a record that says so. The memory this takes does not grow with the log.
func Read(ctx context.Context, root string, q Query, f func(Record) error) error {
	sources := map[string]*source{}
	if err := find(root, q, sources); err != nil {
		return err
	}
	if q.Tail > 0 {
		for _, r := range tail(ctx, sources, q) {
			if err := f(r); err != nil {
				return err
			}
		}
	} else if err := merge(ctx, sources, q, f); err != nil {
		return err
	}
	for q.Follow && ctx.Err() == nil {
		t := time.NewTimer(followEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		if err := find(root, q, sources); err != nil {
			return err
		}
		if err := merge(ctx, sources, q, f); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Tail returns the last n records of one instance's log.
func Tail(root string, q Query, n int) []Record {
	q.Tail = n
	var out []Record
	if err := Read(context.Background(), root, q, func(r Record) error { out = append(out, r); return nil }); err != nil {
		return nil
	}
	return out
}

// source is one instance's log and how far it was read.
type source struct {
	dir               string
	release, instance int
	seq               int
	offset            int64 // in the plain text of segment seq
}

// find adds the logs that q asks for and that are not yet in known.
func find(root string, q Query, known map[string]*source) error {
	if q.Access {
		if dir := AccessDir(root, q.Service, q.Env); known[dir] == nil {
			known[dir] = &source{dir: dir}
		}
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(root, q.Service+"@"+q.Env, "*.*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		s := &source{dir: dir}
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d.%d", &s.release, &s.instance); err != nil ||
			q.Release != 0 && s.release != q.Release || q.Instance != 0 && s.instance != q.Instance {
			continue
		}
		if known[dir] == nil {
			known[dir] = s
		}
	}
	return nil
}

// merge hands on what is new in every source, always the oldest of the records that stand at their heads.
func merge(ctx context.Context, sources map[string]*source, q Query, f func(Record) error) error {
	type head struct {
		Record
		next func() (Record, bool)
		stop func()
	}
	var heads []head
	defer func() {
		for _, h := range heads {
			h.stop()
		}
	}()
	for _, dir := range slices.Sorted(maps.Keys(sources)) {
		next, stop := iter.Pull(sources[dir].fresh(ctx, q))
		if r, ok := next(); ok {
			heads = append(heads, head{r, next, stop})
		} else {
			stop()
		}
	}
	for len(heads) > 0 && ctx.Err() == nil {
		oldest := 0
		for i := range heads {
			if heads[i].Time.Before(heads[oldest].Time) {
				oldest = i
			}
		}
		h := &heads[oldest]
		if err := f(h.Record); err != nil {
			return err
		}
		var ok bool
		if h.Record, ok = h.next(); !ok {
			h.stop()
			heads = slices.Delete(heads, oldest, oldest+1)
		}
	}
	return ctx.Err()
}

// fresh yields what was not yet read, and moves the source on.
func (s *source) fresh(ctx context.Context, q Query) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, seg := range segments(s.dir) {
			if seg.seq < s.seq || !q.Since.IsZero() && seg.mod.Before(q.Since) {
				continue
			}
			if seg.seq > s.seq {
				s.seq, s.offset = seg.seq, 0
			}
			if seg.size <= s.offset && strings.HasSuffix(seg.path, ".jsonl") {
				continue
			}
			more := true
			err := s.read(ctx, seg, q, func(r Record) bool { more = yield(r); return more })
			if err != nil && ctx.Err() == nil && more {
				more = yield(s.broken(q, seg, err))
			}
			if !more || ctx.Err() != nil {
				return
			}
		}
	}
}

func (s *source) broken(q Query, seg segment, err error) Record {
	return Record{Time: seg.mod, Level: "warn", Service: q.Service, Env: q.Env, Release: s.release, Instance: s.instance,
		Stream: "fairlead", Message: "a part of this log cannot be read: " + err.Error()}
}

// tail returns the last records of all sources together and leaves each source at its end. It reads from the newest
// segment back, and no further than it must.
func tail(ctx context.Context, sources map[string]*source, q Query) []Record {
	var out []Record
	for _, dir := range slices.Sorted(maps.Keys(sources)) {
		s := sources[dir]
		segs := segments(dir)
		var found [][]Record
		for i, have := len(segs)-1, 0; i >= 0 && have < q.Tail && ctx.Err() == nil; i-- {
			if !q.Since.IsZero() && segs[i].mod.Before(q.Since) {
				break
			}
			at := &source{seq: segs[i].seq}
			var recs []Record
			if err := at.read(ctx, segs[i], q, func(r Record) bool { recs = keepLast(append(recs, r), q.Tail, 2); return true }); err != nil {
				recs = append(recs, s.broken(q, segs[i], err))
			}
			if i == len(segs)-1 {
				s.seq, s.offset = at.seq, at.offset
			}
			have += len(recs)
			found = append(found, recs)
		}
		for _, recs := range slices.Backward(found) {
			out = append(out, recs...)
		}
	}
	slices.SortStableFunc(out, func(a, b Record) int { return a.Time.Compare(b.Time) })
	return keepLast(out, q.Tail, 1)
}

// keepLast cuts recs down to the last n once there are more than slack times as many.
func keepLast(recs []Record, n, slack int) []Record {
	if len(recs)/slack <= n {
		return recs
	}
	return append(recs[:0], recs[len(recs)-n:]...)
}

// read yields the wanted records of one segment behind s.offset, and moves the offset over the whole lines it read.
func (s *source) read(ctx context.Context, seg segment, q Query, yield func(Record) bool) error {
	in, err := openSegment(seg.path)
	if err != nil || in == nil {
		return err
	}
	defer in.Close()
	if _, err := io.CopyN(io.Discard, in, s.offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b := bufio.NewReaderSize(in, 256<<10)
	// What the listing did not count yet waits for the next round, or a busy log would never be read to its end.
	plain := strings.HasSuffix(seg.path, ".jsonl")
	for ctx.Err() == nil && !(plain && s.offset >= seg.size) {
		line, err := readLine(b)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.offset += int64(len(line))
		var r Record
		if q.Grep != nil && !q.Grep.Match(line) || r.UnmarshalJSON(line) != nil || !q.wants(&r) {
			continue
		}
		if !yield(r) {
			return nil
		}
	}
	return ctx.Err()
}

// openSegment opens a segment's plain text; nil when it is gone.
func openSegment(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(path, ".jsonl") {
		// It was compressed or removed between the listing and now.
		path += ".zst"
		f, err = os.Open(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil || strings.HasSuffix(path, ".jsonl") {
		return f, err
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		f.Close()
		return nil, err
	}
	return unpacked{z.IOReadCloser(), f}, nil
}

// unpacked closes the decoder and its file.
type unpacked struct {
	io.ReadCloser
	file *os.File
}

func (u unpacked) Close() error { u.ReadCloser.Close(); return u.file.Close() }

// readLine returns one whole line; io.EOF for a last line that is still being written.
func readLine(b *bufio.Reader) ([]byte, error) {
	line, err := b.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	var long bytes.Buffer
	for errors.Is(err, bufio.ErrBufferFull) {
		long.Write(line)
		line, err = b.ReadSlice('\n')
	}
	long.Write(line)
	return long.Bytes(), err
}
