// Package logs turns what instances print into records, keeps them by size and age, and reads them back.
//
// Each instance has a folder of segments, 00000001.jsonl and on; all but the newest are compressed with zstd. A record is
// one line of flat JSON, so jq, grep and zstdcat read the folder without fairlead. A service's access log is such a folder, too.
package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Meta says whose log it is and how much of it is kept.
type Meta struct {
	Service  string
	Env      string
	Release  int
	Instance int
	Size     int64         // bytes on disk, at most
	Age      time.Duration // since the last record of a segment, at most
	Hide     []string      // values that must not appear in the log
}

const (
	// maxLine is where an endless line is cut; the rest goes on as the next record.
	maxLine = 64 << 10
	// maxTrace is how much of lines that belong together one record holds.
	maxTrace = 256 << 10
	// flushAfter is how long a plain line waits for more that belongs to it.
	flushAfter = 20 * time.Millisecond
	// maxBuffer is how much is written at once.
	maxBuffer = 256 << 10
)

// Dir is the folder of one instance's log below root.
func Dir(root, service, env string, release, instance int) string {
	return filepath.Join(root, service+"@"+env, fmt.Sprintf("%d.%d", release, instance))
}

// Writer records what one instance prints. Its methods may be called from several goroutines.
type Writer struct {
	meta Meta
	dir  string
	hide *hider

	mu      sync.Mutex
	parse   parser
	streams map[string]*stream
	buf     []byte
	file    *os.File
	opened  time.Time // when file was
	size    int64     // of file
	seq     int
	lost    int // records that could not be written since the last that could
	closed  bool

	pack sync.WaitGroup
	tidy sync.Mutex // one compression at a time: two of the same segment would write into each other
}

// stream is what is left over of one of the instance's two outputs.
type stream struct {
	name  string
	part  []byte // a line without its end
	open  bool   // rec waits for lines that belong to it
	rec   Record // a plain record
	more  []byte // the further lines of its message
	trace bool   // it is a Go panic or goroutine dump
	since time.Time
	timer *time.Timer
}

// NewWriter opens the log below root and goes on behind what is there.
func NewWriter(root string, m Meta) (*Writer, error) {
	w := &Writer{meta: m, dir: Dir(root, m.Service, m.Env, m.Release, m.Instance), hide: newHider(m.Hide), streams: map[string]*stream{}}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	if segs := segments(w.dir); len(segs) > 0 {
		w.seq = segs[len(segs)-1].seq
	}
	if err := w.rotate(); err != nil {
		return nil, err
	}
	return w, nil
}

// Write takes the next bytes of a stream, in any pieces. It never fails and never waits for anything but the disk: when
// that is full, records are dropped and counted, because a service must not stop for its log.
func (w *Writer) Write(name string, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	s := w.streams[name]
	if s == nil {
		s = &stream{name: name}
		w.streams[name] = s
	}
	now := time.Now()
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = append(s.part, p...)
			s.part = append(s.part[:0], w.pieces(s, s.part, now)...)
			break
		}
		line := p[:i]
		p = p[i+1:]
		if len(s.part) > 0 {
			s.part = append(s.part, line...)
			line = s.part
			s.part = s.part[:0]
		}
		w.line(s, bytes.TrimSuffix(w.pieces(s, line, now), []byte("\r")), now)
	}
	w.flush()
	if s.open || len(s.part) > 0 {
		w.arm(s)
	}
}

// pieces takes from line what is longer than a line may be, and returns the rest. Where it cuts follows from the bytes
// alone, not from the pieces in which they came.
func (w *Writer) pieces(s *stream, line []byte, now time.Time) []byte {
	for len(line) > maxLine {
		n := w.hide.cut(line[:maxLine])
		if n == 0 {
			n = maxLine
		}
		w.line(s, line[:n], now)
		line = line[n:]
	}
	return line
}

// arm makes sure that what waits for more is written soon even when nothing follows.
func (w *Writer) arm(s *stream) {
	s.since = time.Now()
	if s.timer != nil {
		s.timer.Reset(flushAfter)
		return
	}
	s.timer = time.AfterFunc(flushAfter, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed || time.Since(s.since) < flushAfter/2 {
			return
		}
		w.settle(s, false)
		w.flush()
	})
}

// settle writes what a stream holds back. A line without its end counts as a whole: a prompt, or the last words of a
// crash. Only what may be the beginning of a secret goes on waiting for its end, unless nothing can follow any more.
func (w *Writer) settle(s *stream, final bool) {
	n := len(s.part)
	if !final {
		n = w.hide.cut(s.part)
	}
	if n > 0 {
		w.line(s, s.part[:n], time.Now())
		s.part = append(s.part[:0], s.part[n:]...)
	}
	w.emit(s)
}

