package httpcache

import (
	"bytes"
	"context"
	"hash/maphash"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Origin is one request to whoever makes the answers.
type Origin interface {
	// Do asks, and writes the answer to w as a handler does. It returns soon after r's context is done.
	Do(w http.ResponseWriter, r *http.Request)
	// Answered reports, once something is written, whether it is somebody's answer, and of which release; it is not where nobody could be
	// asked.
	Answered() (release int, ok bool)
}

// Coder is a writer that sends answers in a coding. What is made of a body that is kept is kept, too.
type Coder interface {
	Coding(status, length int) string          // for an answer whose head is set; "" for none
	Code(body []byte) []byte                   // nil where that cannot be done now
	WriteCoded(status int, coded []byte) error // the whole answer
}

// Exchange is a client's request, and who may be asked for it.
type Exchange struct {
	URI     string // the scheme, the host and the target
	Release int    // to which the client goes
	// Open makes a request to the origin; spare says that there is an answer for the case that nobody can be asked.
	Open func(spare bool) Origin
	// Begin is called before anything is answered.
	Begin func(Result)
	// Behind, where it is set, runs f, which asks the origin for nobody in particular.
	Behind func(f func())
}

// How says where an answer came from.
type How string

// What an answer may be.
const (
	Hit         How = "hit"
	Miss        How = "miss"        // the origin's; it may be kept now
	Pass        How = "pass"        // the origin's, and not to be kept
	Revalidated How = "revalidated" // kept, and the origin said that it still holds
	Stale       How = "stale"       // kept, and not fresh any more
	Failed      How = "failed"      // nobody's
)

// Result says what is answered.
type Result struct {
	How    How
	Status int
	Origin Origin // who was asked, nil for nobody
}

// Cache keeps answers. Its methods may be called from several goroutines.
type Cache struct {
	conf    atomic.Pointer[Config]
	kept    store
	mu      sync.Mutex
	flights map[flightKey]*flight // those that others may wait for
	all     map[*flight]bool
}

// New makes an empty cache.
func New(c Config) *Cache {
	n := &Cache{flights: map[flightKey]*flight{}, all: map[*flight]bool{}}
	n.kept.byURI, n.kept.seed = map[string][]*entry{}, maphash.MakeSeed()
	n.Follow(c)
	return n
}

// Follow puts other bounds in force.
func (c *Cache) Follow(conf Config) {
	c.conf.Store(&conf)
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	c.kept.size = conf.Size
	c.kept.room(0)
}

// Retain forgets what releases answered for which keep does not hold.
func (c *Cache) Retain(keep func(release int) bool) {
	if !c.conf.Load().Across {
		c.kept.forget(func(e *entry) bool { return !keep(e.release) })
	}
}

// Takes reports whether the cache has anything to do with a request: others go to the origin, and where they change something it must be
// told; see [Cache.Changing].
func Takes(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.ContentLength == 0 &&
		r.Header.Get("Upgrade") == "" && r.Header.Get("If-Match") == "" && r.Header.Get("If-Unmodified-Since") == "" && r.Header.Get("Expect") == ""
}

// Serve answers a request that the cache takes. It panics with [http.ErrAbortHandler] where an answer broke off, or its client is gone.
func (c *Cache) Serve(w http.ResponseWriter, r *http.Request, x Exchange) {
	q := &query{c: c, conf: *c.conf.Load(), w: w, r: r, x: x, rc: requestControl(r.Header)}
	if q.conf.Across {
		q.x.Release = 0
	}
	q.serve()
}

// query is a client's request under way.
type query struct {
	c     *Cache
	conf  Config
	w     http.ResponseWriter
	r     *http.Request
	x     Exchange
	rc    control
	old   *entry // what is kept for it, fresh or not
	waits bool   // it waited for another's answer once
}

func (q *query) serve() {
	for {
		e, other := q.c.kept.find(q.x.URI, q.x.Release, q.r.Header)
		q.old = e
		now := time.Now()
		switch {
		case e != nil && e.serves(q.rc, now):
			how := Hit
			if e.left(now) <= 0 {
				how = Stale
			}
			q.answer(e, Result{How: how}, told{hit: true})
			return
		case q.rc.onlyIfCached:
			q.x.Begin(Result{How: Failed, Status: http.StatusGatewayTimeout})
			q.w.Header().Set("Cache-Status", name+"; fwd=miss; detail=only-if-cached")
			http.Error(q.w, "nothing is kept that could be used (only-if-cached)", http.StatusGatewayTimeout)
			return
		case e != nil && q.x.Behind != nil && e.servesMeanwhile(q.rc, now):
			q.renew(e)
			q.answer(e, Result{How: Stale}, told{hit: true})
			return
		}
		if q.ask(e, other, now) {
			return
		}
	}
}

// ask asks the origin, or waits for who does. It reports false where something may be kept now that is of use.
func (q *query) ask(e *entry, other bool, now time.Time) bool {
	why := "uri-miss"
	switch {
	case e != nil && q.rc.noCache:
		why = "request"
	case e != nil:
		why = "stale"
	case other:
		why = "vary-miss"
	}
	alone := q.waits || q.rc.noStore || q.rc.noCache || q.r.Method != http.MethodGet || q.r.Header.Get("Range") != "" || q.r.Header.Get("Authorization") != ""
	key := flightKey{uri: q.x.URI, release: q.x.Release}
	if e != nil {
		key.variant = strings.Join(e.by, "\x00")
	}
	marked := q.c.kept.marked(q.x.URI, now)
	if !alone && !marked {
		f, first := q.c.join(key, func() *flight {
			if now, _ := q.c.kept.find(q.x.URI, q.x.Release, q.r.Header); now != e {
				return nil // somebody else was quicker
			}
			return q.fly(key, e, false)
		})
		if f == nil {
			return false
		}
		if !first {
			q.waits = true
			return q.follow(f, told{fwd: why, collapsed: true})
		}
		q.lead(f, told{fwd: why})
		return true
	}
	q.c.mu.Lock()
	f := q.fly(key, e, marked)
	q.c.mu.Unlock()
	q.lead(f, told{fwd: why})
	return true
}

// fly makes a request to the origin for q. The client's own conditions are not the origin's to judge where the answer may be kept: it
// would say that the client has it already, and nothing is kept. The cache's lock is held.
func (q *query) fly(key flightKey, e *entry, marked bool) *flight {
	r := q.r
	var ctx context.Context
	f := &flight{c: q.c, conf: q.conf, key: key, began: time.Now(), header: http.Header{}, length: -1, lead: q, refs: 1,
		changed: make(chan struct{}), done: make(chan struct{}), handed: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	f.r = r.Clone(ctx)
	f.r.Body = http.NoBody // and not one that is read from the client's connection, which may be gone by then
	whole := r.Method == http.MethodGet && r.Header.Get("Range") == ""
	if f.keeps = whole && !q.rc.noStore; f.keeps && (e != nil || !marked) {
		if conditional(f.r.Header, e) {
			f.old = e
		}
	}
	f.origin = q.x.Open(e != nil && e.servesFailing(q.conf, q.rc, f.began))
	q.c.all[f] = true
	return f
}

// renew fetches what shall take the place of e, for nobody in particular.
func (q *query) renew(e *entry) {
	key := flightKey{uri: q.x.URI, release: q.x.Release, variant: strings.Join(e.by, "\x00")}
	var f *flight
	_, first := q.c.join(key, func() *flight {
		f = q.fly(key, e, false)
		f.lead = nil
		return f
	})
	if !first {
		return
	}
	stop := time.AfterFunc(renewTime, f.cancel)
	q.x.Behind(func() {
		defer stop.Stop()
		f.run()
	})
}

// answer writes a whole answer that is kept.
func (q *query) answer(e *entry, res Result, t told) {
	now := time.Now()
	t.left, t.timed = e.left(now), true
	h := q.w.Header()
	maps.Copy(h, e.header)
	h.Set("Age", strconv.FormatInt(max(int64(e.ageAt(now)/time.Second), 0), 10))
	q.tell(t)
	if res.Status = e.status; q.conditional(e.status, &res) {
		return
	}
	q.x.Begin(res)
	if e.status == http.StatusOK && q.r.Header.Get("Range") != "" {
		if _, ok := h["Content-Type"]; !ok {
			h["Content-Type"] = nil // it is not guessed
		}
		at, _ := http.ParseTime(e.header.Get("Last-Modified"))
		http.ServeContent(q.w, q.r, "", at, bytes.NewReader(e.body))
		return
	}
	if z, ok := q.w.(Coder); ok && q.r.Method == http.MethodGet {
		if coding := z.Coding(e.status, len(e.body)); coding != "" {
			if b := q.c.kept.form(e, coding, z.Code); b != nil {
				whole(z.WriteCoded(e.status, b))
				return
			}
		}
	}
	if e.status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(e.body)))
	}
	q.w.WriteHeader(e.status)
	if q.r.Method != http.MethodHead && len(e.body) > 0 {
		_, err := q.w.Write(e.body)
		whole(err)
	}
}

