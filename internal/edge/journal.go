package edge

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	mrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/internal/jsonl"
)

const (
	// journalEvery is how long a line waits to be written, together with the others of that time.
	journalEvery = 100 * time.Millisecond
	// journalFull is how much, of all services together, is written sooner.
	journalFull = 512 << 10
	// journalMost is how much may wait. More comes only when the disk does not keep up, and is dropped: no request waits for a log.
	journalMost = 8 << 20
	// journalSays is how often, at most, the process says that lines were dropped.
	journalSays = 10 * time.Second
	// journalEnd is how long the end of the process waits for what is not written yet.
	journalEnd = 2 * time.Second
)

// accessLog is what this process has to write of all access logs. It costs nothing until a line comes.
type accessLog struct {
	open AccessLog // nil: there are none
	log  *slog.Logger
	draw func() uint64 // evenly over all values

	held   atomic.Int64 // bytes that wait
	start  sync.Once
	closed atomic.Bool
	wake   chan struct{} // there is something to write
	full   chan struct{} // at once
	stop   chan struct{}
	ended  chan struct{}

	mu       sync.Mutex
	journals map[string]*journal
}

// blocks are what lines are gathered in: one is written at once, and none ever grows by copying, but for a line that is longer.
var blocks = sync.Pool{New: func() any { b := make([]byte, 0, blockSize); return &b }}

const blockSize = 128 << 10

// journal is what waits to be written of one service's access log.
type journal struct {
	service, env string

	mu     sync.Mutex
	keep   Access    // the latest route's, for size and age
	slot   *slot     // likewise; of the route
	blocks []*[]byte // of whole lines
	spare  []*[]byte // an empty list
	missed int       // lines dropped that no remark in the log tells of
	unsaid int       // nor the process's own log
	why    error     // the last of them were
	said   time.Time // when that log was told last

	// Of the goroutine that writes:
	out    io.WriteCloser
	opened Access // what out was opened with
}

