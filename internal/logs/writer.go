// Package logs turns what instances print into records, keeps them by size and age, and reads them back.
//
// Each instance has a folder of segments, 00000001.jsonl and on; all but the newest are compressed with zstd. A record is
// one line of flat JSON, so jq, grep and zstdcat read the folder without fairlead.
package logs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
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
	// minHide is the length under which a secret is not looked for: it would blank out half the log.
	minHide = 6
)

// Dir is the folder of one instance's log below root.
func Dir(root, service, env string, release, instance int) string {
	return filepath.Join(root, service+"@"+env, fmt.Sprintf("%d.%d", release, instance))
}

// Writer records what one instance prints. Its methods may be called from several goroutines.
type Writer struct {
	meta Meta
	dir  string
	hide *strings.Replacer

	mu      sync.Mutex
	streams map[string]*stream
	buf     []byte
	file    *os.File
	size    int64
	seq     int
	lost    int // records that could not be written since the last that could
	closed  bool
	pack    sync.WaitGroup
}

// stream is what is left over of one of the instance's two outputs.
type stream struct {
	part  []byte  // a line without its end
	open  *Record // a plain record that further lines may belong to
	trace bool    // open is a Go panic or goroutine dump
	since time.Time
	timer *time.Timer
}

// NewWriter opens the log below root and goes on behind what is there.
func NewWriter(root string, m Meta) (*Writer, error) {
	w := &Writer{meta: m, dir: Dir(root, m.Service, m.Env, m.Release, m.Instance), streams: map[string]*stream{}}
	var pairs []string
	for _, h := range m.Hide {
		if len(h) >= minHide {
			pairs = append(pairs, h, "[secret]")
		}
	}
	if pairs != nil {
		w.hide = strings.NewReplacer(pairs...)
	}
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
		s = &stream{}
		w.streams[name] = s
	}
	now := time.Now()
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = append(s.part, p...)
			for len(s.part) >= maxLine {
				w.line(s, name, s.part[:maxLine], now)
				s.part = append(s.part[:0], s.part[maxLine:]...)
			}
			break
		}
		line := p[:i]
		p = p[i+1:]
		if len(s.part) > 0 {
			s.part = append(s.part, line...)
			line = s.part
			s.part = s.part[:0]
		}
		for len(line) > maxLine {
			w.line(s, name, line[:maxLine], now)
			line = line[maxLine:]
		}
		w.line(s, name, bytes.TrimSuffix(line, []byte("\r")), now)
	}
	w.flush()
	if s.open != nil || len(s.part) > 0 {
		w.arm(s, name)
	}
}

// arm makes sure that what waits for more is written soon even when nothing follows.
func (w *Writer) arm(s *stream, name string) {
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
		w.settle(s, name)
		w.flush()
	})
}

// settle writes what a stream holds back. A line without its end counts as a whole: a prompt, or the last words of a crash.
func (w *Writer) settle(s *stream, name string) {
	if len(s.part) > 0 {
		w.line(s, name, s.part, time.Now())
		s.part = s.part[:0]
	}
	w.emit(s)
}

// line takes one line and decides whether it begins a record or belongs to the one before.
func (w *Writer) line(s *stream, name string, line []byte, now time.Time) {
	if s.open != nil && continues(s, line) && len(s.open.Message)+len(line) < maxTrace {
		s.open.Message += "\n" + clean(line)
		return
	}
	w.emit(s)
	if len(line) == 0 {
		return
	}
	r := parseLine(line, now)
	r.Stream = name
	if r.Fields == nil && line[0] != '{' {
		if s.trace = beginsTrace(line); s.trace {
			r.Level = "fatal"
		}
		s.open = &r
		return
	}
	w.put(&r)
}

func (w *Writer) emit(s *stream) {
	if s.open != nil {
		s.open.Message = strings.TrimRight(s.open.Message, "\n")
		w.put(s.open)
		s.open, s.trace = nil, false
	}
}

var traceHeads = [][]byte{[]byte("panic: "), []byte("fatal error: "), []byte("goroutine "), []byte("Traceback (most recent"),
	[]byte("SIGSEGV: "), []byte("SIGABRT: "), []byte("runtime: "), []byte("unexpected fault address")}

func beginsTrace(line []byte) bool {
	for _, h := range traceHeads {
		if bytes.HasPrefix(line, h) {
			return true
		}
	}
	return false
}

// continues reports whether line belongs to the open plain record: it is indented, or part of a Go trace.
func continues(s *stream, line []byte) bool {
	if len(line) > 0 && (line[0] == '\t' || line[0] == ' ') {
		return true
	}
	if !s.trace {
		return false
	}
	switch {
	case len(line) == 0, beginsTrace(line), bytes.HasPrefix(line, []byte("created by ")),
		bytes.HasPrefix(line, []byte("[signal ")), bytes.HasPrefix(line, []byte("exit status ")),
		bytes.HasPrefix(line, []byte("...")), bytes.HasSuffix(line, []byte(")")):
		return line == nil || len(line) == 0 || line[0] != '{'
	}
	return false
}

