package httpcache

import (
	"container/list"
	"hash/maphash"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// overhead is what an answer costs beside its bytes.
	overhead = 1 << 10
	// maxVariants is how many answers of one address are kept; the oldest goes first.
	maxVariants = 64
	// maxMarks is how many addresses are remembered whose answers cannot be kept.
	maxMarks = 4096
	// markFor is for how long.
	markFor = 10 * time.Minute
)

// entry is an answer that is kept. It does not change but for what the store's lock guards.
type entry struct {
	uri     string
	release int
	vary    []string // request headers by which it was chosen
	by      []string // and their values
	status  int
	header  http.Header
	body    []byte
	cc      control

	age      time.Duration // when it came
	received time.Time
	life     time.Duration

	place *list.Element     // guarded: nil until it is kept, and when it is not any more
	size  int64             // guarded: what it takes
	coded map[string][]byte // guarded: its body in other codings, each made once
}

// matches reports whether an answer is one for a request (RFC 9111, section 4.1).
func (e *entry) matches(r http.Header) bool { return slices.Equal(chosenBy(e.vary, r), e.by) }

func (e *entry) cost() int64 {
	n := int64(len(e.uri) + cap(e.body) + overhead)
	for _, b := range e.coded {
		n += int64(cap(b))
	}
	for name, values := range e.header {
		for _, v := range values {
			n += int64(len(name) + len(v))
		}
	}
	return n
}

func (e *entry) ageAt(now time.Time) time.Duration { return e.age + now.Sub(e.received) }

// left is for how long it is fresh yet.
func (e *entry) left(now time.Time) time.Duration { return e.life - e.ageAt(now) }

// bound reports whether the answer says that it may never be used when it is stale (RFC 9111, section 4.2.4).
func (e *entry) bound() bool { return e.cc.noCache || e.cc.mustRevalidate || e.cc.proxyRevalidate }

// serves reports whether the answer may be used without asking anybody.
func (e *entry) serves(rc control, now time.Time) bool {
	left := e.left(now)
	switch {
	case e.cc.noCache || rc.noCache:
		return false
	case rc.maxAge >= 0 && e.ageAt(now) > seconds(rc.maxAge) && rc.maxStale < 0:
		return false
	case rc.minFresh >= 0 && left < seconds(rc.minFresh):
		return false
	}
	return left > 0 || rc.maxStale >= 0 && -left <= seconds(rc.maxStale) && !e.bound() && e.cc.sMaxAge < 0
}

// servesMeanwhile reports whether it may be used while another one is fetched (RFC 5861, section 3).
func (e *entry) servesMeanwhile(rc control, now time.Time) bool {
	return !e.bound() && !rc.noCache && rc.maxAge < 0 && rc.minFresh < 0 && -e.left(now) <= seconds(max(e.cc.staleWhileRevalidate, 0)) && e.cc.staleWhileRevalidate > 0
}

// servesFailing reports whether it may be used where nobody answers, or with an error (RFC 5861, section 4). What the answer says itself
// counts before what is configured; s-maxage forbids it where the answer does not allow it (RFC 9111, section 5.2.2.10).
func (e *entry) servesFailing(c Config, rc control, now time.Time) bool {
	most := c.StaleIfError
	switch {
	case e.bound():
		return false
	case e.cc.staleIfError >= 0:
		most = seconds(e.cc.staleIfError)
	case e.cc.sMaxAge >= 0:
		return e.left(now) > 0
	}
	if rc.staleIfError >= 0 {
		most = min(most, seconds(rc.staleIfError))
	}
	return -e.left(now) <= most
}

// store holds the answers, and what is known of addresses without any.
type store struct {
	mu    sync.Mutex
	size  int64 // that may be used
	used  int64 // by entries, and by answers on their way
	order list.List
	byURI map[string][]*entry

	seed  maphash.Seed
	marks [maxMarks]mark // of what cannot be kept; one address overwrites another
}

