//go:build unix

package edge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAllow(t *testing.T) { onBothPaths(t, testAllow) }

func testAllow(t *testing.T, client clients) {
	g := startEdge(t, newDirs(t))
	addr := serveOn(t, says("hello"))
	for list, want := range map[string]int{"10.0.0.0/8 127.0.0.1/32": 200, "10.0.0.0/8 ::/0": http.StatusForbidden} {
		var allow []netip.Prefix
		for p := range strings.FieldsSeq(list) {
			allow = append(allow, netip.MustParsePrefix(p))
		}
		g.set(guardedRoute(Guard{Allow: allow}, addr))
		if res, _ := get(t, client(t), g.url()); res.StatusCode != want {
			t.Errorf("%s: %s", list, res.Status)
		}
	}
	if c := g.settled(2); c.Refused != 1 || c.Failed != 0 || g.counts(1, 1).Requests != 1 {
		t.Errorf("%+v", c)
	}
	all := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{"[::ffff:192.0.2.9]:1": true, "[fe80::1%eth0]:1": true, "198.51.100.1:1": false, "@": false} {
		if got := allowed(all, peer(from(addr))); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// unsized hides a body's length, so that it is sent in chunks.
type unsized struct{ io.Reader }

func TestBodyLimit(t *testing.T) { onBothPaths(t, testBodyLimit) }

func testBodyLimit(t *testing.T, client clients) {
	broken := make(chan error, 10)
	g := startEdge(t, newDirs(t))
	table := guardedRoute(Guard{Body: 1000}, serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			broken <- err
			return
		}
		w.Write(b)
	}))
	g.set(table)
	whole, over := strings.Repeat("x", 1000), strings.Repeat("x", 1001)
	requests := uint64(0)
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		for _, body := range []io.Reader{strings.NewReader(whole), unsized{strings.NewReader(whole)}} {
			if res, text := do(t, c, request(t, http.MethodPost, g.url(), body)); res.StatusCode != http.StatusOK || text != whole {
				t.Errorf("%s: %s for %T, %d bytes", name, res.Status, body, len(text))
			}
		}
		for _, body := range []io.Reader{strings.NewReader(over), unsized{strings.NewReader(over)}, unsized{strings.NewReader(strings.Repeat(over, 1000))}} {
			res, text := do(t, c, request(t, http.MethodPost, g.url(), body))
			if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, "1000 bytes (route.body)") {
				t.Errorf("%s: %s %q for %T", name, res.Status, text, body)
			}
		}
		for range 2 { // those without a length had begun
			if err := receive(t, broken); errors.Is(err, io.EOF) {
				t.Errorf("%s: the instance saw a whole body: %v", name, err)
			}
		}
		requests += 5
	}
	if c := g.settled(requests); c.Refused != 6 || c.Failed != 0 || c.Aborted != 0 || c.Classes[4] != 6 {
		t.Errorf("%+v", c)
	}
	if c := g.counts(1, 1); c.Failed != 0 || c.Aborted != 4 || c.Requests != 8 {
		t.Errorf("the instance: %+v", c)
	}
}

func TestLimitedBody(t *testing.T) {
	for size := range 20 {
		for _, most := range []int64{1, 7, 8, 9} {
			want := bytes.Repeat([]byte("x"), size)
			ex := &exchange{}
			for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
				b := &limitedBody{io.NopCloser(wrap(bytes.NewReader(want))), most, ex}
				got, err := io.ReadAll(b)
				over := int64(size) > most
				if len(got) != min(size, int(most)) || errors.Is(err, errTooBig) != over || ex.tooBig.Load() != over {
					t.Errorf("%d of %d bytes, at most %d: %v", len(got), size, most, err)
				}
			}
		}
	}
}