func newAccessLog(open AccessLog, log *slog.Logger) *accessLog {
	return &accessLog{open: open, log: log, draw: mrand.Uint64, journals: map[string]*journal{},
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
}

// of returns the journal of a route.
func (a *accessLog) of(rt *route) *journal {
	if j := rt.access.journal.Load(); j != nil {
		return j
	}
	a.mu.Lock()
	j := a.journals[rt.key]
	if j == nil {
		j = &journal{service: rt.Service, env: rt.Environment}
		a.journals[rt.key] = j
	}
	a.mu.Unlock()
	j.mu.Lock()
	j.keep, j.slot = rt.access.Access, rt.stats
	j.mu.Unlock()
	rt.access.journal.Store(j)
	return j
}

// add takes a line, which stays the caller's. It waits for nothing.
func (a *accessLog) add(rt *route, line []byte) {
	j := a.of(rt)
	if a.closed.Load() {
		return
	}
	held := a.held.Add(int64(len(line)))
	j.mu.Lock()
	if held > journalMost {
		a.held.Add(-int64(len(line)))
		j.drop(1, errFlood)
	} else {
		j.take(line)
	}
	j.mu.Unlock()
	a.start.Do(func() { go a.run() })
	signal(a.wake)
	if held > journalFull {
		signal(a.full)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run writes until close is called.
func (a *accessLog) run() {
	defer close(a.ended)
	for stopped := false; !stopped; {
		select {
		case <-a.wake:
		case <-a.stop:
			stopped = true
		}
		if !stopped {
			t := time.NewTimer(journalEvery)
			select {
			case <-t.C:
			case <-a.full:
			case <-a.stop:
				stopped = true
			}
			t.Stop()
		}
		for _, j := range a.all() {
			j.flush(a, stopped)
		}
	}
}

func (a *accessLog) all() []*journal {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.journals))
}

// close writes what waits, if the disk takes it in time. What comes later is dropped.
func (a *accessLog) close() {
	if a.closed.Swap(true) {
		return
	}
	close(a.stop)
	a.start.Do(func() { close(a.ended) }) // nothing ever came
	t := time.NewTimer(journalEnd)
	defer t.Stop()
	select {
	case <-a.ended:
	case <-t.C:
		a.log.Warn("the last lines of the access logs are not written: the disk takes too long")
	}
}

// errFlood says why lines were dropped before they were written.
var errFlood = errors.New("more lines came than the disk took")

// take adds a line. j.mu is held.
func (j *journal) take(line []byte) {
	n := len(j.blocks)
	if n == 0 || cap(*j.blocks[n-1])-len(*j.blocks[n-1]) < len(line) {
		b := blocks.Get().(*[]byte)
		*b = (*b)[:0]
		j.blocks = append(j.blocks, b)
		n++
	}
	*j.blocks[n-1] = append(*j.blocks[n-1], line...)
}

// drop counts lines that are not written, for the reason err. j.mu is held.
func (j *journal) drop(n int, err error) {
	j.missed += n
	j.unsaid += n
	j.why = err
	j.slot.unlogged.Add(uint64(n))
}

// flush writes what waits of one service.
func (j *journal) flush(a *accessLog, last bool) {
	j.mu.Lock()
	list, missed, keep := j.blocks, j.missed, j.keep
	j.blocks, j.spare = j.spare[:0], nil
	j.mu.Unlock()
	if len(list) > 0 {
		if j.out == nil || j.opened.Size != keep.Size || j.opened.Age != keep.Age {
			j.end()
			j.out, j.opened = a.open(j.service, j.env, keep.Size, keep.Age), keep
		}
		told, lost, err := j.write(list, missed)
		j.mu.Lock()
		j.missed -= told
		if lost > 0 {
			j.drop(lost, err)
		}
		for i, b := range list {
			a.held.Add(-int64(len(*b)))
			if cap(*b) == blockSize { // not what one long line made of it
				blocks.Put(b)
			}
			list[i] = nil
		}
		j.spare = list[:0]
		j.mu.Unlock()
	}
	j.tell(a.log, last)
	if last {
		j.end()
	}
}

// write writes blocks of lines, behind a remark on those that are missing. It returns how many of these the remark tells of, and how
// many of the lines were not written.
func (j *journal) write(list []*[]byte, missed int) (told, lost int, err error) {
	if missed > 0 {
		if _, err = j.out.Write(j.remark(missed)); err == nil {
			told = missed
		}
	}
	for _, b := range list {
		n := 0
		if err == nil { // what does not take one takes none: the next flush tries again
			n, err = j.out.Write(*b)
		}
		if err != nil {
			lost += bytes.Count((*b)[n:], []byte("\n"))
		}
	}
	return told, lost, err
}

// tell tells the process's own log what is missing.
func (j *journal) tell(log *slog.Logger, last bool) {
	j.mu.Lock()
	n, why := j.unsaid, j.why
	say := n > 0 && (last || time.Since(j.said) >= journalSays)
	if say {
		j.unsaid, j.said = 0, time.Now()
	}
	j.mu.Unlock()
	if say {
		log.Warn("requests are missing in the access log", "service", j.service, "environment", j.env, "lines", n, "error", why)
	}
}

// remark is a line that says how many are missing before it: who counts lines shall know.
func (j *journal) remark(missed int) []byte {
	b := jsonl.AppendTime([]byte(`{"time":"`), time.Now(), 9)
	b = jsonl.AppendMember(b, `","level":"warn","service":`, j.service)
	b = jsonl.AppendMember(b, `,"environment":`, j.env)
	b = append(b, `,"release":0,"instance":0,"stream":"fairlead","message":"`...)
	b = strconv.AppendInt(b, int64(missed), 10)
	return append(b, ` lines could not be written before this one"}`+"\n"...)
}

func (j *journal) end() {
	if j.out != nil {
		j.out.Close() // what it returns is of files that are written already
		j.out = nil
	}
}
