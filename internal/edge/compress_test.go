//go:build unix

package edge

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

func TestPreferred(t *testing.T) {
	for accepts, want := range map[string]coding{
		"": identity, "gzip": codingGzip, "x-gzip": codingGzip, "GZip": codingGzip, "zstd": codingZstd, "gzip, deflate, br, zstd": codingZstd,
		"gzip;q=1, zstd;q=0.9": codingGzip, "gzip;q=0.5,zstd;q=0.5": codingZstd, "*": codingZstd, "*;q=0": identity, "gzip, *;q=0": codingGzip,
		"zstd;q=0, *": codingGzip, "gzip;q=0": identity, "gzip;q=0.000": identity, "gzip;q=0.001": codingGzip, "identity": identity,
		"identity, gzip": codingGzip, "identity, gzip;q=0.9": identity, "identity;q=0.5, gzip;q=0.5": codingGzip, "identity;q=0, gzip": codingGzip, "br": identity, "deflate": identity,
		"gzip ; q=0.4 , zstd ; q=0.3": codingGzip, "gzip;q=2": identity, "gzip;q=": identity, "gzip;level=9": identity, "gzip;q=0.1234": identity,
		"gzip;Q=1": codingGzip, ",,gzip,": codingGzip, "gzipped": identity, "gzip;q=-1": identity, "gzip;q=1.000": codingGzip, "gzip;q=0.,zstd;q=0.1": codingZstd,
	} {
		if got := preferred([]string{accepts}); got != want {
			t.Errorf("%q: %q, want %q", accepts, got, want)
		}
	}
	if got := preferred([]string{"br", "gzip"}); got != codingGzip {
		t.Errorf("on two lines: %q", got)
	}
}

// The coding that is chosen has a weight, and no other that the edge knows has a greater one.
func TestPreferredIsBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := func(name string) int { return rapid.IntRange(-1, 1000).Draw(t, name) }
		weights := map[coding]int{codingGzip: q("gzip"), codingZstd: q("zstd"), identity: q("identity")}
		var parts []string
		for c, n := range map[string]int{"gzip": weights[codingGzip], "zstd": weights[codingZstd], "identity": weights[identity]} {
			if n >= 0 {
				parts = append(parts, fmt.Sprintf("%s;q=%d.%03d", c, n/1000, n%1000))
			}
		}
		got := preferred([]string{strings.Join(parts, ", ")})
		for _, c := range codings {
			if got == identity && weights[c] > max(weights[identity], 0) || got != identity && (weights[c] > weights[got] || weights[got] <= 0) {
				t.Fatalf("%q of %v", got, parts)
			}
		}
	})
}

func TestTypes(t *testing.T) {
	usual, own := &Compress{Min: 1}, &Compress{Min: 1, Types: []string{"text/event-stream", "image/*"}}
	for is, want := range map[string][2]bool{
		"text/html; charset=utf-8": {true, false}, "TEXT/HTML": {true, false}, "application/json": {true, false}, "application/problem+json": {true, false},
		"image/svg+xml": {true, true}, "image/png": {false, true}, "text/event-stream": {false, true}, "text/event-stream; charset=utf-8": {false, true},
		"application/octet-stream": {false, false}, "video/mp4": {false, false}, "font/woff2": {false, false}, "": {false, false}, "text": {false, false},
		"text/html; charset": {true, false}, "application/zip": {false, false}, "application/grpc+json": {true, false},
	} {
		if got := [2]bool{usual.takes(is), own.takes(is)}; got != want {
			t.Errorf("%q: %v, want %v", is, got, want)
		}
	}
}

// decode is what a client makes of a body.
func decode(t testing.TB, coding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return string(b)
}

var longText = strings.Repeat("What is said often need not be sent often. ", 200)

// compressing is a table whose route compresses.
func compressing(addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Compress = &Compress{Min: 1 << 10}
	return t
}

