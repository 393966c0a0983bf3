package httpcache

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// service is an origin in memory that notes what it is asked.
type service struct {
	mu      sync.Mutex
	asked   []*http.Request
	answer  http.HandlerFunc
	gone    bool // nobody answers
	release int
}

func (s *service) open(bool) Origin { return &visit{s: s} }

func (s *service) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *service) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

type visit struct {
	s  *service
	ok bool
}

func (v *visit) Do(w http.ResponseWriter, r *http.Request) {
	if v.s.gone {
		http.Error(w, "nobody", http.StatusServiceUnavailable)
		return
	}
	v.ok = true
	v.s.mu.Lock()
	v.s.asked = append(v.s.asked, r)
	v.s.mu.Unlock()
	v.s.answer(w, r)
}

func (v *visit) Answered() (int, bool) { return v.s.release, v.ok }

// shop is a cache before a service.
type shop struct {
	t *testing.T
	c *Cache
	service
}

func newShop(t *testing.T, c Config) *shop {
	if c.Size == 0 {
		c.Size = 8 << 20
	}
	if c.Object == 0 {
		c.Object = 1 << 20
	}
	s := &shop{t: t, c: New(c)}
	s.release = 1
	return s
}

// got is what a client got.
type got struct {
	*httptest.ResponseRecorder
	how     How
	aborted bool
}

// ask sends a request of release 1's. The headers are written as "Name: value".
func (s *shop) ask(method, target string, headers ...string) got {
	r := httptest.NewRequest(method, "http://shop.test"+target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return s.send(r, 1)
}

func (s *shop) send(r *http.Request, release int) (g got) {
	g.ResponseRecorder = httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			g.aborted = true
		}
	}()
	x := Exchange{URI: r.URL.String(), Release: release, Open: s.open, Begin: func(res Result) { g.how = res.How }, Behind: func(f func()) { go f() }}
	if !Takes(r) {
		s.open(false).Do(s.c.Changing(g.ResponseRecorder, x.URI, func(at string) string {
			if u, err := r.URL.Parse(at); err == nil && u.Host == r.URL.Host {
				return u.String()
			}
			return ""
		}), r)
		return g
	}
	s.c.Serve(g.ResponseRecorder, r, x)
	return g
}

// says makes the service answer with headers, a status other than 200 as "Status: 404".
func (s *shop) says(body string, headers ...string) {
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		status := http.StatusOK
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			if name == "Status" {
				fmt.Sscan(value, &status)
				continue
			}
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		if status != http.StatusNoContent && status != http.StatusNotModified {
			w.Write([]byte(body))
		}
	}
}

func (g got) want(t *testing.T, how How, status int, body string) {
	t.Helper()
	if g.how != how || g.Code != status || g.Body.String() != body {
		t.Errorf("%s %d %q (%s), want %s %d %q", g.how, g.Code, g.Body, g.Header().Get("Cache-Status"), how, status, body)
	}
}

