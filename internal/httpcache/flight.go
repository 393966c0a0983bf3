package httpcache

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// collapseTime is how long a request waits for another one's answer before it asks for itself.
	collapseTime = 5 * time.Second
	// fillTime is how long an answer that may be kept is read on when nobody waits for it any more.
	fillTime = 10 * time.Second
	// renewTime bounds a fetch that nobody waits for.
	renewTime = 30 * time.Second
	// maxRefusal is how much is kept of what is said where nobody answers.
	maxRefusal = 16 << 10
	// maxSwallow is how much is read of a body that nobody wants, so that the connection can be used again.
	maxSwallow = 256 << 10
)

// flightKey is what requests have in common that may share an answer.
type flightKey struct {
	uri     string
	release int
	variant string // of what is kept already
}

// state is what became of a request to the origin.
type state int

const (
	asked   state = iota
	filling       // the answer may be kept, and is read into memory
	passing       // it goes to the client who asked, and to nobody else
	renewed       // what was kept still holds
	refused       // nobody answered
	failing       // somebody did, with an error, and something is kept
	useless       // what came cannot be used by anybody
)

// flight is one request to the origin, in a goroutine of its own, and the writer of its answer.
type flight struct {
	c      *Cache
	conf   Config
	key    flightKey
	origin Origin
	r      *http.Request
	cancel context.CancelFunc
	keeps  bool   // the answer may be kept, if it says so
	old    *entry // whether it still holds is asked, too
	began  time.Time
	header http.Header // of the answer, as the origin's writer sets it

	mu       sync.Mutex
	changed  chan struct{} // closed when something of the following did
	lead     *query        // who asked; nil when it has gone
	refs     int           // who waits
	state    state
	status   int
	received time.Time
	head     http.Header // as it was answered
	fresh    *entry      // of renewed
	body     []byte
	length   int64 // of the whole body, -1 where that is not known
	over     bool  // it is too long to be kept
	broken   bool
	ended    bool
	outdated bool // something changed meanwhile: it is not kept
	dropped  bool // it says itself that it is not to be kept
	muted    bool // the client has it already
	reserved int64

	swallowed int           // bytes that nobody wants; of the origin's goroutine
	informs   sync.Mutex    // held while the client hears something before the answer; it does not leave then
	handed    chan struct{} // closed when the client who asked has all that is in memory
	done      chan struct{} // closed at the end
}

// join returns the flight under way for key, or begins the one that start makes. It returns nil where start does.
func (c *Cache) join(key flightKey, start func() *flight) (f *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil && f.enter() {
		return f, false
	}
	if f = start(); f == nil {
		return nil, false
	}
	c.flights[key] = f
	return f, true
}

// enter adds one who waits.
func (f *flight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || f.state == passing || f.over {
		return false
	}
	f.refs++
	return true
}

// leave ends what enter, or the beginning, began. What nobody waits for is not fetched on, unless it may be kept.
func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs--; f.refs > 0 || f.ended {
		return
	}
	if f.state == filling && !f.over {
		t := time.AfterFunc(fillTime, f.cancel)
		context.AfterFunc(f.r.Context(), func() { t.Stop() })
		return
	}
	f.cancel()
}

// tell lets those who wait look. f.mu is held.
func (f *flight) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flight) outdate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outdated = true
}

// forsake notes that the client who asked is served.
func (f *flight) forsake() {
	f.mu.Lock()
	f.lead = nil
	f.mu.Unlock()
	f.leave()
}

// run asks the origin.
func (f *flight) run() {
	broken := true
	defer func() {
		if p := recover(); p != nil {
			broken = true // an answer that breaks off is told of by a panic
		}
		f.end(broken)
	}()
	f.origin.Do(f, f.r)
	broken = false
}

func (f *flight) end(broken bool) {
	broken = broken || f.state == asked || f.state == filling && f.length >= 0 && int64(len(f.body)) != f.length
	f.c.kept.reserve(-f.reserved) // nobody else changes it
	e := f.fresh
	if f.state == filling && !broken && !f.over {
		e = f.entry()
	}
	f.c.mu.Lock()
	if delete(f.c.all, f); f.c.flights[f.key] == f {
		delete(f.c.flights, f.key)
	}
	if e != nil && !f.outdated && !f.dropped { // which changes under the cache's lock only
		f.c.kept.put(e)
	}
	f.c.mu.Unlock()
	f.cancel()
	f.mu.Lock()
	f.ended, f.broken = true, broken // only now: who was told that it is kept finds it
	f.tell()
	close(f.done)
	f.mu.Unlock()
}

// entry is the whole answer.
func (f *flight) entry() *entry {
	body := slices.Clip(f.body)
	if cap(f.body) > len(f.body)+len(f.body)/4 {
		body = slices.Clone(f.body)
	}
	e := f.conf.entryOf(f.status, f.head.Clone(), body, f.r, span{f.began, f.received})
	e.uri, e.release = f.key.uri, f.of()
	return e
}

// of is the release that answered.
func (f *flight) of() int {
	release, _ := f.origin.Answered()
	if f.conf.Across {
		release = 0
	}
	return release
}

// Header implements [http.ResponseWriter].
func (f *flight) Header() http.Header { return f.header }