// Each answer of an instance's, and what a client gets that takes gzip.
func TestCompress(t *testing.T) {
	onBothPaths(t, testCompress)
	t.Run("h2c", func(t *testing.T) { testCompress(t, h2c) })
}

func testCompress(t *testing.T, client clients) {
	type answer struct {
		status  int
		headers []string
		body    string
	}
	plain := []string{"Content-Type: text/plain"}
	with := func(h ...string) []string { return append(h, plain...) }
	for name, c := range map[string]struct {
		answer
		method  string
		request string
		coded   bool
		varies  bool
		tag     string
	}{
		"text":               {answer: answer{200, plain, longText}, coded: true, varies: true},
		"of a known length":  {answer: answer{200, with("Content-Length: " + strconv.Itoa(len(longText))), longText}, coded: true, varies: true},
		"an error":           {answer: answer{404, plain, longText}, coded: true, varies: true},
		"to a POST":          {answer: answer{200, with(`Etag: "a"`), longText}, method: "POST", coded: true, varies: true, tag: `"a"`},
		"a strong tag":       {answer: answer{200, with(`Etag: "a"`), longText}, coded: true, varies: true, tag: `"a--gzip"`},
		"a weak tag":         {answer: answer{200, with(`Etag: W/"a"`), longText}, coded: true, varies: true, tag: `W/"a"`},
		"no type":            {answer: answer{200, []string{"Content-Type: "}, longText}},
		"a picture":          {answer: answer{200, []string{"Content-Type: image/png"}, longText}},
		"events":             {answer: answer{200, []string{"Content-Type: text/event-stream"}, longText}},
		"short":              {answer: answer{200, with("Content-Length: 5"), "short"}, varies: true},
		"empty":              {answer: answer{200, plain, ""}, varies: true},
		"coded already":      {answer: answer{200, with("Content-Encoding: br"), longText}},
		"not to be changed":  {answer: answer{200, with("Cache-Control: public, No-Transform"), longText}},
		"with a digest":      {answer: answer{200, with("Content-Digest: sha-256=:x:"), longText}},
		"a part":             {answer: answer{206, with("Content-Range: bytes 0-8599/9000", `Etag: "a"`), longText}, varies: true, tag: `"a"`},
		"nothing":            {answer: answer{204, plain, ""}},
		"varies already":     {answer: answer{200, with("Vary: Origin, accept-encoding"), longText}, coded: true, varies: true},
		"the client forbids": {answer: answer{200, plain, longText}, request: "Cache-Control: no-transform"},
		"HEAD":               {answer: answer{200, with(`Etag: "a"`, "Content-Length: 8600"), ""}, method: "HEAD", coded: true, varies: true, tag: `"a--gzip"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t)
			g.set(compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
				for _, h := range c.headers {
					name, value, _ := strings.Cut(h, ": ")
					w.Header().Set(name, value)
				}
				w.Header().Set("Accept-Ranges", "bytes")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})))
			r := request(t, http.MethodGet, g.url(), nil)
			if c.method != "" {
				r.Method = c.method
			}
			r.Header.Set("Accept-Encoding", "gzip")
			if name, value, ok := strings.Cut(c.request, ": "); ok {
				r.Header.Set(name, value)
			}
			res, body := do(t, client(t), r)
			said := res.Header.Get("Content-Encoding")
			if coded := said == "gzip"; coded != c.coded {
				t.Errorf("coded: %v; %v", coded, res.Header)
			}
			if said == "gzip" && r.Method != http.MethodHead {
				if len(body) > len(c.body)/2 || res.Header.Get("Content-Length") != "" && res.Header.Get("Content-Length") == strconv.Itoa(len(c.body)) {
					t.Errorf("%d bytes of %d; %v", len(body), len(c.body), res.Header)
				}
				body = decode(t, said, body)
			}
			if want := c.body; res.StatusCode != c.status || body != want {
				t.Errorf("%d, %d bytes, want %d", res.StatusCode, len(body), len(want))
			}
			if varies := strings.Contains(strings.ToLower(strings.Join(res.Header["Vary"], ",")), "accept-encoding"); varies != c.varies || len(res.Header["Vary"]) > 1 {
				t.Errorf("Vary: %q", res.Header["Vary"])
			}
			if got := res.Header.Get("Etag"); got != "" && got != c.tag {
				t.Errorf("Etag: %s, want %s", got, c.tag)
			}
			if ranges := res.Header.Get("Accept-Ranges"); (ranges == "") != c.coded {
				t.Errorf("Accept-Ranges: %q", ranges)
			}
		})
	}
}

// A client gets what it takes, and what it knows by the tag of one coding is not what another one stands for.
func TestTags(t *testing.T) {
	seen := make(chan http.Header, 100)
	for _, cache := range []bool{false, true} {
		g := newRig(t)
		table := compressing(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Clone()
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Etag", `"a"`)
			w.Header().Set("Cache-Control", "max-age=0")
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(longText))
		}))
		if cache {
			table.Routes[0].Cache = &Cache{Size: 1 << 20, Object: 1 << 20}
		}
		g.set(table)
		for i, c := range []struct {
			accept, condition, tag string
			status                 int
			coding, etag           string
		}{
			{"", "", "", 200, "", `"a"`}, {"gzip", "", "", 200, "gzip", `"a--gzip"`}, {"gzip, zstd", "", "", 200, "zstd", `"a--zstd"`},
			{"gzip", "If-None-Match", `"a--gzip"`, 304, "", `"a--gzip"`}, {"gzip", "If-None-Match", `"b", "a--gzip"`, 304, "", `"a--gzip"`},
			{"gzip", "If-None-Match", `"a--zstd"`, 200, "gzip", `"a--gzip"`}, {"", "If-None-Match", `"a--gzip"`, 200, "", `"a"`},
			{"", "If-None-Match", `"a"`, 304, "", `"a"`}, {"zstd", "If-None-Match", `"a--zstd", "a--gzip"`, 304, "", `"a--zstd"`}, {"gzip", "If-None-Match", `*`, 304, "", `"a"`},
			{"gzip", "If-Match", `"a--gzip"`, 200, "gzip", `"a--gzip"`}, {"gzip", "If-Match", `"a--zstd"`, 200, "gzip", `"a--gzip"`}, {"gzip", "If-Match", `"b--gzip"`, 412, "", `"a"`},
		} {
			r := request(t, http.MethodGet, g.url(), nil)
			for name, v := range map[string]string{"Accept-Encoding": c.accept, c.condition: c.tag} {
				if v != "" {
					r.Header.Set(name, v)
				}
			}
			res, body := do(t, client(t), r)
			if res.StatusCode != c.status || res.Header.Get("Content-Encoding") != c.coding || res.Header.Get("Etag") != c.etag {
				t.Errorf("cache %v, %d: %+v: %d %v", cache, i, c, res.StatusCode, res.Header)
			}
			if c.status == 200 && decode(t, c.coding, body) != longText {
				t.Errorf("%d: %d bytes", i, len(body))
			}
			if !strings.Contains(strings.Join(res.Header["Vary"], ","), "Accept-Encoding") && c.status != 412 {
				t.Errorf("%d: Vary: %q", i, res.Header["Vary"])
			}
			h := <-seen
			if cache && c.condition != "If-Match" && h.Get("Accept-Encoding") != "" {
				t.Errorf("%d: the instance is asked for %q: it would be kept so", i, h["Accept-Encoding"])
			}
			if strings.Contains(fmt.Sprint(h), "--gzip") && c.accept == "gzip" && c.condition != "" {
				t.Errorf("%d: the instance sees %v", i, h)
			}
		}
		// A part of what is coded is of nothing that the client could have, so it gets all.
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set("Accept-Encoding", "gzip")
		r.Header.Set("Range", "bytes=0-9")
		r.Header.Set("If-Range", `"a--gzip"`)
		if res, body := do(t, client(t), r); res.StatusCode != http.StatusOK || decode(t, "gzip", body) != longText {
			t.Errorf("%d %v", res.StatusCode, res.Header)
		}
		<-seen
	}
}

// What an instance sends and flushes is at the client before anything else comes, whatever it is compressed with.
func TestCompressedStreams(t *testing.T) {
	for _, c := range []string{"gzip", "zstd"} {
		next := make(chan string)
		g := newRig(t)
		table := compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			for line := range next {
				io.WriteString(w, line)
				w.(http.Flusher).Flush()
			}
		}))
		g.set(table)
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set("Accept-Encoding", c)
		go func() { next <- "0\n" }()
		res, err := client(t).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var wire []byte
		want := ""
		for i := range 20 {
			line := strconv.Itoa(i) + "\n"
			if want += line; i > 0 {
				next <- line
			}
			for begun(c, wire) != want { // nothing else comes until this is there
				part := make([]byte, 100)
				n, err := res.Body.Read(part)
				if wire = append(wire, part[:n]...); err != nil {
					t.Fatalf("%s: %q of %q: %v", c, begun(c, wire), want, err)
				}
			}
		}
		close(next)
		if rest, err := io.ReadAll(res.Body); err != nil || decode(t, c, string(append(wire, rest...))) != want {
			t.Errorf("%q %v", rest, err)
		}
	}
}

// begun is what can be told of a body that has not ended.
func begun(coding string, b []byte) string {
	var r io.Reader = bytes.NewReader(b)
	var err error
	if r, err = gzip.NewReader(r); coding == "zstd" {
		r, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		return ""
	}
	out, err := io.ReadAll(r)
	if err == nil {
		return "it has ended"
	}
	return string(out)
}

// An answer that breaks off must not look whole.
func TestCompressedBreaksOff(t *testing.T) {
	for _, accept := range []string{"gzip", "zstd"} {
		g := newRig(t)
		g.set(compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, longText)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})))
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set("Accept-Encoding", accept)
		res, err := client(t).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: %d bytes, and all is well", accept, len(b))
		}
		if c := g.settled(1); c.Failed != 1 || len(theEncoders.busy) != 0 {
			t.Errorf("%+v; %d encoders are in use", c, len(theEncoders.busy))
		}
	}
}

// Whatever is written in whatever pieces, with or without a flush, comes out as it was, by encoders that are used again.
func TestCompressedWrites(t *testing.T) {
	text := make([]byte, 20_000)
	for i := range text {
		text[i] = "abcdefgh"[rand.IntN(8)]
	}
	rapid.Check(t, func(t *rapid.T) {
		accept := rapid.SampledFrom([]string{"gzip", "zstd"}).Draw(t, "accept")
		pieces := rapid.SliceOfN(rapid.IntRange(-1, 20_000), 0, 8).Draw(t, "pieces")
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", accept)
		rec := httptest.NewRecorder()
		rec.Header().Set("Content-Type", "text/plain")
		z := newCompressed(&route{Route: Route{Compress: &Compress{Min: 1000}}}, rec, r)
		var want bytes.Buffer
		z.WriteHeader(http.StatusOK)
		for _, n := range pieces {
			if n < 0 {
				if err := z.FlushError(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want.Write(text[:n])
			if _, err := z.Write(text[:n]); err != nil {
				t.Fatal(err)
			}
		}
		z.close()
		z.release()
		coding := rec.Header().Get("Content-Encoding")
		if got := decodeAny(coding, rec.Body.Bytes()); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%s: %d bytes, want %d", coding, len(got), want.Len())
		}
		if n := rec.Header().Get("Content-Length"); n != "" && n != strconv.Itoa(rec.Body.Len()) {
			t.Fatalf("Content-Length: %s of %d", n, rec.Body.Len())
		}
	})
}

func decodeAny(coding string, b []byte) []byte {
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return nil
	}
	return out
}

// Where all encoders are in use an answer goes as it is, and says that it could have been another.
func TestTooManyEncoders(t *testing.T) {
	for range maxEncoders {
		theEncoders.busy <- struct{}{}
	}
	g := newRig(t)
	g.set(compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"a"`)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, longText)
	})))
	r := request(t, http.MethodGet, g.url(), nil)
	r.Header.Set("Accept-Encoding", "gzip")
	res, body := do(t, client(t), r)
	for range maxEncoders {
		<-theEncoders.busy
	}
	if body != longText || res.Header.Get("Content-Encoding") != "" || res.Header.Get("Etag") != `"a"` || res.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%d bytes, %v", len(body), res.Header)
	}
}

