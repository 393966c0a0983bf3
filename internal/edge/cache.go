package edge

import (
	"cmp"
	"context"
	"errors"
	mrand "math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/httpcache"
)

// spareHold is how long a request waits for an instance in place of [holdFor] where something is kept that can be answered instead.
const spareHold = 200 * time.Millisecond

// Cache says what is kept of a route's answers, in the memory of this process.
type Cache struct {
	Size         int64         `json:"size"`                     // of all answers, in bytes
	Object       int64         `json:"object"`                   // of the largest one
	Default      time.Duration `json:"default,omitempty"`        // how long an answer is fresh that does not say; 0: it is not kept
	StaleIfError time.Duration `json:"stale_if_error,omitempty"` // how long after that it serves where no instance answers well
	Across       bool          `json:"across,omitempty"`         // releases share it
}

func (c *Cache) check(route string) error {
	if c != nil && (c.Size <= 0 || c.Object <= 0 || c.Object > c.Size || c.Default < 0 || c.StaleIfError < 0) {
		return fail.New(fail.Internal, "routing table", "%s: %+v is no cache", route, *c)
	}
	return nil
}

// keep puts a table's rules for what is kept in force. What releases answered that are gone is forgotten.
func (m *memory) keep(rt *route) {
	c := rt.Cache
	if c == nil {
		m.cache.Store(nil)
		return
	}
	conf := httpcache.Config{Size: c.Size, Object: c.Object, Default: c.Default, StaleIfError: c.StaleIfError, Across: c.Across}
	kept := m.cache.Load()
	if kept == nil {
		m.cache.Store(httpcache.New(conf))
		return
	}
	kept.Follow(conf)
	if slices.ContainsFunc(rt.backs, func(b *backend) bool { return len(b.endpoints) > 0 }) { // a service that is down has what it needs now
		kept.Retain(func(release int) bool {
			return slices.ContainsFunc(rt.backs, func(b *backend) bool { return b.release == release })
		})
	}
}

// transforms reports whether the route has something done to answers for which they must be seen: that is net/http's way.
func (rt *route) transforms() bool { return rt.Cache != nil || rt.Compress != nil }

// answer answers a request that was counted in: out of the cache where it can, or from an instance.
func (p *proxy) answer(ex *exchange, w http.ResponseWriter, r *http.Request) {
	if ex.route.Compress == nil || !transformable(r) {
		p.answerPlain(ex, w, r)
		return
	}
	z := newCompressed(ex.route, w, r)
	defer z.release()
	p.answerPlain(ex, z, z.r)
	z.close()
}

// answerPlain does that without coding the answer.
func (p *proxy) answerPlain(ex *exchange, w http.ResponseWriter, r *http.Request) {
	if g := ex.route.Guard; g != nil {
		if f := p.admit(ex, asked{ex.route.client(r), r.Header, r.ContentLength}); f != nil {
			ex.refuse(f, w, r)
			return
		}
		if f := p.authorized(r.Context(), ex, r); f != nil {
			ex.refuse(f, w, r)
			return
		}
	}
	if ex.route.Cache == nil {
		p.ask(ex, w, r)
		return
	}
	m := p.recall(ex.route)
	kept := m.cache.Load()
	switch {
	case kept == nil: // a table later than this request's has none
		p.ask(ex, w, r)
	case httpcache.Takes(r) && transformable(r):
		p.serveKept(m, kept, ex, w, r)
	case r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions || r.Method == http.MethodTrace:
		ex.cache = string(httpcache.Pass)
		p.ask(ex, w, r)
	default:
		ex.cache = string(httpcache.Pass)
		p.ask(ex, kept.Changing(w, ex.route.address(r, r.URL.RequestURI()), func(at string) string { return ex.route.addressOf(r, at) }), r)
	}
}

// ask has an instance answer.
func (p *proxy) ask(ex *exchange, w http.ResponseWriter, r *http.Request) {
	if ex.route.Guard != nil {
		p.guarded(ex.route.Guard, ex, w, r)
		return
	}
	p.rp.ServeHTTP(w, r)
}

