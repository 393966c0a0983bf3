package httpcache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHeadersOfAHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("body", "Cache-Control: max-age=60", "Age: 5", "Cache-Status: inner; hit", "Content-Type: text/plain")
		first := s.ask("GET", "/a?b")
		synctest.Wait()
		first.want(t, Miss, 200, "body")
		if got := first.Header().Values("Cache-Status"); len(got) != 2 || got[1] != "fairlead; fwd=uri-miss; stored" {
			t.Errorf("%q", got)
		}
		time.Sleep(10 * time.Second)
		g := s.ask("GET", "/a?b")
		g.want(t, Hit, 200, "body")
		for name, want := range map[string]string{"Age": "15", "Content-Length": "4", "Content-Type": "text/plain", "Date": "Sat, 01 Jan 2000 00:00:00 GMT"} {
			if got := g.Header().Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := g.Header().Values("Cache-Status"); len(got) != 2 || got[0] != "inner; hit" || got[1] != "fairlead; hit; ttl=45" {
			t.Errorf("%q", got)
		}
		s.ask("GET", "/a").want(t, Miss, 200, "body") // another address
		synctest.Wait()
		if g := s.ask("HEAD", "/a?b"); g.how != Hit || g.Body.Len() != 0 || g.Header().Get("Content-Length") != "4" {
			t.Errorf("HEAD: %s %q %v", g.how, g.Body, g.Header())
		}
		if g := s.ask("HEAD", "/other"); g.how != Pass {
			t.Errorf("HEAD of what is not kept: %s", g.how)
		}
		s.ask("GET", "/other").want(t, Miss, 200, "body")
	})
}

// What a client has already it does not get again, whoever says so.
func TestNotModified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("body", "Cache-Control: max-age=60", `Etag: "a"`, "Last-Modified: Fri, 31 Dec 1999 00:00:00 GMT", "Content-Type: text/plain")
		for i, c := range []struct {
			header string
			status int
		}{
			{`If-None-Match: "a"`, 304}, {`If-None-Match: W/"a"`, 304}, {`If-None-Match: "b", "a"`, 304}, {`If-None-Match: *`, 304},
			{`If-None-Match: "b"`, 200}, {`If-None-Match: "aa"`, 200}, {`If-None-Match: a`, 200}, {`If-None-Match: "a`, 200},
			{"If-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT", 304}, {"If-Modified-Since: Thu, 30 Dec 1999 00:00:00 GMT", 200},
			{"If-Modified-Since: yesterday", 200},
		} {
			for _, how := range []How{Miss, Hit} {
				g := s.ask("GET", fmt.Sprint("/", i), c.header)
				synctest.Wait()
				if g.how != how || g.Code != c.status {
					t.Errorf("%s: %s %d", c.header, g.how, g.Code)
				}
				if g.Code == 304 && (g.Body.Len() > 0 || g.Header().Get("Content-Type") != "" || g.Header().Get("Etag") != `"a"`) {
					t.Errorf("%s: %v %q", c.header, g.Header(), g.Body)
				}
			}
			if s.last().Header.Get("If-None-Match")+s.last().Header.Get("If-Modified-Since") != "" {
				t.Error("the service was asked whether the client has it: then it cannot be kept")
			}
		}
		// What cannot be kept is asked with the client's own conditions, from the second time on.
		s.says("body", "Cache-Control: private", `Etag: "a"`)
		s.ask("GET", "/mine", `If-None-Match: "a"`).want(t, Pass, 304, "")
		synctest.Wait()
		s.says("", "Status: 304", `Etag: "a"`)
		s.ask("GET", "/mine", `If-None-Match: "a"`).want(t, Pass, 304, "")
		if s.last().Header.Get("If-None-Match") != `"a"` {
			t.Error("the client's condition is gone")
		}
	})
}

func TestValidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("one", "Cache-Control: max-age=60", `Etag: "a"`, "Last-Modified: Fri, 31 Dec 1999 00:00:00 GMT", "X-Old: 1", "X-Both: 1", "Content-Type: text/plain")
		s.ask("GET", "/")
		synctest.Wait()
		time.Sleep(61 * time.Second)
		s.says("", "Status: 304", "Cache-Control: max-age=30", `Etag: "a"`, "X-Both: 2", "Content-Type: text/html", "Set-Cookie: a=b")
		g := s.ask("GET", "/", `If-None-Match: "mine"`)
		synctest.Wait()
		g.want(t, Revalidated, 200, "one")
		if h := s.last().Header; h.Get("If-None-Match") != `"a"` || h.Get("If-Modified-Since") != "Fri, 31 Dec 1999 00:00:00 GMT" {
			t.Errorf("asked with %v", h)
		}
		if h := g.Header(); h.Get("X-Old") != "1" || h.Get("X-Both") != "2" || h.Get("Content-Type") != "text/plain" || h.Get("Set-Cookie") != "" || h.Get("Age") != "0" {
			t.Errorf("%v", h)
		}
		time.Sleep(29 * time.Second)
		s.ask("GET", "/").want(t, Hit, 200, "one")
		time.Sleep(2 * time.Second)
		s.ask("GET", "/", `If-None-Match: "a"`).want(t, Revalidated, 304, "")
		synctest.Wait()

		time.Sleep(31 * time.Second)
		s.says("two", "Cache-Control: max-age=60", `Etag: "b"`)
		s.ask("GET", "/").want(t, Miss, 200, "two")
		synctest.Wait()
		s.ask("GET", "/").want(t, Hit, 200, "two")

		// no-cache asks each time, and needs no body for that.
		s.says("three", "Cache-Control: no-cache, max-age=60", `Etag: "c"`)
		s.ask("GET", "/each").want(t, Miss, 200, "three")
		synctest.Wait()
		s.says("", "Status: 304")
		for range 3 {
			s.ask("GET", "/each").want(t, Revalidated, 200, "three")
			synctest.Wait()
		}
		// A 304 that speaks of something else is of no use: it is asked again, without conditions.
		n := s.times()
		s.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") != "" {
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(http.StatusNotModified)
				return
			}
			w.Write([]byte("four"))
		}
		s.ask("GET", "/each").want(t, Pass, 200, "four")
		if s.times() != n+2 {
			t.Errorf("asked %d times", s.times()-n)
		}
		// One that says that it is not to be kept any more is not.
		s.says("five", "Cache-Control: max-age=0", `Etag: "d"`)
		s.ask("GET", "/gone")
		synctest.Wait()
		s.says("", "Status: 304", "Cache-Control: no-store")
		s.ask("GET", "/gone").want(t, Revalidated, 200, "five")
		synctest.Wait()
		if e, _ := s.c.kept.find("http://shop.test/gone", 1, http.Header{}); e != nil {
			t.Error("it is kept")
		}
	})
}

func TestInvalidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		fill := func() {
			s.says("old", "Cache-Control: max-age=600")
			for _, at := range []string{"/", "/a", "/b", "/c"} {
				s.ask("GET", at)
			}
			synctest.Wait()
		}
		fill()
		s.says("", "Status: 201", "Location: /a", "Content-Location: http://shop.test/b", "Cache-Control: max-age=600")
		s.ask("POST", "/")
		s.says("new", "Cache-Control: max-age=600")
		for at, want := range map[string]How{"/": Miss, "/a": Miss, "/b": Miss, "/c": Hit} {
			if g := s.ask("GET", at); g.how != want {
				t.Errorf("%s: %s, want %s", at, g.how, want)
			}
		}
		synctest.Wait()
		for method, want := range map[string]How{"PUT": Miss, "DELETE": Miss, "PATCH": Miss, "X-OWN": Miss} {
			fill()
			s.ask(method, "/c")
			if g := s.ask("GET", "/c"); g.how != want {
				t.Errorf("after %s: %s", method, g.how)
			}
			synctest.Wait()
		}
		s.says("no", "Status: 409", "Location: http://shop.test/c")
		s.ask("POST", "/c")
		s.says("", "Location: http://other.test/c")
		s.ask("POST", "/")
		s.ask("GET", "/c").want(t, Hit, 200, "old")

		// What was asked before the change, and comes after it, is not kept.
		begun, go_on := make(chan bool), make(chan bool)
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			close(begun)
			<-go_on
			w.Header().Set("Cache-Control", "max-age=600")
			w.Write([]byte("old"))
		}
		done := make(chan bool)
		go func() {
			s.ask("GET", "/race").want(t, Miss, 200, "old")
			close(done)
		}()
		<-begun
		s.says("")
		s.ask("PUT", "/race")
		s.says("new", "Cache-Control: max-age=600")
		close(go_on)
		<-done
		synctest.Wait()
		s.ask("GET", "/race").want(t, Miss, 200, "new")
	})
}

func TestRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("0123456789", "Cache-Control: max-age=60", `Etag: "a"`)
		s.ask("GET", "/")
		synctest.Wait()
		s.ask("GET", "/", "Range: bytes=2-4").want(t, Hit, 206, "234")
		s.ask("GET", "/", "Range: bytes=2-4", `If-Range: "a"`).want(t, Hit, 206, "234")
		s.ask("GET", "/", "Range: bytes=2-4", `If-Range: "b"`).want(t, Hit, 200, "0123456789")
		if g := s.ask("GET", "/", "Range: bytes=20-"); g.Code != 416 {
			t.Error(g.Code)
		}
		s.says("23", "Status: 206", "Cache-Control: max-age=60", "Content-Range: bytes 2-3/10")
		s.ask("GET", "/part", "Range: bytes=2-3", `If-Range: "a"`).want(t, Pass, 206, "23")
		if h := s.last().Header; h.Get("Range") == "" || h.Get("If-Range") == "" {
			t.Errorf("asked with %v", h)
		}
		s.says("all", "Cache-Control: max-age=60")
		s.ask("GET", "/part").want(t, Miss, 200, "all")
	})
}

// An error of the service's is not seen where something is kept; another's request shares in that.
func TestStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{StaleIfError: time.Hour})
		s.says("good", "Cache-Control: max-age=1", `Etag: "a"`)
		s.ask("GET", "/")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for _, code := range []int{500, 502, 503, 504} {
			s.says("bad", "Status: "+strconv.Itoa(code))
			g := s.ask("GET", "/")
			g.want(t, Stale, 200, "good")
			if got, want := g.Header().Get("Cache-Status"), "fairlead; fwd=stale; fwd-status="+strconv.Itoa(code)+"; ttl=-1; detail=stale-if-error"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			synctest.Wait()
			s.ask("GET", "/other").want(t, Pass, code, "bad")
			s.ask("HEAD", "/").want(t, Stale, 200, "")
			synctest.Wait()
		}
		s.says("", "Status: 501")
		s.ask("GET", "/").want(t, Pass, 501, "")
		synctest.Wait()
		s.gone = true
		s.ask("GET", "/", "Range: bytes=1-2").want(t, Stale, 206, "oo")
		s.ask("GET", "/").want(t, Stale, 200, "good")
		s.ask("GET", "/other").want(t, Failed, 503, "nobody\n")
		s.gone = false
		s.says("new", "Cache-Control: max-age=1")
		s.ask("GET", "/").want(t, Miss, 200, "new")
	})
}

