package edge

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/proc"
)

// The counters live in a file that every generation of the edge and the agent map into memory. So they survive any of
// these processes, are exact while one edge replaces another, and cost an atomic add.
const (
	statsMagic   = 0x6661697265646765 // "fairedge"
	statsLayout  = 4
	maxSlots     = 4096
	maxLanes     = 32 // living edge processes at once
	keyBytes     = 104
	subBuckets   = 8
	firstOctave  = 16 // 2^16 ns: 65 µs
	octaves      = 22 // up to 2^38 ns: 275 s
	histBuckets  = 2 + subBuckets*octaves
	headerBytes  = 4096
	classBuckets = 6 // index is the status's first digit; 0 for answers that never came
)

// header is the file's first page.
type header struct {
	magic      uint64
	layout     uint64
	generation atomic.Uint64 // of the routing table: the processes reload it when this moves
	slots      atomic.Uint64 // in use
	lanes      [maxLanes]lane
}

// lane is one edge process.
type lane struct {
	pid   atomic.Int64
	start atomic.Uint64
}

// slot holds the counters of one instance, or with release and instance 0 those of a route as a whole.
type slot struct {
	key      [keyBytes]byte
	cached   atomic.Uint64 // routes only: answered out of the edge's memory, and by no instance
	unlogged atomic.Uint64 // routes only: lines of the access log that were dropped; here and before once was the end of key, which no name reached
	requests atomic.Uint64 // ended, with whatever outcome
	failed   atomic.Uint64 // 5xx answers, and requests that could not be delivered or broke off
	undone   atomic.Uint64 // of failed: no answer came from an instance
	unplaced atomic.Uint64 // of undone, routes only: there was no instance to hand it to
	aborted  atomic.Uint64 // the client went away first; not failed
	refused  atomic.Uint64 // routes only: kept from the instances by a limit; not failed
	retried  atomic.Uint64
	bytes    atomic.Uint64
	nanos    atomic.Uint64
	mirrored atomic.Uint64 // instances only: requests that were copies, and whose original was answered
	differed atomic.Uint64 // of mirrored: answered with another status
	gapFrom  atomic.Int64  // routes only: when an answer was last seen or the waiting began, ns since 1970
	gapMax   atomic.Int64
	gapOpen  atomic.Int64 // 1 while the last outcome was a failure
	classes  [classBuckets]atomic.Uint64
	hist     [histBuckets]atomic.Uint64
	open     [maxLanes]atomic.Int64 // requests under way, by edge process
	asked    [maxLanes]atomic.Int64 // routes only: of open, those that no instance has begun to answer
}

// Stats is the mapped file. Its methods may be called from several goroutines and processes.
type Stats struct {
	mem  []byte
	head *header
	file *os.File
	lane int // -1 for a reader

	mu    sync.Mutex
	index map[string]*slot
	seen  uint64
}

const statsSize = headerBytes + maxSlots*int(unsafe.Sizeof(slot{}))

// OpenStats maps the file at path, made anew when it is missing or of another layout. An edge process takes a lane.
func OpenStats(path string, edge bool) (*Stats, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Stats{file: f, lane: -1, index: map[string]*slot{}}
	if err := s.open(edge); err != nil {
		f.Close()
		return nil, fmt.Errorf("counters %s: %w", path, err)
	}
	return s, nil
}

func (s *Stats) open(edge bool) error {
	if err := home.Lock(s.file); err != nil {
		return err
	}
	defer home.Unlock(s.file)
	if err := reserve(s.file, int64(statsSize)); err != nil {
		return err
	}
	var err error
	if s.mem, err = mapFile(s.file, statsSize); err != nil {
		return err
	}
	s.head = (*header)(unsafe.Pointer(&s.mem[0]))
	if s.head.magic != statsMagic || s.head.layout != statsLayout {
		clear(s.mem)
		s.head.magic, s.head.layout = statsMagic, statsLayout
	}
	if !edge {
		return nil
	}
	self, err := proc.Identify(os.Getpid())
	if err != nil {
		return err
	}
	for i := range s.head.lanes {
		l := &s.head.lanes[i]
		old := proc.ID{PID: int(l.pid.Load()), Start: l.start.Load(), Boot: self.Boot}
		if old.PID != 0 && old.Alive() {
			continue
		}
		// What a process had under way when it died is not under way any more.
		for n := range int(s.head.slots.Load()) {
			sl := s.at(n)
			sl.open[i].Store(0)
			if sl.asked[i].Swap(0) > 0 {
				sl.gapOpen.Store(1) // nor were those answered: the gap lasts until the next one is
			}
		}
		l.pid.Store(0)
		if s.lane < 0 {
			l.pid.Store(int64(self.PID))
			l.start.Store(self.Start)
			s.lane = i
		}
	}
	if s.lane < 0 {
		return fmt.Errorf("%d edge processes run already", maxLanes)
	}
	return nil
}

