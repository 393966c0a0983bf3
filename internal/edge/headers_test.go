//go:build unix

package edge

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// seen starts a rig whose instance hands every request it gets to the test.
func seen(t *testing.T) (*rig, chan *http.Request) {
	ch := make(chan *http.Request, 10)
	return newRig(t, func(_ http.ResponseWriter, r *http.Request) { ch <- r }), ch
}

func TestForwardedHeaders(t *testing.T) {
	g, ch := seen(t)
	for _, forged := range []bool{false, true} {
		r := request(t, http.MethodGet, g.url(), nil)
		r.Host = "Shop.example.com:81"
		if forged {
			r.Header = http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Host": {"evil"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {"for=6.6.6.6"}}
		}
		do(t, client(t), r)
		got := receive(t, ch)
		want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"Shop.example.com:81"}, "X-Forwarded-Proto": {"http"}, "Forwarded": nil}
		for k, v := range want {
			if strings.Join(got.Header[k], "|") != strings.Join(v, "|") {
				t.Errorf("forged %v: %s is %q, want %q", forged, k, got.Header[k], v)
			}
		}
		if got.Host != "Shop.example.com:81" {
			t.Errorf("the Host became %q", got.Host)
		}
	}
}

func TestTrace(t *testing.T) {
	g, ch := seen(t)
	form := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`)
	ids := map[string]bool{}
	for range 3 {
		get(t, client(t), g.url())
		id := receive(t, ch).Header.Get("Traceparent")
		if !form.MatchString(id) || ids[id] {
			t.Errorf("begun: %q", id)
		}
		ids[id] = true
	}
	const id = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header.Set("Traceparent", id)
	r.Header.Set("Tracestate", "a=b")
	do(t, client(t), r)
	if got := receive(t, ch); got.Header.Get("Traceparent") != id || got.Header.Get("Tracestate") != "a=b" {
		t.Errorf("continued: %v", got.Header)
	}
	c := dialRaw(t, g.addr())
	c.send("GET / HTTP/1.1\r\nHost: a\r\nTraceparent: " + id + "\r\nConnection: traceparent\r\n\r\n")
	if got := receive(t, ch).Header.Get("Traceparent"); got == "" || got == id {
		t.Errorf("a client that takes its trace back leaves none: %q", got)
	}
}

func TestHopByHopHeaders(t *testing.T) {
	ch := make(chan *http.Request, 1)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		ch <- r
		w.Header().Set("Connection", "X-Inner")
		w.Header().Set("X-Inner", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Kept", "1")
	})
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header = http.Header{"Connection": {"X-Secret"}, "X-Secret": {"1"}, "Keep-Alive": {"1"}, "Proxy-Connection": {"keep-alive"},
		"Proxy-Authorization": {"x"}, "Te": {"gzip"}, "X-Kept": {"1"}, "Authorization": {"yes"}}
	res, _ := do(t, client(t), r)
	got := receive(t, ch)
	for _, k := range []string{"X-Secret", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Connection"} {
		if v, ok := got.Header[k]; ok {
			t.Errorf("%s: %q reached the instance", k, v)
		}
	}
	if got.Header.Get("X-Kept") != "1" || got.Header.Get("Authorization") != "yes" || res.Header.Get("X-Kept") != "1" {
		t.Error("a header that is not of the hop was lost")
	}
	if _, ok := got.Header["User-Agent"]; ok && got.Header.Get("User-Agent") == "" {
		t.Error("an empty User-Agent was made up")
	}
	if res.Header.Get("X-Inner") != "" || res.Header.Get("Keep-Alive") != "" {
		t.Errorf("the answer's: %v", res.Header)
	}
}

func TestTargetByteForByte(t *testing.T) {
	rec := newRecorder(t)
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(rec.addr))
	for _, target := range []string{
		"/", "/a/b", "/a%2Fb", "/a%2fb", "/a;b=c/d", "/%2e%2e/x", "/a/../b", "/./a//b", "//a", "/a?", "/a?b", "/a?b=1;c=2", "/a?z=1&a=2",
		"/a?%zz", "/a?%", "/a?b=%2F%3f", "/a?b=c d", "/caf%C3%A9", "/a+b?c+d", "/a:b@c", "/$&'()*,=~!", "/[x]", "/%00", "/a%20b", "/a%3Fb%23c",
	} {
		if strings.Contains(target, " ") {
			continue // three words are no request line
		}
		c := dialRaw(t, g.addr())
		c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
		if res := c.response("GET"); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", target, res.Status)
			continue
		}
		if line, _, _ := strings.Cut(receive(t, rec.heads), "\r\n"); line != "GET "+target+" HTTP/1.1" {
			t.Errorf("%s came as %s", target, line)
		}
	}
}

// What two servers may read differently must be refused or reach the instance in only one reading.
func TestSmuggling(t *testing.T) {
	rec := newRecorder(t)
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(rec.addr))
	const post = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, c := range []struct {
		name, request string
		refused       bool
		want, not     string // in the head that arrives
	}{
		{"CL and TE", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", true, "", ""},
		{"TE and CL", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", true, "", ""},
		{"CL and TE by LF", "POST / HTTP/1.1\nHost: a\nContent-Length: 6\nTransfer-Encoding: chunked\n\n0\r\n\r\nX", true, "", ""},
		{"CL and TE far apart", post + "Content-Length: 6\r\nX-A: " + strings.Repeat("a", 9000) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", true, "", ""},
		{"TE of HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, "", ""},
		{"TE alone", post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, "Transfer-Encoding: chunked\r\n", "Content-Length"},
		{"CL as a value", post + "X-A: Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, "Transfer-Encoding: chunked\r\n", "\r\nContent-Length"},
		{"two lengths", post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", true, "", ""},
		{"the same length twice", post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nxy", false, "Content-Length: 2\r\n", "Transfer-Encoding"},
		{"a list of lengths", post + "Content-Length: 2, 2\r\n\r\nxy", true, "", ""},
		{"a signed length", post + "Content-Length: +2\r\n\r\nxy", true, "", ""},
		{"bare LF", "POST / HTTP/1.1\nHost: a\nContent-Length: 2\n\nxy", false, "Content-Length: 2\r\n", "\nHost: a\n"},
		{"folded", post + "X-A: 1\r\n Content-Length: 9\r\nContent-Length: 2\r\n\r\nxy", false, "Content-Length: 2\r\n", "\r\n Content-Length"},
		{"space before the colon", post + "Content-Length : 2\r\n\r\nxy", true, "", ""},
		{"TE with a space before the colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", true, "", ""},
		{"TE xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", true, "", ""},
		{"TE twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", true, "", ""},
		{"TE list", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true, "", ""},
		{"TE with a tab", post + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", true, "", ""},
		{"two hosts", post + "Host: b\r\nContent-Length: 0\r\n\r\n", true, "", ""},
		{"no host", "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", true, "", ""},
		{"CR in a value", post + "X-A: 1\rContent-Length: 2\r\n\r\n", true, "", ""},
		{"NUL in a value", post + "X-A: \x00\r\n\r\n", true, "", ""},
	} {
		conn := dialRaw(t, g.addr())
		conn.send(c.request)
		res := conn.response("POST")
		if c.refused {
			if res.StatusCode != http.StatusBadRequest && res.StatusCode != http.StatusNotImplemented {
				t.Errorf("%s: %s", c.name, res.Status)
			}
			if len(rec.heads) != 0 {
				t.Errorf("%s: it reached the instance: %q", c.name, <-rec.heads)
			}
			continue
		}
		head := receive(t, rec.heads)
		if res.StatusCode != http.StatusOK || strings.Count(head, c.want) != 1 || strings.Contains(head, c.not) {
			t.Errorf("%s: %s, and this arrived: %q", c.name, res.Status, head)
		}
		if n := strings.Count(head, "\r\nContent-Length:") + strings.Count(head, "\r\nTransfer-Encoding:"); n != 1 {
			t.Errorf("%s: %d framings arrived: %q", c.name, n, head)
		}
	}
}

// Whoever is served by net/http cannot say there what is refused to others.
func TestUnclearRequestsBehindOthers(t *testing.T) {
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/unclear") {
			t.Errorf("%s arrived", r.URL.Path)
		}
		io.Copy(io.Discard, r.Body)
	})
	const get, post = "GET / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\n"
	big := strings.Repeat("x", 9000)
	for _, before := range []string{
		get + "Connection: upgrade\r\nUpgrade: x\r\n\r\n", // which the instance does not do
		get + "X-A: " + big + "\r\n\r\n", "GET /" + big + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		post + "Content-Length: 9000\r\n\r\n" + big, post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
		post + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
		post + "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX-T: v\r\n\r\n", post + "Transfer-Encoding: chunked\r\n\r\n2328\r\n" + big + "\r\n0\r\n\r\n",
	} {
		for _, unclear := range []string{
			"POST /unclear HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", "POST /unclear HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\nX-A: " + big + "\r\ncontent-length:4\r\n\r\n",
			"POST /unclear HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 4\n\n", "POST /unclear HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
		} {
			for _, together := range []bool{true, false} {
				name := fmt.Sprintf("%.200q behind %.200q, together: %v", unclear, before, together)
				c := dialRaw(t, g.addr())
				unclear := unclear + "0\r\n\r\nGET /unclear HTTP/1.1\r\nHost: a\r\n\r\n"
				if c.send(before); together {
					c.send(unclear)
				}
				res := c.response("POST")
				for res.StatusCode == http.StatusContinue {
					res = c.response("POST")
				}
				if _, err := io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusOK || err != nil {
					t.Fatalf("%s: %s %v", name, res.Status, err)
				}
				if !together {
					c.send(unclear)
				}
				if res = c.response("POST"); res.StatusCode != http.StatusBadRequest || !res.Close {
					t.Errorf("%s: %s", name, res.Status)
				}
				io.Copy(io.Discard, res.Body)
				if b, err := c.r.ReadByte(); err == nil {
					t.Errorf("%s: there is more: %q", name, b)
				}
				c.Close()
			}
		}
	}
}

// What is odd is taken as net/http takes it, and nothing behind it.
func TestNothingIsReadBehindWhatIsOdd(t *testing.T) {
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for _, odd := range []string{"X-A: b\r\n c\r\n\r\n", "Content-Length: 00000000000000000002\r\n\r\nab", "Content-Length:\r\n 2\r\n\r\nab"} {
		c := dialRaw(t, g.addr())
		c.send("POST / HTTP/1.1\r\nHost: a\r\n" + odd + "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res := c.response("POST")
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK || !res.Close {
			t.Errorf("%q: %s %v, close=%v", odd, res.Status, err, res.Close)
		}
	}
}

// Whatever follows a request that has no clear end, or that wants another protocol, is not read as the next request.
func TestNothingIsReadBehindWhatIsNotHTTP(t *testing.T) {
	paths := make(chan string, 10)
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/early" { // which is answered before its body is looked at
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
		}
		paths <- r.URL.Path
	})
	const chunks = " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, request := range []string{"POST /read" + chunks + "5\r\nhelloX\r\n", "POST /early" + chunks + "5\r\nhelloX\r\n",
		"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\nHost: a\r\n\r\n"} {
		c := dialRaw(t, g.addr())
		c.send(request + "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
		answers, _ := io.ReadAll(c.r) // the end may be a reset: there was more to read
		if n := strings.Count(string(answers), "HTTP/1.1 "); n != 1 {
			t.Errorf("%q has %d answers: %q", request, n, answers)
		}
		for len(paths) > 0 {
			if p := receive(t, paths); p != "/early" {
				t.Errorf("%q: %s arrived", request, p)
			}
		}
	}
}

func TestTrailersDoNotFrame(t *testing.T) {
	ch := make(chan http.Header, 1)
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		ch <- r.Trailer
	})
	c := dialRaw(t, g.addr())
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: y\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n")
	if got := receive(t, ch); len(got) != 1 || got.Get("X") != "y" {
		t.Errorf("%v", got)
	}
}