// transformable reports whether a request is of the kind whose answers can be kept and coded: not one that becomes another protocol,
// and not a gRPC call, whose messages are a stream that has its own coding.
func transformable(r *http.Request) bool {
	return r.Header.Get("Upgrade") == "" && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// serveKept answers by the cache. To which release the client goes is decided before: what is kept of one is not for the clients of
// another, or a canary's answers would reach more than its share.
func (p *proxy) serveKept(m *memory, kept *httpcache.Cache, ex *exchange, w http.ResponseWriter, r *http.Request) {
	if ex.point == anywhere {
		ex.point = mrand.IntN(points)
	}
	release := ex.route.keptOf(ex.point, ex.preview)
	if release != 0 {
		m.release.Store(int64(release))
	} else {
		release = int(m.release.Load()) // there is none any more: what the last one answered is the best there is
	}
	x := httpcache.Exchange{URI: ex.route.address(r, r.URL.RequestURI()), Release: release,
		Open:  func(spare bool) httpcache.Origin { return p.fetchFor(ex, spare) },
		Begin: func(res httpcache.Result) { p.told(ex, res) },
	}
	if !p.leaving() { // a process that is about to end begins nothing of its own accord
		x.Behind = func(f func()) {
			p.fetches.Add(1)
			go func() {
				defer p.fetches.Add(-1)
				f()
			}()
		}
	}
	kept.Serve(w, r, x)
}

// keptOf is the number of the release that [proxy.choose] would ask, or that it would if it had instances; 0 where there is none.
func (rt *route) keptOf(point int, preview bool) int {
	b := rt.goesTo(point, preview, true)
	if b == nil {
		b = rt.goesTo(point, preview, false)
	}
	if b == nil {
		return 0
	}
	return b.release
}

// address names what a request asks for, in the cache: with all of it that an instance might go by and that is no header of the client's.
func (rt *route) address(r *http.Request, target string) string {
	scheme, via := rt.said(r)
	host := strings.ToLower(r.Host)
	if via != "" {
		host += " " + strings.ToLower(via)
	}
	return cmp.Or(scheme, schemeOf(r)) + "://" + host + target
}

// addressOf is what a Location in the answer to r names, "" for what another host has.
func (rt *route) addressOf(r *http.Request, at string) string {
	u, err := r.URL.Parse(at)
	if err != nil || u.Host != "" && !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, r.Header.Get("X-Forwarded-Host")) {
		return ""
	}
	return rt.address(r, u.RequestURI())
}

// cacheFetch is a request that the cache makes, for one client, for several or for nobody in particular. It has an exchange of its own: an
// instance sees one request, whoever waits for it, and fares by what it answers, whatever clients get in its place.
type cacheFetch struct {
	p  *proxy
	ex *exchange
}

func (p *proxy) fetchFor(ex *exchange, spare bool) *cacheFetch {
	return &cacheFetch{p, &exchange{route: ex.route, start: time.Now(), arrived: ex.start, point: ex.point, preview: ex.preview, apart: true, spare: spare}}
}

// Do implements [httpcache.Origin].
func (f *cacheFetch) Do(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, f.ex))
	cw := &countingWriter{ResponseWriter: w, ex: f.ex, r: r}
	f.p.fetches.Add(1)
	defer func() {
		defer f.p.fetches.Add(-1)
		broken := recover()
		if err, ok := broken.(error); broken != nil && !(ok && errors.Is(err, http.ErrAbortHandler)) {
			f.p.log.Error("panic", "service", f.ex.route.key, "error", broken, "stack", string(debug.Stack())) // as net/http says it where it is the one to see it
		}
		f.ended(cw, r, broken != nil)
		if broken != nil {
			panic(broken)
		}
	}()
	f.p.ask(f.ex, cw, r)
}

// Answered implements [httpcache.Origin].
func (f *cacheFetch) Answered() (int, bool) {
	if !f.ex.gotHead || f.ex.end == nil {
		return 0, false
	}
	return f.ex.end.release.release, true
}

// ended counts the request for its instance. An error that it answered is one, even where nobody waited for the end of it.
func (f *cacheFetch) ended(cw *countingWriter, r *http.Request, broken bool) {
	ex := f.ex
	ex.shadow.answered(ex.status)
	if ex.end == nil {
		return
	}
	o := outcome{status: cw.status, bytes: cw.bytes, took: time.Since(ex.start)}
	switch {
	case !broken && ex.gotHead, ex.gotHead && ex.status >= http.StatusInternalServerError:
	case r.Context().Err() != nil:
		o.aborted = true
	default:
		o.failed = true
	}
	ex.end.judge(ex.route.Guard, o, time.Now())
	ex.end.slot.count(o)
	f.p.stats.end(ex.end.slot)
}

// told notes what a client is about to be answered. An answer out of the cache is none of an instance's: it ends no gap.
func (p *proxy) told(ex *exchange, res httpcache.Result) {
	ex.cache = string(res.How)
	asked, _ := res.Origin.(*cacheFetch)
	if asked != nil {
		from := asked.ex
		ex.by, ex.why, ex.trace, ex.repeated, ex.refused = from.end, from.why, from.trace, from.repeated, from.refused
		if res.How == httpcache.Stale && ex.why == "" && from.gotHead {
			ex.why = strconv.Itoa(from.status) // the client does not see it
		}
	}
	if res.How == httpcache.Failed {
		if asked == nil {
			ex.refused, ex.why = true, "only_if_cached"
		}
		return
	}
	now := time.Now()
	ex.gotHead, ex.status, ex.first = true, res.Status, now.Sub(ex.start)
	if res.How != httpcache.Hit && res.How != httpcache.Stale {
		p.stats.answered(ex.route.stats, now)
		return
	}
	ex.refused = false
	ex.route.stats.cached.Add(1)
	p.stats.gaveUp(ex.route.stats, now, false)
}