// Close gives the lane back and unmaps the file.
func (s *Stats) Close() error {
	s.leave()
	return errors.Join(unmap(s.mem), s.file.Close())
}

func (s *Stats) leave() {
	if s.lane >= 0 {
		s.head.lanes[s.lane].pid.Store(0)
	}
}

// Processes returns the numbers of the living edge processes.
func (s *Stats) Processes() []int {
	var out []int
	for i := range s.head.lanes {
		l := &s.head.lanes[i]
		if pid := int(l.pid.Load()); pid != 0 {
			if id, err := proc.Identify(pid); err == nil && id.Start == l.start.Load() {
				out = append(out, pid)
			}
		}
	}
	return out
}

// Processes returns the numbers of the living edge processes that count into the file at path.
func Processes(path string) []int {
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	s, err := OpenStats(path, false)
	if err != nil {
		return nil
	}
	defer s.Close()
	return s.Processes()
}

func (s *Stats) at(i int) *slot {
	return (*slot)(unsafe.Pointer(&s.mem[headerBytes+i*int(unsafe.Sizeof(slot{}))]))
}

func (sl *slot) name() string {
	for i, b := range sl.key {
		if b == 0 {
			return string(sl.key[:i])
		}
	}
	return string(sl.key[:])
}

// is compares without making a string of the key: a lookup may ask every slot.
func (sl *slot) is(name string) bool {
	return len(name) < keyBytes && string(sl.key[:len(name)]) == name && sl.key[len(name)] == 0
}

// refresh indexes slots that other processes added. s.mu is held.
func (s *Stats) refresh() {
	for n := s.head.slots.Load(); s.seen < n; s.seen++ {
		sl := s.at(int(s.seen))
		s.index[sl.name()] = sl
	}
}

