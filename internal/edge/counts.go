package edge

import (
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// Counts are the counters of something at one moment, or the difference of two moments.
type Counts struct {
	Requests uint64               `json:"requests"`
	Failed   uint64               `json:"failed"`
	Unplaced uint64               `json:"unplaced,omitempty"` // routes only: failed without an instance to go to
	Undone   uint64               `json:"undone"`
	Aborted  uint64               `json:"aborted"`
	Refused  uint64               `json:"refused,omitempty"` // routes only: kept from the instances by a limit; not failed
	Retried  uint64               `json:"retried"`
	Unlogged uint64               `json:"unlogged,omitempty"` // routes only: lines of the access log that were dropped
	Cached   uint64               `json:"cached,omitempty"`   // routes only: answered out of the edge's memory, and by no instance
	Bytes    uint64               `json:"bytes"`
	Nanos    uint64               `json:"nanos"`
	Mirrored uint64               `json:"mirrored,omitempty"` // of requests: copies of what another release was asked
	Differed uint64               `json:"differed,omitempty"` // of mirrored: answered with another status
	Classes  [classBuckets]uint64 `json:"classes"`
	Hist     []uint64             `json:"hist,omitempty"`
	Open     int64                `json:"open"` // under way now
}

// Add returns the sum of a and b.
func (a Counts) Add(b Counts) Counts { return a.combine(b, func(x, y uint64) uint64 { return x + y }) }

// Sub returns what was counted between the earlier b and a.
func (a Counts) Sub(b Counts) Counts {
	c := a.combine(b, func(x, y uint64) uint64 { return x - min(x, y) })
	c.Open = a.Open // what is under way is not counted up: now is now
	return c
}

func (a Counts) combine(b Counts, f func(x, y uint64) uint64) Counts {
	c := Counts{Requests: f(a.Requests, b.Requests), Failed: f(a.Failed, b.Failed), Undone: f(a.Undone, b.Undone),
		Unplaced: f(a.Unplaced, b.Unplaced), Aborted: f(a.Aborted, b.Aborted), Refused: f(a.Refused, b.Refused),
		Retried: f(a.Retried, b.Retried), Bytes: f(a.Bytes, b.Bytes), Nanos: f(a.Nanos, b.Nanos),
		Unlogged: f(a.Unlogged, b.Unlogged), Cached: f(a.Cached, b.Cached), Mirrored: f(a.Mirrored, b.Mirrored), Differed: f(a.Differed, b.Differed),
		Hist: make([]uint64, histBuckets), Open: a.Open + b.Open}
	for i := range c.Classes {
		c.Classes[i] = f(a.Classes[i], b.Classes[i])
	}
	for i := range c.Hist {
		var x, y uint64
		if i < len(a.Hist) {
			x = a.Hist[i]
		}
		if i < len(b.Hist) {
			y = b.Hist[i]
		}
		c.Hist[i] = f(x, y)
	}
	return c
}

// Quantile returns the time under which the share q (0 to 1) of the answers came, 0 where there were none.
func (a Counts) Quantile(q float64) time.Duration {
	var total uint64
	for _, n := range a.Hist {
		total += n
	}
	if total == 0 {
		return 0
	}
	want := min(uint64(q*float64(total)), total-1)
	var sum uint64
	for i, n := range a.Hist {
		if sum += n; sum > want {
			low := time.Duration(0)
			if i > 0 {
				low = bucketEnd(i - 1)
			}
			// The middle, and no interpolation: the answers of a steady service all lie at one place of a bucket, and only
			// the middle is never further from it than half the bucket.
			return low + (bucketEnd(i)-low)/2
		}
	}
	return bucketEnd(histBuckets - 1)
}

// Reading is one instance's or route's counters with its name.
type Reading struct {
	Service     string
	Environment string
	Release     int // 0 for the route as a whole
	Instance    int
	Counts      Counts
}

// Read returns every counter of the file.
func (s *Stats) Read() []Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Another process may be giving a slot a new name right now. Without the lock a name may be torn: it is skipped then.
	if home.Lock(s.file) == nil {
		defer home.Unlock(s.file)
	}
	s.refresh()
	n := int(s.seen)
	out := make([]Reading, 0, n)
	for i := range n {
		sl := s.at(i)
		k, ok := parseSlotKey(sl.name())
		if !ok {
			continue
		}
		out = append(out, Reading{k.Service, k.Environment, k.Release, k.Instance, s.load(sl)})
	}
	return out
}

func (s *Stats) load(sl *slot) Counts {
	open := s.waiting(sl) // first: what has ended by then is counted whole
	c := Counts{Open: open, Requests: sl.requests.Load(), Failed: sl.failed.Load(), Undone: sl.undone.Load(), Aborted: sl.aborted.Load(),
		Unplaced: sl.unplaced.Load(), Refused: sl.refused.Load(), Retried: sl.retried.Load(), Bytes: sl.bytes.Load(), Nanos: sl.nanos.Load(),
		Unlogged: sl.unlogged.Load(), Cached: sl.cached.Load(), Mirrored: sl.mirrored.Load(), Differed: sl.differed.Load(), Hist: make([]uint64, histBuckets)}
	for i := range c.Classes {
		c.Classes[i] = sl.classes[i].Load()
	}
	for i := range c.Hist {
		c.Hist[i] = sl.hist[i].Load()
	}
	return c
}

// Open returns how many requests an instance, or with release and instance 0 a route, has under way in any edge process.
func (s *Stats) Open(service, env string, release, instance int) int64 {
	s.mu.Lock()
	sl := s.lookup(slotKey{service, env, release, instance}.String())
	s.mu.Unlock()
	if sl == nil {
		return 0
	}
	return s.waiting(sl)
}

// ResetGap begins a new measurement of a route's longest gap. A gap that is open, of a service that was down for long, is
// measured from now on.
func (s *Stats) ResetGap(service, env string) error {
	sl, err := s.slot(slotKey{Service: service, Environment: env})
	if err != nil {
		return err
	}
	sl.gapFrom.Store(time.Now().UnixNano())
	sl.gapMax.Store(0)
	return nil
}

// Gap returns the longest time since ResetGap in which requests waited and none was answered, up to now.
func (s *Stats) Gap(service, env string) time.Duration {
	sl, err := s.slot(slotKey{Service: service, Environment: env})
	if err != nil {
		return 0
	}
	gap := time.Duration(sl.gapMax.Load())
	if s.unanswered(sl) > 0 || sl.gapOpen.Load() != 0 {
		gap = max(gap, time.Duration(time.Now().UnixNano()-sl.gapFrom.Load()))
	}
	return gap
}

// Merge adds what somebody else counted to the counters of an instance and of its route.
func (s *Stats) Merge(service, env string, release, instance int, c Counts) error {
	for _, k := range []slotKey{{service, env, release, instance}, {Service: service, Environment: env}} {
		sl, err := s.slot(k)
		if err != nil {
			return err
		}
		sl.requests.Add(c.Requests)
		sl.failed.Add(c.Failed)
		sl.undone.Add(c.Undone)
		sl.aborted.Add(c.Aborted)
		sl.nanos.Add(c.Nanos)
		for i, n := range c.Classes {
			sl.classes[i].Add(n)
		}
		for i, n := range c.Hist {
			sl.hist[i].Add(n)
		}
	}
	return nil
}