// WriteHeader decides what becomes of the answer.
func (f *flight) WriteHeader(code int) {
	if code >= 100 && code < 200 {
		f.inform(code)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != asked {
		return
	}
	f.status, f.received, f.head = code, time.Now(), f.header.Clone()
	defer f.tell()
	if _, ok := f.origin.Answered(); !ok {
		f.state = refused
		return
	}
	switch {
	case f.old != nil && code == http.StatusNotModified:
		f.state = useless
		if f.fresh = f.conf.freshened(f.old, f.r, f.head, span{f.began, f.received}); f.fresh == nil {
			f.c.kept.remove(f.key.uri, f.old) // it is of another one
		} else if f.fresh.coded, f.state = f.c.kept.forms(f.old), renewed; !f.conf.storable(f.r, f.fresh.status, f.fresh.header) {
			f.dropped = true
			f.c.kept.remove(f.key.uri, f.old)
		}
	case failed(code) && f.spare():
		f.state = failing
	case f.keeps && f.conf.storable(f.r, code, f.head) && f.fits():
		f.state = filling
	default:
		f.pass()
	}
}

// failed are the statuses in whose place something stale is better (RFC 5861, section 4).
func failed(code int) bool {
	return code == http.StatusInternalServerError || code == http.StatusBadGateway || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout
}

// spare reports whether there is something to answer in place of an error.
func (f *flight) spare() bool {
	if f.lead == nil {
		return true // it is being renewed: what is kept stays
	}
	return f.lead.old != nil && f.lead.old.servesFailing(f.conf, f.lead.rc, f.received)
}

// fits reports whether the answer may find room, and takes it where its length is known.
func (f *flight) fits() bool {
	if f.status == http.StatusNoContent {
		f.length = 0
		return true
	}
	n, err := strconv.ParseInt(f.head.Get("Content-Length"), 10, 64)
	if err != nil {
		return true
	}
	if n > f.conf.Object || !f.c.kept.reserve(n) {
		return false
	}
	f.length, f.reserved = n, n
	return true
}

// inform passes on what is said before an answer. That is written at once, and may take its time: nobody else shall wait for it.
func (f *flight) inform(code int) {
	f.informs.Lock()
	defer f.informs.Unlock()
	f.mu.Lock()
	lead := f.lead
	f.mu.Unlock()
	if lead == nil {
		return
	}
	h := lead.w.Header()
	before := maps.Clone(h)
	maps.Copy(h, f.header)
	lead.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, before)
}

// pass begins to hand the answer to the client who asked. f.mu is held.
func (f *flight) pass() {
	f.state = passing
	if f.keeps && f.status < 500 && f.status != http.StatusPartialContent && f.status != http.StatusNotModified {
		f.c.kept.mark(f.key.uri, f.received)
	}
	if f.lead == nil {
		return
	}
	f.lead.pass(f)
}

// Write implements [http.ResponseWriter].
func (f *flight) Write(p []byte) (int, error) {
	f.WriteHeader(http.StatusOK)
	f.mu.Lock()
	switch f.state {
	case passing:
		lead, muted := f.lead, f.muted
		f.mu.Unlock()
		if muted || lead == nil {
			return f.swallow(p)
		}
		return lead.w.Write(p)
	case refused:
		f.body = append(f.body, p[:min(len(p), maxRefusal-len(f.body))]...)
	case filling:
		if f.grow(len(p)) {
			f.body = append(f.body, p...)
			f.tell()
			break
		}
		f.over = true
		f.c.kept.mark(f.key.uri, f.received)
		f.tell()
		lead := f.lead
		f.mu.Unlock()
		return f.overflow(p, lead)
	}
	f.mu.Unlock()
	return len(p), nil
}

// swallow drops a body that its client has already, or that was fetched for nobody. One that is long is not read to its end.
func (f *flight) swallow(p []byte) (int, error) {
	if f.swallowed += len(p); f.swallowed > maxSwallow {
		return 0, context.Canceled
	}
	return len(p), nil
}

// grow makes room for n bytes more. f.mu is held.
func (f *flight) grow(n int) bool {
	all := int64(len(f.body) + n)
	if all > f.conf.Object || f.length >= 0 && all > f.length {
		return false
	}
	if more := max(all-f.reserved, 0); more > 0 {
		more = min(max(more, 64<<10), f.conf.Object-f.reserved)
		if !f.c.kept.reserve(more) {
			return false
		}
		f.reserved += more
	}
	return true
}

// overflow waits until the client who asked has got what is in memory, and gives it the rest.
func (f *flight) overflow(p []byte, lead *query) (int, error) {
	if lead != nil {
		select {
		case <-f.handed:
		case <-f.r.Context().Done():
			return 0, f.r.Context().Err()
		}
	}
	f.mu.Lock()
	f.state, f.body = passing, nil
	f.mu.Unlock()
	if lead == nil {
		return f.swallow(p)
	}
	return lead.w.Write(p)
}

// FlushError implements the flushing of [http.ResponseController].
func (f *flight) FlushError() error {
	f.WriteHeader(http.StatusOK)
	f.mu.Lock()
	lead, now := f.lead, f.state
	f.mu.Unlock()
	if now != passing || lead == nil {
		return nil
	}
	return http.NewResponseController(lead.w).Flush()
}