// Each case is one answer, and how the next request for it, a while later, is served.
var rules = []struct {
	rule    string
	conf    Config
	first   string   // what stands in the first request, headers separated by |
	answer  []string // headers of the service's
	after   time.Duration
	next    string // what stands in the next request
	want    How
	without bool // the service is gone by then
}{
	// Freshness, RFC 9111 section 4.2.
	{rule: "max-age", answer: []string{"Cache-Control: max-age=60"}, after: 59 * time.Second, want: Hit},
	{rule: "max-age is over", answer: []string{"Cache-Control: max-age=60"}, after: 60 * time.Second, want: Miss},
	{rule: "s-maxage before max-age", answer: []string{"Cache-Control: max-age=60, s-maxage=5"}, after: 10 * time.Second, want: Miss},
	{rule: "s-maxage longer than max-age", answer: []string{"Cache-Control: s-maxage=60, max-age=5"}, after: 10 * time.Second, want: Hit},
	{rule: "max-age before Expires", answer: []string{"Cache-Control: max-age=60", "Expires: 0"}, after: 10 * time.Second, want: Hit},
	{rule: "Expires", answer: []string{"Date: Sat, 01 Jan 2000 00:00:00 GMT", "Expires: Sat, 01 Jan 2000 00:01:00 GMT"}, after: 50 * time.Second, want: Hit},
	{rule: "Expires is over", answer: []string{"Date: Sat, 01 Jan 2000 00:00:00 GMT", "Expires: Sat, 01 Jan 2000 00:01:00 GMT"}, after: 70 * time.Second, want: Miss},
	{rule: "Expires that is no date", answer: []string{"Expires: soon"}, want: Miss},
	{rule: "Expires twice, in two ways", answer: []string{"Expires: Sat, 01 Jan 2000 00:01:00 GMT", "Expires: Sat, 01 Jan 2000 00:02:00 GMT"}, want: Miss},
	{rule: "max-age twice: the lesser", answer: []string{"Cache-Control: max-age=60, max-age=5"}, after: 10 * time.Second, want: Miss},
	{rule: "max-age in quotes", answer: []string{`Cache-Control: max-age="60"`}, after: 10 * time.Second, want: Hit},
	{rule: "max-age that is no number", answer: []string{"Cache-Control: max-age=1e9"}, want: Miss},
	{rule: "max-age beyond counting", answer: []string{"Cache-Control: max-age=99999999999999999999"}, after: 1000 * time.Hour, want: Hit},
	{rule: "in capitals, on two lines", answer: []string{"Cache-Control: Public", "Cache-Control: MAX-AGE = 60"}, after: time.Second, want: Hit},
	{rule: "unknown directives", answer: []string{`Cache-Control: x="a, no-store", y, max-age=60`}, want: Hit},
	// Age, section 4.2.3.
	{rule: "Age counts", answer: []string{"Cache-Control: max-age=60", "Age: 50"}, after: 11 * time.Second, want: Miss},
	{rule: "Age counts, and there is time left", answer: []string{"Cache-Control: max-age=60", "Age: 50"}, after: 9 * time.Second, want: Hit},
	{rule: "an old Date counts as age", answer: []string{"Cache-Control: max-age=60", "Date: Fri, 31 Dec 1999 23:59:00 GMT"}, want: Miss},
	{rule: "a Date to come does not", answer: []string{"Cache-Control: max-age=60", "Date: Sat, 01 Jan 2000 01:00:00 GMT"}, after: 59 * time.Second, want: Hit},
	// What may be kept, section 3.
	{rule: "nothing is said", want: Pass},
	{rule: "nothing is said, with Last-Modified", answer: []string{"Last-Modified: Fri, 31 Dec 1999 00:00:00 GMT"}, want: Pass},
	{rule: "no-store", answer: []string{"Cache-Control: no-store, max-age=60"}, want: Pass},
	{rule: "private", answer: []string{"Cache-Control: private, max-age=60"}, want: Pass},
	{rule: "private for a field counts for all", answer: []string{`Cache-Control: private="X-Name", max-age=60`}, want: Pass},
	{rule: "no-store in the request", first: "Cache-Control: no-store", answer: []string{"Cache-Control: max-age=60"}, want: Miss},
	{rule: "no-cache alone is not kept", answer: []string{"Cache-Control: no-cache"}, want: Pass},
	{rule: "Set-Cookie", answer: []string{"Cache-Control: max-age=60", "Set-Cookie: a=b"}, want: Pass},
	{rule: "Set-Cookie, and public", answer: []string{"Cache-Control: public, max-age=60", "Set-Cookie: a=b"}, want: Hit},
	{rule: "404", answer: []string{"Status: 404", "Cache-Control: max-age=60"}, want: Hit},
	{rule: "301", answer: []string{"Status: 301", "Cache-Control: max-age=60"}, want: Hit},
	{rule: "204", answer: []string{"Status: 204", "Cache-Control: max-age=60"}, want: Hit},
	{rule: "500", answer: []string{"Status: 500", "Cache-Control: max-age=60"}, want: Pass},
	{rule: "206", first: "Range: bytes=0-1", answer: []string{"Status: 206", "Cache-Control: max-age=60", "Content-Range: bytes 0-3/9"}, want: Pass},
	{rule: "a status nobody knows", answer: []string{"Status: 299", "Cache-Control: max-age=60"}, want: Pass},
	// Guessing, section 4.2.2, where it is configured.
	{rule: "guess", conf: Config{Default: 10 * time.Second}, after: 9 * time.Second, want: Hit},
	{rule: "guess is over", conf: Config{Default: 10 * time.Second}, after: 10 * time.Second, want: Miss},
	{rule: "guess a tenth of the time since it changed", conf: Config{Default: time.Hour}, answer: []string{"Last-Modified: Fri, 31 Dec 1999 23:58:20 GMT"}, after: 9 * time.Second, want: Hit},
	{rule: "and not more", conf: Config{Default: time.Hour}, answer: []string{"Last-Modified: Fri, 31 Dec 1999 23:58:20 GMT"}, after: 11 * time.Second, want: Miss},
	{rule: "no guess with a cookie", conf: Config{Default: time.Hour}, first: "Cookie: a=b", next: "Cookie: a=b", want: Pass},
	{rule: "no guess with Set-Cookie", conf: Config{Default: time.Hour}, answer: []string{"Set-Cookie: a=b"}, want: Pass},
	{rule: "no guess with Authorization", conf: Config{Default: time.Hour}, first: "Authorization: x", next: "Authorization: x", want: Pass},
	{rule: "no guess for 302", conf: Config{Default: time.Hour}, answer: []string{"Status: 302"}, want: Pass},
	{rule: "no guess for no-cache", conf: Config{Default: time.Hour}, answer: []string{"Cache-Control: no-cache"}, want: Pass},
	// Authorization, section 3.5.
	{rule: "Authorization", first: "Authorization: x", answer: []string{"Cache-Control: max-age=60"}, next: "Authorization: x", want: Pass},
	{rule: "Authorization and public", first: "Authorization: x", answer: []string{"Cache-Control: public, max-age=60"}, next: "Authorization: y", want: Hit},
	{rule: "Authorization and s-maxage", first: "Authorization: x", answer: []string{"Cache-Control: s-maxage=60"}, next: "Authorization: y", want: Hit},
	{rule: "Authorization and must-revalidate", first: "Authorization: x", answer: []string{"Cache-Control: max-age=60, must-revalidate"}, next: "Authorization: y", want: Hit},
	// Vary, section 4.1.
	{rule: "Vary, the same", first: "Accept-Language: de", answer: []string{"Cache-Control: max-age=60", "Vary: Accept-Language"}, next: "Accept-Language: de", want: Hit},
	{rule: "Vary, another", first: "Accept-Language: de", answer: []string{"Cache-Control: max-age=60", "Vary: accept-language"}, next: "Accept-Language: en", want: Miss},
	{rule: "Vary, none", first: "Accept-Language: de", answer: []string{"Cache-Control: max-age=60", "Vary: Accept-Language"}, want: Miss},
	{rule: "Vary, written differently", first: "Accept-Language: de,en", answer: []string{"Cache-Control: max-age=60", "Vary: Accept-Language"}, next: "Accept-Language: de|Accept-Language: en", want: Hit},
	{rule: "Vary, one of two differs", first: "A: 1|B: 1", answer: []string{"Cache-Control: max-age=60", "Vary: A", "Vary: B"}, next: "A: 1|B: 2", want: Miss},
	{rule: "Vary, something else differs", first: "A: 1|C: 1", answer: []string{"Cache-Control: max-age=60", "Vary: A, B"}, next: "A: 1|C: 2", want: Hit},
	{rule: "Vary: *", answer: []string{"Cache-Control: max-age=60", "Vary: *"}, want: Pass},
	{rule: "Vary by what the edge makes", answer: []string{"Cache-Control: max-age=60", "Vary: X-Forwarded-For"}, want: Pass},
	// What a request asks, section 5.2.1.
	{rule: "request no-cache", answer: []string{"Cache-Control: max-age=60"}, next: "Cache-Control: no-cache", want: Miss},
	{rule: "request Pragma", answer: []string{"Cache-Control: max-age=60"}, next: "Pragma: no-cache", want: Miss},
	{rule: "Pragma does not count beside Cache-Control", answer: []string{"Cache-Control: max-age=60"}, next: "Pragma: no-cache|Cache-Control: max-age=60", want: Hit},
	{rule: "request max-age", answer: []string{"Cache-Control: max-age=60"}, after: 10 * time.Second, next: "Cache-Control: max-age=5", want: Miss},
	{rule: "request max-age, young enough", answer: []string{"Cache-Control: max-age=60"}, after: 5 * time.Second, next: "Cache-Control: max-age=5", want: Hit},
	{rule: "request min-fresh", answer: []string{"Cache-Control: max-age=60"}, after: 10 * time.Second, next: "Cache-Control: min-fresh=55", want: Miss},
	{rule: "request min-fresh, fresh enough", answer: []string{"Cache-Control: max-age=60"}, after: 10 * time.Second, next: "Cache-Control: min-fresh=45", want: Hit},
	{rule: "request max-stale", answer: []string{"Cache-Control: max-age=60"}, after: 70 * time.Second, next: "Cache-Control: max-stale=20", want: Stale},
	{rule: "request max-stale, too stale", answer: []string{"Cache-Control: max-age=60"}, after: 90 * time.Second, next: "Cache-Control: max-stale=20", want: Miss},
	{rule: "request max-stale without a number", answer: []string{"Cache-Control: max-age=60"}, after: 90 * time.Minute, next: "Cache-Control: max-stale", want: Stale},
	{rule: "max-stale, but must-revalidate", answer: []string{"Cache-Control: max-age=60, must-revalidate"}, after: 70 * time.Second, next: "Cache-Control: max-stale", want: Miss},
	{rule: "max-stale, but s-maxage", answer: []string{"Cache-Control: s-maxage=60"}, after: 70 * time.Second, next: "Cache-Control: max-stale", want: Miss},
	{rule: "only-if-cached", answer: []string{"Cache-Control: max-age=60"}, next: "Cache-Control: only-if-cached", want: Hit},
	{rule: "only-if-cached, and nothing is", answer: []string{"Cache-Control: no-store"}, next: "Cache-Control: only-if-cached", want: Failed},
	{rule: "request no-store takes what is there", answer: []string{"Cache-Control: max-age=60"}, next: "Cache-Control: no-store", want: Hit},
	// While another one is fetched, RFC 5861 section 3.
	{rule: "stale-while-revalidate", answer: []string{"Cache-Control: max-age=60, stale-while-revalidate=30"}, after: 80 * time.Second, want: Stale},
	{rule: "stale-while-revalidate is over", answer: []string{"Cache-Control: max-age=60, stale-while-revalidate=30"}, after: 91 * time.Second, want: Miss},
	{rule: "stale-while-revalidate, but must-revalidate", answer: []string{"Cache-Control: max-age=60, stale-while-revalidate=30, must-revalidate"}, after: 80 * time.Second, want: Miss},
	{rule: "stale-while-revalidate, but the client wants it fresh", answer: []string{"Cache-Control: max-age=60, stale-while-revalidate=30"}, after: 80 * time.Second, next: "Cache-Control: max-age=70", want: Miss},
	// Where nobody answers, RFC 5861 section 4 and RFC 9111 section 4.2.4.
	{rule: "stale-if-error", answer: []string{"Cache-Control: max-age=60, stale-if-error=60"}, after: 110 * time.Second, without: true, want: Stale},
	{rule: "stale-if-error is over", answer: []string{"Cache-Control: max-age=60, stale-if-error=60"}, after: 130 * time.Second, without: true, want: Failed},
	{rule: "stale-if-error as configured", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60"}, after: time.Hour, without: true, want: Stale},
	{rule: "and not longer", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60"}, after: 62 * time.Minute, without: true, want: Failed},
	{rule: "the answer's own word counts before that", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60, stale-if-error=0"}, after: 70 * time.Second, without: true, want: Failed},
	{rule: "the client may want less", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60"}, after: 70 * time.Second, next: "Cache-Control: stale-if-error=5", without: true, want: Failed},
	{rule: "stale-if-error, but must-revalidate", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60, must-revalidate"}, after: 70 * time.Second, without: true, want: Failed},
	{rule: "stale-if-error, but proxy-revalidate", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60, proxy-revalidate"}, after: 70 * time.Second, without: true, want: Failed},
	{rule: "stale-if-error, but no-cache", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60, no-cache"}, without: true, want: Failed},
	{rule: "stale-if-error, but s-maxage", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: s-maxage=60"}, after: 70 * time.Second, without: true, want: Failed},
	{rule: "s-maxage with a word of its own", answer: []string{"Cache-Control: s-maxage=60, stale-if-error=60"}, after: 70 * time.Second, without: true, want: Stale},
	{rule: "fresh, and nobody is there", answer: []string{"Cache-Control: max-age=60"}, after: time.Second, without: true, want: Hit},
	{rule: "a reload, and nobody is there", conf: Config{StaleIfError: time.Hour}, answer: []string{"Cache-Control: max-age=60"}, next: "Cache-Control: no-cache", without: true, want: Stale},
	{rule: "an error is not kept for that", conf: Config{StaleIfError: time.Hour}, answer: []string{"Status: 502", "Cache-Control: max-age=60"}, without: true, want: Failed},
}

func TestRules(t *testing.T) {
	split := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, "|")
	}
	for _, c := range rules {
		t.Run(c.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShop(t, c.conf)
				s.says("body", c.answer...)
				s.ask(http.MethodGet, "/", split(c.first)...)
				synctest.Wait()
				time.Sleep(c.after)
				s.gone = c.without
				if g := s.ask(http.MethodGet, "/", split(c.next)...); g.how != c.want {
					t.Errorf("%s: %d %q, want %s", g.how, g.Code, g.Header().Get("Cache-Status"), c.want)
				}
				synctest.Wait()
				if used, n := s.c.Used(); used < 0 || n == 0 && used != 0 {
					t.Errorf("%d bytes are taken by %d answers", used, n)
				}
			})
		})
	}
	if len(rules) < 80 {
		t.Errorf("only %d rules", len(rules))
	}
}