// A client of one release sees nothing of another one's, whoever is kept; but where that is wanted, everything.
func TestReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, across := range []bool{false, true} {
			s := newShop(t, Config{Across: across})
			ask := func(release int) got {
				s.release = release
				s.says(fmt.Sprint("of ", release), "Cache-Control: max-age=60")
				g := s.send(httptest.NewRequest(http.MethodGet, "http://shop.test/", nil), release)
				synctest.Wait()
				return g
			}
			ask(1).want(t, Miss, 200, "of 1")
			if across {
				ask(2).want(t, Hit, 200, "of 1")
				s.c.Retain(func(int) bool { return false })
				ask(3).want(t, Hit, 200, "of 1")
				continue
			}
			ask(2).want(t, Miss, 200, "of 2")
			ask(1).want(t, Hit, 200, "of 1")
			s.c.Retain(func(r int) bool { return r == 2 })
			ask(2).want(t, Hit, 200, "of 2")
			ask(1).want(t, Miss, 200, "of 1")
		}
	})
}

// While what is stale is served, one request fetches what is new.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("old", "Cache-Control: max-age=1, stale-while-revalidate=60")
		s.ask("GET", "/")
		synctest.Wait()
		time.Sleep(10 * time.Second)
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Write([]byte("new"))
		}
		for range 5 {
			s.ask("GET", "/").want(t, Stale, 200, "old")
		}
		time.Sleep(2 * time.Second)
		s.ask("GET", "/").want(t, Hit, 200, "new")
		if s.times() != 2 {
			t.Errorf("asked %d times", s.times())
		}
		// One that is too long now is not waited for, and not kept.
		s.says("short", "Cache-Control: max-age=0, stale-while-revalidate=60")
		s.ask("GET", "/long")
		synctest.Wait()
		for _, length := range []string{"X-Length: ?", "Content-Length: 2000000"} {
			s.says(strings.Repeat("x", 2_000_000), "Cache-Control: max-age=60", length)
			s.ask("GET", "/long").want(t, Stale, 200, "short")
			synctest.Wait()
			if len(s.c.all) != 0 {
				t.Errorf("%s: %d are under way", length, len(s.c.all))
			}
		}
		// One that never answers is given up, and what is kept stays.
		s.says("old", "Cache-Control: max-age=1, stale-while-revalidate=600")
		s.ask("GET", "/slow")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		s.answer = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		s.ask("GET", "/slow").want(t, Stale, 200, "old")
		time.Sleep(renewTime + time.Second)
		s.ask("GET", "/slow").want(t, Stale, 200, "old")
		time.Sleep(renewTime + time.Second)
	})
}

// Many who want the same ask once, and all get it; while it is not known whether it can be kept they wait, but not for long.
func TestCollapse(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		wait    time.Duration // until the answer begins
		then    time.Duration // until its body ends
		asked   int           // once it is over
		took    time.Duration // by all but the one who asked
	}{
		"kept":                      {[]string{"Cache-Control: max-age=60"}, time.Second, time.Second, 1, 2 * time.Second},
		"kept, of known length":     {[]string{"Cache-Control: max-age=60", "Content-Length: 8"}, time.Second, time.Second, 1, 2 * time.Second},
		"not kept":                  {[]string{"Cache-Control: private"}, time.Second, time.Second, 100, 3 * time.Second},
		"too slow to be waited for": {[]string{"Cache-Control: max-age=60"}, 10 * time.Second, 0, 100, collapseTime + 10*time.Second},
		"for each another":          {[]string{"Cache-Control: max-age=60", "Vary: X-Client"}, time.Second, 0, 100, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShop(t, Config{})
				s.answer = func(w http.ResponseWriter, _ *http.Request) {
					time.Sleep(c.wait)
					for _, h := range c.headers {
						name, value, _ := strings.Cut(h, ": ")
						w.Header().Set(name, value)
					}
					w.Write([]byte("half"))
					time.Sleep(c.then)
					w.Write([]byte("half"))
				}
				var all sync.WaitGroup
				for i := range 100 {
					all.Go(func() {
						start := time.Now()
						g := s.ask("GET", "/", fmt.Sprint("X-Client: ", i))
						if g.Code != 200 || g.Body.String() != "halfhalf" {
							t.Errorf("%d %q", g.Code, g.Body)
						}
						if took := time.Since(start); took != c.took && took != c.wait+c.then {
							t.Errorf("took %s", took)
						}
					})
				}
				all.Wait()
				if s.times() != c.asked {
					t.Errorf("asked %d times, want %d", s.times(), c.asked)
				}
			})
		})
	}
}

