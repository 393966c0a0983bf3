package logs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// Access is the stream of records that are requests, as the edge saw them. They have no message.
const Access = "access"

// AccessDir is the folder of a service's access log below root.
func AccessDir(root, service, env string) string {
	return filepath.Join(root, service+"@"+env, Access)
}

// Lines appends whole lines to a log of segments that several processes may write to at once, as the generations of the edge do
// while one takes over from the other. It keeps no file open between two writes: what others began, rotated or removed meanwhile
// is seen each time. Its methods may be called from several goroutines.
type Lines struct {
	dir  string
	size int64
	age  time.Duration

	mu    sync.Mutex
	seq   int       // the segment last written to
	since time.Time // of its first line
	pack  sync.WaitGroup
}

// NewLines makes a writer of the log in dir, of which at most size bytes are kept, and what is younger than age (0: any). The folder
// need not be there.
func NewLines(dir string, size int64, age time.Duration) *Lines {
	return &Lines{dir: dir, size: size, age: age}
}

// Write appends p, which is whole lines, in one piece. Where the disk takes less than all of it, whole lines stay: n says how much of p
// they are.
func (l *Lines) Write(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unlock, err := l.lock("lock")
	if err != nil {
		return 0, err
	}
	defer unlock()
	seq := 1
	if segs := segments(l.dir); len(segs) > 0 {
		seq = segs[len(segs)-1].seq
	}
	f, size, err := l.open(seq)
	if err != nil {
		return 0, err
	}
	if size > 0 && (size+int64(len(p)) > l.segmentSize() || l.age > 0 && time.Since(l.since) > l.age/8) {
		if next, s, err := l.open(seq + 1); err == nil { // or the old one grows on, and the next write tries again
			f.Close()
			f, size = next, s
			l.tidy(seq + 1)
		}
	}
	defer f.Close()
	if n, err = f.Write(p); err == nil {
		return n, nil
	}
	// A torn line would spoil the file for every reader.
	n = bytes.LastIndexByte(p[:n], '\n') + 1
	return n, errors.Join(err, f.Truncate(size+int64(n)))
}

// segmentSize makes about eight segments of what may be kept, as a [Writer] does.
func (l *Lines) segmentSize() int64 { return max(l.size/8, 4<<10) }

// lock keeps other processes, and other writers of this one, from what they would do under the same name. The file is opened each time:
// who kept one of a folder that was removed would be alone with it.
func (l *Lines) lock(name string) (unlock func(), err error) {
	path := filepath.Join(l.dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(l.dir, 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := home.Lock(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// open opens a segment and learns how old it is, where it is another one than before.
func (l *Lines) open(seq int) (*os.File, int64, error) {
	f, err := os.OpenFile(segmentName(l.dir, seq), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if seq != l.seq || fi.Size() == 0 {
		l.seq, l.since = seq, firstTime(f)
	}
	return f, fi.Size(), nil
}

// firstTime is the time of a segment's first line, which begins with it; now, where there is none.
func firstTime(f *os.File) time.Time {
	head := make([]byte, 64)
	n, _ := f.ReadAt(head, 0)
	if rest, ok := bytes.CutPrefix(head[:n], []byte(`{"time":"`)); ok {
		text, _, _ := bytes.Cut(rest, []byte(`"`))
		if t, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
			return t
		}
	}
	return time.Now()
}

// tidy makes room for the segment that was begun and compresses the others in the background, which nobody writes to any more: who
// writes looks for the newest one first.
func (l *Lines) tidy(seq int) {
	prune(l.dir, seq, l.size-2*l.segmentSize(), l.age)
	l.pack.Go(func() {
		if unlock, err := l.lock("pack.lock"); err == nil {
			pack(l.dir, seq)
			unlock()
		}
	})
}

// Close waits for what is compressed in the background.
func (l *Lines) Close() error {
	l.pack.Wait()
	return nil
}