type mark struct {
	hash  uint64
	until time.Time
}

// find returns the newest answer of a release for a request, nil where there is none; other reports whether there are some for other
// requests.
func (s *store) find(uri string, release int, r http.Header) (found *entry, other bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byURI[uri] {
		if e.release != release {
			continue
		}
		if e.matches(r) && (found == nil || e.received.After(found.received)) {
			found = e
		}
		other = true
	}
	if found != nil { // it is among those of its address, so it has a place
		s.order.MoveToFront(found.place)
	}
	return found, other
}

// put keeps an answer in place of what it replaces.
func (s *store) put(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.byURI[e.uri]
	for _, old := range slices.Clone(all) {
		if old.release == e.release && slices.Equal(old.vary, e.vary) && slices.Equal(old.by, e.by) {
			s.drop(old)
		}
	}
	if all = s.byURI[e.uri]; len(all) >= maxVariants {
		s.drop(all[0])
	}
	if e.size = e.cost(); !s.room(e.size) {
		return
	}
	s.used += e.size
	e.place = s.order.PushFront(e)
	s.byURI[e.uri] = append(s.byURI[e.uri], e)
	m := s.markOf(e.uri)
	m.until = time.Time{}
}

// drop forgets an answer. s.mu is held.
func (s *store) drop(e *entry) {
	all := s.byURI[e.uri]
	i := slices.Index(all, e)
	if i < 0 {
		return
	}
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(s.byURI, e.uri)
	} else {
		s.byURI[e.uri] = all
	}
	s.order.Remove(e.place)
	s.used -= e.size
	e.place = nil
}

// form returns an answer's body in a coding; code makes it where nobody did before, or returns nil.
func (s *store) form(e *entry, coding string, code func([]byte) []byte) []byte {
	s.mu.Lock()
	b := e.coded[coding]
	s.mu.Unlock()
	if b != nil {
		return b
	}
	if b = slices.Clip(code(e.body)); b == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int64(cap(b))
	if e.coded[coding] != nil || !s.room(n) {
		return b // it is too much to be kept, but not to be sent
	}
	coded := maps.Clone(e.coded)
	if coded == nil {
		coded = map[string][]byte{}
	}
	coded[coding], e.coded = b, coded
	if e.place != nil { // and was not dropped for it
		e.size += n
		s.used += n
	}
	return b
}

// forms are what was made of an answer's body.
func (s *store) forms(e *entry) map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.coded
}

// room makes room for n bytes more by dropping what was longest not asked for. It reports whether there is. s.mu is held.
func (s *store) room(n int64) bool {
	for s.used+n > s.size {
		last := s.order.Back()
		if last == nil {
			return false
		}
		s.drop(last.Value.(*entry))
	}
	return true
}

// reserve takes n bytes for an answer on its way; a negative number gives them back.
func (s *store) reserve(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && !s.room(n) {
		return false
	}
	s.used += n
	return true
}

// forget drops all answers for which f holds.
func (s *store) forget(f func(*entry) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := s.order.Front(); at != nil; {
		e := at.Value.(*entry)
		if at = at.Next(); f(e) {
			s.drop(e)
		}
	}
}

// remove drops what is kept of an address, or one answer of it.
func (s *store) remove(uri string, only *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Clone(s.byURI[uri]) {
		if only == nil || e == only {
			s.drop(e)
		}
	}
}

func (s *store) markOf(uri string) *mark {
	return &s.marks[maphash.String(s.seed, uri)%maxMarks]
}

// mark notes that an address's answers cannot be kept: nobody shall wait for another's.
func (s *store) mark(uri string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.markOf(uri) = mark{maphash.String(s.seed, uri), now.Add(markFor)}
}

func (s *store) marked(uri string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.markOf(uri)
	return m.hash == maphash.String(s.seed, uri) && now.Before(m.until)
}