// Nobody waits for an address again whose answers are not kept.
func TestNobodyWaitsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		s.says("mine", "Cache-Control: private")
		s.ask("GET", "/")
		synctest.Wait()
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.Write([]byte("mine"))
		}
		start := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { s.ask("GET", "/").want(t, Pass, 200, "mine") })
		}
		all.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s", took)
		}
		s.says("ours", "Cache-Control: max-age=60")
		s.ask("GET", "/").want(t, Miss, 200, "ours")
		synctest.Wait()
		s.ask("GET", "/").want(t, Hit, 200, "ours")
	})
}

// One who goes away takes nobody with it, and the last one who does ends the request.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		ended := 0
		s.answer = func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(3 * time.Second):
				w.Header().Set("Cache-Control", "max-age=60")
				w.Write([]byte("body"))
			case <-r.Context().Done():
				ended++
				panic(http.ErrAbortHandler)
			}
		}
		ask := func(patience time.Duration) got {
			r := httptest.NewRequest(http.MethodGet, "http://shop.test/", nil)
			ctx, cancel := contextWithTimeout(patience)
			defer cancel()
			return s.send(r.WithContext(ctx), 1)
		}
		var all sync.WaitGroup
		all.Go(func() {
			if g := ask(time.Second); !g.aborted {
				t.Errorf("%d", g.Code)
			}
		})
		synctest.Wait()
		all.Go(func() { ask(time.Minute).want(t, Miss, 200, "body") })
		all.Wait()
		if s.times() != 1 || ended != 0 {
			t.Errorf("asked %d times, %d ended", s.times(), ended)
		}
		s.c.Invalidate("http://shop.test/")
		all.Go(func() { ask(time.Second) })
		synctest.Wait()
		all.Go(func() { ask(time.Second) })
		all.Wait()
		synctest.Wait()
		if s.times() != 2 || ended != 1 {
			t.Errorf("asked %d times, %d ended", s.times(), ended)
		}
	})
}

// What breaks off is not kept, and all see it; what is too long is handed on whole to who asked, and by itself to everybody else.
func TestBrokenAndTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{Object: 100_000})
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Write([]byte("half"))
			panic(http.ErrAbortHandler)
		}
		for range 2 {
			if g := s.ask("GET", "/broken"); !g.aborted {
				t.Errorf("%d %q", g.Code, g.Body)
			}
			synctest.Wait()
		}
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("half"))
		}
		if g := s.ask("GET", "/short"); !g.aborted {
			t.Errorf("%d %q", g.Code, g.Body)
		}
		synctest.Wait()
		long := bytes.Repeat([]byte("0123456789"), 50_000)
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			for part := range bytes.SplitSeq(long, []byte("9")) {
				w.Write(part)
			}
		}
		want := strings.ReplaceAll(string(long), "9", "")
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if g := s.ask("GET", "/long"); g.Body.String() != want {
					t.Errorf("%d of %d bytes", g.Body.Len(), len(want))
				}
			})
		}
		all.Wait()
		synctest.Wait()
		s.says(string(long), "Cache-Control: max-age=60", "Content-Length: "+strconv.Itoa(len(long)))
		if g := s.ask("GET", "/known"); g.how != Pass || g.Body.Len() != len(long) {
			t.Errorf("%s: %d bytes", g.how, g.Body.Len())
		}
		synctest.Wait()
		if used, n := s.c.Used(); used != 0 || n != 0 {
			t.Errorf("%d bytes are taken by %d answers", used, n)
		}
	})
}