// What is kept is kept once, and coded for each client; many at once get what they asked for.
func TestCacheAndCompress(t *testing.T) {
	g := newRig(t)
	asked := make(chan bool, 10)
	table := compressing(serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, longText)
	}))
	table.Routes[0].Cache = &Cache{Size: 1 << 20, Object: 1 << 20}
	g.set(table)
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			coding := []string{"gzip", "zstd", ""}[i%3]
			r := request(t, http.MethodGet, g.url(), nil)
			r.Header.Set("Accept-Encoding", coding)
			if res, body := do(t, client(t), r); decode(t, coding, body) != longText || res.Header.Get("Content-Encoding") != coding {
				t.Errorf("%s: %v", coding, res.Header)
			}
		})
	}
	all.Wait()
	if len(asked) != 1 || len(theEncoders.busy) != 0 {
		t.Errorf("asked %d times; %d encoders are in use", len(asked), len(theEncoders.busy))
	}
	defer func() {
		for range maxEncoders {
			<-theEncoders.busy
		}
	}()
	for i, coding := range []string{"gzip", "zstd", "gzip", "zstd"} {
		for i == 2 && len(theEncoders.busy) < maxEncoders {
			theEncoders.busy <- struct{}{} // from now on none is needed
		}
		r := request(t, http.MethodGet, g.url(), nil)
		r.Header.Set("Accept-Encoding", coding)
		res, body := do(t, client(t), r)
		if decode(t, coding, body) != longText || res.Header.Get("Content-Encoding") != coding || res.ContentLength != int64(len(body)) || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: %v", coding, res.Header)
		}
	}
}

