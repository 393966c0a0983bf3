package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
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

func (q Query) wants(r *Record, raw []byte) bool {
	return (q.Level == "" || rank(r.Level) >= rank(q.Level)) && !r.Time.Before(q.Since) && (q.Grep == nil || q.Grep.Match(raw))
}

// followEvery is how often a followed log is looked at. Looking costs one stat an instance.
const followEvery = 100 * time.Millisecond

// Read calls f for every record q asks for, in the order of time, until f fails, ctx is done, or, without Follow, the
// end. The error is f's or the context's; a segment that cannot be read is left out with a record that says so.
func Read(ctx context.Context, root string, q Query, f func(Record) error) error {
	files := map[string]*follower{}
	recs, err := collect(ctx, root, q, files)
	if err != nil {
		return err
	}
	if q.Tail > 0 && len(recs) > q.Tail {
		recs = recs[len(recs)-q.Tail:]
	}
	for ctx.Err() == nil {
		for _, r := range recs {
			if err := f(r); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		t := time.NewTimer(followEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		if recs, err = collect(ctx, root, q, files); err != nil {
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

// follower remembers how far one instance's log was read.
type follower struct {
	seq    int
	offset int64
}

// collect reads what is new in every log that q asks for, sorted by time.
func collect(ctx context.Context, root string, q Query, seen map[string]*follower) ([]Record, error) {
	env := q.Env
	dirs, err := filepath.Glob(filepath.Join(root, q.Service+"@"+env, "*.*"))
	if err != nil {
		return nil, err
	}
	var out []Record
	for _, dir := range dirs {
		var rel, inst int
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d.%d", &rel, &inst); err != nil ||
			q.Release != 0 && rel != q.Release || q.Instance != 0 && inst != q.Instance {
			continue
		}
		fo := seen[dir]
		if fo == nil {
			fo = &follower{}
			seen[dir] = fo
		}
		for _, s := range segments(dir) {
			if s.seq < fo.seq || !q.Since.IsZero() && s.mod.Before(q.Since) {
				continue
			}
			if s.seq > fo.seq {
				fo.seq, fo.offset = s.seq, 0
			}
			if s.size == fo.offset && strings.HasSuffix(s.path, ".jsonl") {
				continue
			}
			recs, n, err := readSegment(ctx, s.path, fo.offset, q)
			if err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				out = append(out, Record{Time: s.mod, Level: "warn", Service: q.Service, Env: env, Release: rel, Instance: inst,
					Stream: "fairlead", Message: "a part of this log cannot be read: " + err.Error()})
			}
			fo.offset += n
			out = append(out, recs...)
			if q.Tail > 0 && len(out) > 4*q.Tail+1000 {
				out = last(out, q.Tail)
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Time.Before(out[j].Time) })
	return out, nil
}

// last keeps the newest n of records that come from several logs.
func last(recs []Record, n int) []Record {
	sort.SliceStable(recs, func(i, j int) bool { return recs[i].Time.Before(recs[j].Time) })
	return append([]Record(nil), recs[len(recs)-n:]...)
}

// readSegment returns the wanted records behind offset and how many bytes of whole lines it read.
func readSegment(ctx context.Context, path string, offset int64, q Query) (recs []Record, n int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		// It was compressed or removed between the listing and now.
		path += ".zst"
		if f, err = os.Open(path); errors.Is(err, os.ErrNotExist) {
			return nil, 0, nil
		}
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".zst") {
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, 0, err
		}
		defer z.Close()
		in = z
	}
	if _, err := io.CopyN(io.Discard, in, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	b := bufio.NewReaderSize(in, 256<<10)
	for ctx.Err() == nil {
		line, err := readLine(b)
		if errors.Is(err, io.EOF) {
			return recs, n, nil
		}
		if err != nil {
			return recs, n, err
		}
		n += int64(len(line))
		var r Record
		if q.Grep != nil && !q.Grep.Match(line) || r.UnmarshalJSON(line) != nil {
			continue
		}
		if q.wants(&r, line) {
			recs = append(recs, r)
		}
		if q.Tail > 0 && len(recs) > 2*q.Tail+1000 {
			recs = append(recs[:0], recs[len(recs)-q.Tail:]...)
		}
	}
	return recs, n, ctx.Err()
}

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
