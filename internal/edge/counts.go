package edge

import (
	"time"
)

// Counts are the counters of something at one moment, or the difference of two moments.
type Counts struct {
	Requests uint64               `json:"requests"`
	Failed   uint64               `json:"failed"`
	Undone   uint64               `json:"undone"`
	Aborted  uint64               `json:"aborted"`
	Retried  uint64               `json:"retried"`
	Bytes    uint64               `json:"bytes"`
	Nanos    uint64               `json:"nanos"`
	Classes  [classBuckets]uint64 `json:"classes"`
	Hist     []uint64             `json:"hist,omitempty"`
	Open     int64                `json:"open"` // under way now
}

// Add returns the sum of a and b.
func (a Counts) Add(b Counts) Counts { return a.combine(b, func(x, y uint64) uint64 { return x + y }) }

// Sub returns what was counted between the earlier b and a.
func (a Counts) Sub(b Counts) Counts {
	return a.combine(b, func(x, y uint64) uint64 { return x - min(x, y) })
}

func (a Counts) combine(b Counts, f func(x, y uint64) uint64) Counts {
	c := Counts{Requests: f(a.Requests, b.Requests), Failed: f(a.Failed, b.Failed), Undone: f(a.Undone, b.Undone),
		Aborted: f(a.Aborted, b.Aborted), Retried: f(a.Retried, b.Retried), Bytes: f(a.Bytes, b.Bytes), Nanos: f(a.Nanos, b.Nanos),
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
	want := uint64(q * float64(total))
	var sum uint64
	for i, n := range a.Hist {
		if sum += n; sum > want && n > 0 {
			low := time.Duration(0)
			if i > 0 {
				low = bucketEnd(i - 1)
			}
			// Within a bucket the answers are taken as evenly spread.
			part := float64(want-(sum-n)) / float64(n)
			return low + time.Duration(part*float64(bucketEnd(i)-low))
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
	s.refresh()
	n := int(s.seen)
	s.mu.Unlock()
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
	c := Counts{Requests: sl.requests.Load(), Failed: sl.failed.Load(), Undone: sl.undone.Load(), Aborted: sl.aborted.Load(),
		Retried: sl.retried.Load(), Bytes: sl.bytes.Load(), Nanos: sl.nanos.Load(), Hist: make([]uint64, histBuckets), Open: s.waiting(sl)}
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

// ResetGap begins a new measurement of a route's longest gap.
func (s *Stats) ResetGap(service, env string) error {
	sl, err := s.slot(slotKey{Service: service, Environment: env})
	if err != nil {
		return err
	}
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
	if s.waiting(sl) > 0 || sl.gapOpen.Load() != 0 {
		gap = max(gap, time.Duration(time.Now().UnixNano()-sl.gapFrom.Load()))
	}
	return gap
}