// line takes one line and decides whether it begins a record or belongs to the one before.
func (w *Writer) line(s *stream, line []byte, now time.Time) {
	belongs := s.open && continues(s.trace, line)
	if belongs && len(s.rec.Message)+len(s.more)+len(line) < maxTrace {
		s.more = append(append(s.more, '\n'), clean(line)...)
		return
	}
	trace, level := belongs && s.trace, s.rec.Level
	w.emit(s)
	if len(line) == 0 {
		return
	}
	r, isJSON := w.parse.line(line, now)
	r.Stream = s.name
	if isJSON || line[0] == '{' {
		w.put(&r)
		return
	}
	if trace { // a trace too long for one record goes on in the next
		r.Level = level
	} else if l := traceLevel(line); l != "" {
		r.Level, trace = l, true
	}
	s.rec, s.trace, s.open = r, trace, true
}

func (w *Writer) emit(s *stream) {
	if !s.open {
		return
	}
	if m := bytes.TrimRight(s.more, "\n"); len(m) > 0 {
		s.rec.Message += string(m)
	}
	w.put(&s.rec)
	s.more, s.open, s.trace = s.more[:0], false, false
}

// Note records a remark of the supervisor's own.
func (w *Writer) Note(level, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	for _, s := range w.streams {
		w.settle(s, true) // what the process printed comes before what is said about its end
	}
	w.put(w.remark(level, text))
	w.flush()
}

func (w *Writer) remark(level, text string) *Record {
	return &Record{Time: time.Now(), Level: level, Stream: "fairlead", Message: text}
}

// put completes r and appends it to the buffer.
func (w *Writer) put(r *Record) {
	w.hide.record(r)
	w.buf = w.own(r).append(w.buf)
	if len(w.buf) >= maxBuffer || int64(len(w.buf)) >= w.segmentSize() {
		w.flush()
	}
}

func (w *Writer) own(r *Record) *Record {
	r.Service, r.Env, r.Release, r.Instance = w.meta.Service, w.meta.Env, w.meta.Release, w.meta.Instance
	return r
}

// flush writes the buffer, whole lines only, and rotates before it would make the segment too large or too old.
func (w *Writer) flush() {
	if len(w.buf) == 0 && !(w.closed && w.lost > 0) {
		return
	}
	full := w.size+int64(len(w.buf)) > w.segmentSize() || w.meta.Age > 0 && time.Since(w.opened) > w.meta.Age/8
	if w.file == nil || w.size > 0 && full {
		if w.rotate() != nil && w.file == nil {
			w.drop()
			return
		} // else the old segment grows on and the next flush tries again
	}
	out := w.buf
	if w.lost > 0 {
		note := w.remark("warn", fmt.Sprintf("%d records could not be written before this one", w.lost))
		out = append(w.own(note).append(nil), w.buf...)
	}
	n, err := w.file.Write(out)
	if err != nil {
		// A torn line would spoil the file for every reader: take it back, or begin another file.
		if w.file.Truncate(w.size) != nil {
			w.file.Close()
			w.file = nil
		}
		w.drop()
		return
	}
	w.lost = 0
	w.size += int64(n)
	w.buf = w.buf[:0]
}

func (w *Writer) drop() {
	w.lost += bytes.Count(w.buf, []byte{'\n'})
	w.buf = w.buf[:0]
}

// segmentSize makes about eight segments of what may be kept, so that rotation throws away an eighth at a time.
func (w *Writer) segmentSize() int64 { return max(w.meta.Size/8, 4<<10) }

// rotate closes the segment, makes room for the next and opens it; the closed one is compressed in the background.
func (w *Writer) rotate() error {
	f, err := os.OpenFile(segmentName(w.dir, w.seq+1), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.size, w.opened = f, 0, time.Now()
	w.seq++
	seq := w.seq
	// Two segments' room is kept free: for the new one, and for a compressed copy beside its original.
	prune(w.dir, seq, w.meta.Size-2*w.segmentSize(), w.meta.Age)
	w.pack.Go(func() {
		w.tidy.Lock()
		defer w.tidy.Unlock()
		pack(w.dir, seq)
	})
	return nil
}

// Close writes what is held back.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	for _, s := range w.streams {
		if s.timer != nil {
			s.timer.Stop()
		}
		w.settle(s, true)
	}
	w.closed = true
	w.flush()
	f := w.file
	w.mu.Unlock()
	w.pack.Wait()
	if f == nil {
		return nil
	}
	return f.Close()
}