// slot finds or makes the counters of k.
func (s *Stats) slot(k slotKey) (*slot, error) {
	name := k.String()
	if len(name) >= keyBytes {
		return nil, fmt.Errorf("the name %s is longer than %d bytes", name, keyBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sl := s.lookup(name); sl != nil {
		return sl, nil
	}
	if err := home.Lock(s.file); err != nil {
		return nil, err
	}
	defer home.Unlock(s.file)
	if sl := s.lookup(name); sl != nil {
		return sl, nil
	}
	n := int(s.head.slots.Load())
	for i := range n {
		if s.at(i).key[0] == 0 {
			n = i
			break
		}
	}
	if n == maxSlots {
		return nil, fmt.Errorf("all %d counters are in use: this machine has too many instances", maxSlots)
	}
	sl := s.at(n)
	clear(unsafe.Slice((*byte)(unsafe.Pointer(sl)), unsafe.Sizeof(slot{})))
	copy(sl.key[1:], name[1:])
	sl.key[0] = name[0] // last: readers of other processes take a slot without it for a free one
	s.index[name] = sl
	s.head.slots.Store(max(s.head.slots.Load(), uint64(n+1)))
	return sl, nil
}

// lookup finds name's counters; s.mu is held. Another process may have given a slot that is indexed here to another name,
// so what is not in the index may still be in the file.
func (s *Stats) lookup(name string) *slot {
	s.refresh()
	if sl := s.index[name]; sl != nil && sl.is(name) {
		return sl
	}
	delete(s.index, name)
	for i := range int(s.seen) {
		if sl := s.at(i); sl.is(name) {
			s.index[name] = sl
			return sl
		}
	}
	return nil
}

// recycle frees the counters of instances that are gone, once the file is filling up. Counters that go back to zero
// are what Prometheus expects of a counter whose owner was replaced.
func (s *Stats) recycle(kept func() map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head.slots.Load() < maxSlots*3/4 {
		return nil
	}
	if err := home.Lock(s.file); err != nil {
		return err
	}
	defer home.Unlock(s.file)
	s.refresh()
	keep := kept()
	for i := range int(s.head.slots.Load()) {
		sl := s.at(i)
		if name := sl.name(); name != "" && !keep[name] && s.waiting(sl) == 0 {
			delete(s.index, name)
			sl.key[0] = 0
		}
	}
	return nil
}

// begin counts a request that arrived at a route or was handed to an instance.
func (s *Stats) begin(sl *slot) { sl.open[s.lane].Add(1) }

func (s *Stats) end(sl *slot) { sl.open[s.lane].Add(-1) }

// waiting sums the requests under way over the living processes.
func (s *Stats) waiting(sl *slot) int64 { return s.sum(&sl.open) }

// unanswered is how many of them no instance has begun to answer. Streams that go on for hours are not among them.
func (s *Stats) unanswered(sl *slot) int64 { return s.sum(&sl.asked) }

func (s *Stats) sum(byLane *[maxLanes]atomic.Int64) int64 {
	var n int64
	for i := range byLane {
		if s.head.lanes[i].pid.Load() != 0 {
			n += max(byLane[i].Load(), 0)
		}
	}
	return n
}

// arrive opens the gap clock when nobody waits for an answer yet. While the last outcome was a failure the clock runs on.
func (s *Stats) arrive(sl *slot, now time.Time) {
	if s.unanswered(sl) == 0 && sl.gapOpen.Load() == 0 {
		sl.gapFrom.Store(now.UnixNano())
	}
	s.begin(sl)
	sl.asked[s.lane].Add(1)
}

// answered closes the gap clock's current span: an instance answered.
func (s *Stats) answered(sl *slot, now time.Time) {
	n := now.UnixNano()
	sl.lengthen(n - sl.gapFrom.Swap(n))
	sl.gapOpen.Store(0)
	sl.asked[s.lane].Add(-1)
}

// gaveUp notes that a request ended with no answer from an instance. The clock runs on when it failed; a client that went
// away by itself only leaves the time it waited.
func (s *Stats) gaveUp(sl *slot, now time.Time, failed bool) {
	sl.lengthen(now.UnixNano() - sl.gapFrom.Load())
	if failed {
		sl.gapOpen.Store(1)
	}
	sl.asked[s.lane].Add(-1)
}

func (sl *slot) lengthen(gap int64) {
	for old := sl.gapMax.Load(); gap > old && !sl.gapMax.CompareAndSwap(old, gap); old = sl.gapMax.Load() {
	}
}

// outcome is how one request ended.
type outcome struct {
	status  int // 0: no answer
	bytes   int64
	took    time.Duration
	aborted bool
	refused bool // by a limit
	failed  bool // broken off after its status was sent, or no answer came
}

func (sl *slot) count(o outcome) {
	sl.requests.Add(1)
	sl.bytes.Add(uint64(o.bytes))
	switch {
	case o.refused:
		sl.refused.Add(1)
	case o.aborted:
		sl.aborted.Add(1)
	case o.failed:
		sl.failed.Add(1)
		sl.undone.Add(1)
	case o.status >= 500:
		sl.failed.Add(1)
	}
	class := o.status / 100
	if class < 0 || class >= classBuckets {
		class = 0
	}
	sl.classes[class].Add(1)
	if !o.aborted && !o.refused { // how soon nothing was done says nothing of the service
		sl.nanos.Add(uint64(o.took))
		sl.hist[bucketOf(o.took)].Add(1)
	}
}

// bucketOf is a log-linear histogram's: eight steps in each doubling, so the middle of a bucket is off by at most 6.25 %.
func bucketOf(d time.Duration) int {
	if d < 1<<firstOctave {
		return 0
	}
	top := bits.Len64(uint64(d)) - 1
	if top >= firstOctave+octaves {
		return histBuckets - 1
	}
	sub := (uint64(d) >> (top - 3)) & (subBuckets - 1)
	return 1 + (top-firstOctave)*subBuckets + int(sub)
}

// BucketEnds returns the upper bounds of [Counts.Hist]'s buckets. The last one has no end: it also holds what took longer.
func BucketEnds() []time.Duration {
	out := make([]time.Duration, histBuckets)
	for i := range out {
		out[i] = bucketEnd(i)
	}
	return out
}

// BucketStart returns the lower bound of bucket i.
func BucketStart(i int) time.Duration {
	if i == 0 {
		return 0
	}
	return bucketEnd(i - 1)
}

// bucketEnd is the upper bound of bucket i.
func bucketEnd(i int) time.Duration {
	switch {
	case i == 0:
		return 1 << firstOctave
	case i >= histBuckets-1:
		return 1 << (firstOctave + octaves)
	}
	octave, sub := (i-1)/subBuckets, (i-1)%subBuckets
	base := time.Duration(1) << (firstOctave + octave)
	return base + base/subBuckets*time.Duration(sub+1)
}