// A client that others wrote understands us, too.
func TestCompressByCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl here")
	}
	g := newRig(t)
	g.set(compressing(serveOn(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, longText)
	})))
	for _, flag := range []string{"--http1.1", "--http2-prior-knowledge"} {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "10", flag, "--compressed", "-w", "%{size_download}", g.url()).CombinedOutput()
		text, n := string(out[:min(len(out), len(longText))]), string(out[min(len(out), len(longText)):])
		if size, e := strconv.Atoi(n); err != nil || e != nil || text != longText || size > len(longText)/4 {
			t.Errorf("%s: %v: %d bytes, %q over the wire", flag, err, len(text), n)
		}
	}
}

// Whatever a client writes, the coding is one that it named, and an instance's own tag comes back to it as it was.
func FuzzCodings(f *testing.F) {
	for _, s := range [][2]string{{"gzip, zstd;q=0.5", `"a"`}, {"*;q=0.1", `"a--gzip"`}, {";;q=,,", `W/"`}, {"identity;q=\xff", `"`}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, accept, etag string) {
		c := preferred([]string{accept})
		if lower := strings.ToLower(accept); c != identity && !strings.Contains(lower, string(c)) && !strings.Contains(lower, "*") {
			t.Errorf("%q makes %q", accept, c)
		}
		if strings.Contains(etag, "--") {
			return // it looks like one of ours
		}
		for _, c := range codings {
			h := http.Header{"If-Match": {tag(etag, c)}}
			untag(h, "If-Match", false, c)
			if h.Get("If-Match") != etag {
				t.Errorf("%q is %q, and then %q", etag, tag(etag, c), h.Get("If-Match"))
			}
		}
	})
}