// backwards is a writer that sends bodies backwards.
type backwards struct {
	*httptest.ResponseRecorder
	made *int
}

func (b backwards) Coding(_, length int) string {
	if length < 5 {
		return ""
	}
	return "backwards"
}

func (b backwards) Code(body []byte) []byte {
	*b.made++
	out := slices.Clone(body)
	slices.Reverse(out)
	return out
}

func (b backwards) WriteCoded(status int, coded []byte) error {
	b.WriteHeader(status)
	_, err := b.ResponseRecorder.Write(coded)
	return err
}

// What is kept is coded once, also when it was found to hold still, and counts with its coded form.
func TestCoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, Config{})
		made := 0
		ask := func(want string) {
			t.Helper()
			w := backwards{httptest.NewRecorder(), &made}
			r := httptest.NewRequest(http.MethodGet, "http://shop.test/", nil)
			s.c.Serve(w, r, Exchange{URI: r.URL.String(), Release: 1, Open: s.open, Begin: func(Result) {}})
			if got := w.Body.String(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			synctest.Wait()
		}
		s.says("123456", "Cache-Control: max-age=1", `Etag: "a"`)
		ask("123456") // it comes while it goes
		before, _ := s.c.Used()
		ask("654321")
		ask("654321")
		if after, _ := s.c.Used(); made != 1 || after <= before {
			t.Errorf("made %d times; %d bytes, and then %d", made, before, after)
		}
		time.Sleep(2 * time.Second)
		s.says("", "Status: 304", "Cache-Control: max-age=1")
		ask("654321")
		ask("654321")
		if made != 1 {
			t.Errorf("made %d times", made)
		}
		s.c.Invalidate("http://shop.test/")
		if after, n := s.c.Used(); after != 0 || n != 0 {
			t.Errorf("%d bytes are taken by %d answers", after, n)
		}
		s.says("1234", "Cache-Control: max-age=1")
		ask("1234")
		ask("1234")
	})
}

// However it is used, a cache holds no more than it may, and what was asked for lately.
func TestSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 256 << 10
		s := newShop(t, Config{Size: size, Object: 64 << 10})
		s.answer = func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			w.Header().Set("Cache-Control", "max-age=600")
			w.Header().Set("Vary", "X-Client")
			for range n / 1000 {
				w.Write(make([]byte, 1000))
			}
		}
		check := func() {
			if used, n := s.c.Used(); used < 0 || used > size || n == 0 && used > 0 {
				t.Fatalf("%d bytes are taken by %d answers", used, n)
			}
		}
		var all sync.WaitGroup
		for i := range 600 {
			all.Go(func() {
				n := rand.IntN(80) * 1000
				if g := s.ask("GET", fmt.Sprint("/?n=", n), fmt.Sprint("X-Client: ", rand.IntN(100))); g.Body.Len() != n {
					t.Errorf("%d bytes, want %d", g.Body.Len(), n)
				}
			})
			if i%20 == 0 {
				s.c.Invalidate(fmt.Sprint("http://shop.test/?n=", rand.IntN(80)*1000))
				all.Wait()
				synctest.Wait()
				check()
			}
		}
		all.Wait()
		synctest.Wait()
		check()
		s.ask("GET", "/?n=5000&hot")
		synctest.Wait()
		for i := range 300 {
			s.ask("GET", fmt.Sprint("/?n=5000&i=", i))
			synctest.Wait()
			if g := s.ask("GET", "/?n=5000&hot"); g.how != Hit {
				t.Fatalf("%s after %d others", g.how, i)
			}
		}
		s.c.Follow(Config{Size: 1 << 10, Object: 1 << 10})
		if used, n := s.c.Used(); used != 0 || n != 0 {
			t.Errorf("%d bytes are taken by %d answers", used, n)
		}
	})
}