// whole ends a request whose client did not take all of its answer.
func whole(err error) {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// tell adds what this cache did to what others before it say.
func (q *query) tell(t told) {
	h := q.w.Header()
	h["Cache-Status"] = append(append([]string{}, h["Cache-Status"]...), t.String())
}

// conditional answers a client that has the answer already, and reports whether it did. The header is set.
func (q *query) conditional(status int, res *Result) bool {
	h := q.w.Header()
	if !notModified(q.r, status, h) {
		return false
	}
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Content-Language"} {
		h.Del(name)
	}
	res.Status = http.StatusNotModified
	q.x.Begin(*res)
	q.w.WriteHeader(http.StatusNotModified)
	return true
}

// stale answers with what is kept where the origin does not, and reports whether it may. The status is what the origin said, 0 for nothing.
func (q *query) stale(f *flight, status int, t told) bool {
	if q.old == nil || !q.old.servesFailing(q.conf, q.rc, f.began) { // as the flight itself saw it
		return false
	}
	t.status, t.detail = status, "stale-if-error"
	q.answer(q.old, Result{How: Stale, Origin: f.origin}, t)
	return true
}

// Changing is a writer for the answer to a method that is not safe: where it is not an error, what is kept of the addresses that it speaks
// of holds no more (RFC 9111, section 4.4). resolve makes an address of this cache of one in a header, "" for another host's.
func (c *Cache) Changing(w http.ResponseWriter, uri string, resolve func(string) string) http.ResponseWriter {
	return &changing{w, c, uri, resolve}
}

type changing struct {
	http.ResponseWriter
	c       *Cache
	uri     string
	resolve func(string) string
}

// WriteHeader forgets before the client knows: what it asks then must not be answered with what was.
func (w *changing) WriteHeader(code int) {
	if code >= 200 && code < 400 {
		w.c.Invalidate(w.uri)
		for _, name := range []string{"Location", "Content-Location"} {
			if at := w.Header().Get(name); at != "" {
				w.c.Invalidate(w.resolve(at))
			}
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets [http.ResponseController] flush and hijack.
func (w *changing) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Invalidate forgets what is kept of an address, and what is on its way.
func (c *Cache) Invalidate(uri string) {
	if uri == "" {
		return
	}
	c.mu.Lock()
	for f := range c.all {
		if f.key.uri != uri {
			continue
		}
		f.outdate()
		if c.flights[f.key] == f {
			delete(c.flights, f.key)
		}
	}
	c.mu.Unlock()
	c.kept.remove(uri, nil)
}

// Used is how many bytes answers take, and how many there are.
func (c *Cache) Used() (bytes int64, answers int) {
	c.kept.mu.Lock()
	defer c.kept.mu.Unlock()
	return c.kept.used, c.kept.order.Len()
}