// Note records a remark of the supervisor's own.
func (w *Writer) Note(level, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	for name, s := range w.streams {
		w.settle(s, name) // what the process printed comes before what is said about its end
	}
	w.put(&Record{Time: time.Now(), Level: level, Stream: "fairlead", Message: text})
	w.flush()
}

// put completes r and appends it to the buffer.
func (w *Writer) put(r *Record) {
	r.Service, r.Env, r.Release, r.Instance = w.meta.Service, w.meta.Env, w.meta.Release, w.meta.Instance
	start := len(w.buf)
	w.buf = r.append(w.buf)
	if w.hide != nil {
		w.buf = append(w.buf[:start], w.hide.Replace(string(w.buf[start:]))...)
	}
	if len(w.buf) >= 256<<10 {
		w.flush()
	}
}

// flush writes the buffer, whole lines only, and rotates.
func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	if w.file == nil && w.rotate() != nil {
		w.drop()
		return
	}
	if w.lost > 0 {
		note := Record{Time: time.Now(), Level: "warn", Stream: "fairlead", Service: w.meta.Service, Env: w.meta.Env,
			Release: w.meta.Release, Instance: w.meta.Instance,
			Message: fmt.Sprintf("%d records could not be written before this one", w.lost)}
		w.buf = append(note.append(nil), w.buf...)
	}
	n, err := w.file.Write(w.buf)
	if err != nil {
		// A torn line would spoil the file for every reader: take it back, keep the rest.
		if e := w.file.Truncate(w.size); e != nil || n == 0 {
			w.drop()
			return
		}
		w.drop()
		return
	}
	w.lost = 0
	w.size += int64(n)
	w.buf = w.buf[:0]
	if w.size >= w.segmentSize() {
		if err := w.rotate(); err != nil {
			w.lost++
		}
	}
}

func (w *Writer) drop() {
	w.lost += bytes.Count(w.buf, []byte{'\n'})
	w.buf = w.buf[:0]
}

// segmentSize makes about eight segments of what may be kept, so that rotation throws away an eighth at a time.
func (w *Writer) segmentSize() int64 { return max(w.meta.Size/8, 64<<10) }

// rotate closes the segment and opens the next; the closed one is compressed in the background.
func (w *Writer) rotate() error {
	f, err := os.OpenFile(segmentName(w.dir, w.seq+1), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	old := w.file
	w.file, w.size = f, 0
	w.seq++
	seq := w.seq
	w.pack.Add(1)
	go func() {
		defer w.pack.Done()
		if old != nil {
			old.Close()
		}
		tidy(w.dir, seq, w.meta.Size, w.meta.Age)
	}()
	return nil
}

// Close writes what is held back.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	for name, s := range w.streams {
		if s.timer != nil {
			s.timer.Stop()
		}
		w.settle(s, name)
	}
	w.flush()
	w.closed = true
	f := w.file
	w.mu.Unlock()
	w.pack.Wait()
	if f == nil {
		return nil
	}
	return f.Close()
}

type segment struct {
	path string
	seq  int
	size int64
	mod  time.Time
}

func segmentName(dir string, seq int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", seq))
}

// segments lists a log's segments, oldest first; of a plain and a compressed one of the same number the plain one counts.
func segments(dir string) []segment {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	by := map[int]segment{}
	for _, e := range entries {
		var seq int
		plain := strings.HasSuffix(e.Name(), ".jsonl")
		if _, err := fmt.Sscanf(e.Name(), "%08d.jsonl", &seq); err != nil || !plain && !strings.HasSuffix(e.Name(), ".jsonl.zst") {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue
		}
		if _, ok := by[seq]; !ok || plain {
			by[seq] = segment{filepath.Join(dir, e.Name()), seq, fi.Size(), fi.ModTime()}
		}
	}
	out := make([]segment, 0, len(by))
	for _, s := range by {
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].seq < out[j].seq })
	return out
}

// tidy compresses every segment but the current one and removes what is over the bounds.
func tidy(dir string, current int, size int64, age time.Duration) {
	for _, s := range segments(dir) {
		if s.seq >= current {
			continue
		}
		if s.size == 0 {
			os.Remove(s.path)
			continue
		}
		if strings.HasSuffix(s.path, ".jsonl") {
			compress(s.path) // on failure the plain one stays and is tried again at the next rotation
		}
	}
	all := segments(dir)
	var total int64
	for i := len(all) - 1; i >= 0; i-- {
		total += all[i].size
		if all[i].seq < current && (total > size || age > 0 && time.Since(all[i].mod) > age) {
			os.Remove(all[i].path)
		}
	}
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err == nil {
		_, err = io.Copy(z, in)
	}
	if err == nil {
		err = z.Close()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chtimes(tmp, fi.ModTime(), fi.ModTime())
	}
	if err == nil {
		err = os.Rename(tmp, path+".zst")
	}
	if err == nil {
		err = os.Remove(path)
	}
	return err
}
