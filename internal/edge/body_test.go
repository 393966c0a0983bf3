//go:build unix

package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestKeepAliveAndClose(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	c := dialRaw(t, g.addr())
	for range 3 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res := c.response("GET")
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello" || res.Close {
			t.Fatalf("%q %v close=%v", b, err, res.Close)
		}
	}
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	res := c.response("GET")
	if _, err := io.ReadAll(res.Body); err != nil || !res.Close {
		t.Errorf("close=%v %v", res.Close, err)
	}
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Errorf("the connection stays open: %v", err)
	}
	old := dialRaw(t, g.addr())
	old.send("GET / HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(old.r); err != nil || !strings.HasSuffix(string(b), "\r\n\r\nhello") {
		t.Errorf("HTTP/1.0: %q %v", b, err)
	}
	if got := g.settled(5); got.Classes[2] != 5 || got.Failed+got.Aborted+got.Undone != 0 || got.Bytes != 25 {
		t.Errorf("%+v", got)
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	const size = 10 << 20
	data := noise(size)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Sum", sum(b))
		w.Header().Set("Chunked", fmt.Sprint(r.ContentLength < 0))
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		w.Write(data)
	})
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		for _, path := range []string{"/sized", "/chunked"} {
			var body io.Reader = bytes.NewReader(data)
			if path == "/chunked" {
				body = io.MultiReader(body) // hides the length
			}
			res, got := do(t, c, request(t, http.MethodPost, g.url()+path, body))
			if res.Header.Get("Sum") != sum(data) || sum([]byte(got)) != sum(data) {
				t.Errorf("%s %s: the bodies differ (%d bytes came back)", name, path, len(got))
			}
			if chunked := path == "/chunked"; res.Header.Get("Chunked") != fmt.Sprint(chunked) || (res.ContentLength < 0) != chunked {
				t.Errorf("%s %s: the request's framing was chunked=%s, the answer's length %d", name, path, res.Header.Get("Chunked"), res.ContentLength)
			}
		}
	}
	if got := g.settled(4); got.Bytes != 4*size || got.Failed != 0 {
		t.Errorf("%d bytes, %d failed", got.Bytes, got.Failed)
	}
}

// An instance may answer while the request is still coming; the answer must not cost a byte of the request.
func TestEchoWhileTheRequestComes(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		pr, pw := io.Pipe()
		res, err := c.Do(request(t, http.MethodPost, g.url(), pr))
		if err != nil {
			t.Fatal(name, err)
		}
		defer res.Body.Close()
		for i := range 3 {
			msg := fmt.Sprintf("message %d", i)
			if _, err := io.WriteString(pw, msg); err != nil {
				t.Fatal(name, err)
			}
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != msg {
				t.Fatalf("%s: %q %v", name, got, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Errorf("%s: %q %v", name, rest, err)
		}
	}
}

func TestBodilessAnswers(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "1234")
			if r.Method != http.MethodHead {
				w.Write(make([]byte, 1234))
			}
		}
	})
	for _, c := range []struct {
		method, path string
		status       int
		length       int64
	}{{"HEAD", "/", 200, 1234}, {"GET", "/204", 204, 0}, {"GET", "/304", 304, 0}, {"GET", "/", 200, 1234}} {
		conn := dialRaw(t, g.addr())
		// Two on one connection: a body that should not be there would be taken for the second answer.
		for range 2 {
			conn.send(c.method + " " + c.path + " HTTP/1.1\r\nHost: a\r\n\r\n")
			res := conn.response(c.method)
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status || res.ContentLength != c.length {
				t.Errorf("%s %s: %d, length %d", c.method, c.path, res.StatusCode, res.ContentLength)
			}
		}
	}
}

func TestTrailers(t *testing.T) {
	seen := make(chan string, 2)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen <- r.Trailer.Get("Checksum")
		w.Header().Set("Trailer", "Announced")
		io.WriteString(w, "body")
		w.Header().Set("Announced", "yes")
		w.Header().Set(http.TrailerPrefix+"Surprise", "also")
	})
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		r := request(t, http.MethodPost, g.url(), io.MultiReader(strings.NewReader("body")))
		r.Trailer = http.Header{"Checksum": {"abc"}}
		res, _ := do(t, c, r)
		if got := receive(t, seen); got != "abc" {
			t.Errorf("%s: the request's trailer came as %q", name, got)
		}
		if res.Trailer.Get("Announced") != "yes" || res.Trailer.Get("Surprise") != "also" {
			t.Errorf("%s: the answer's trailers came as %v", name, res.Trailer)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.Copy(w, r.Body)
	})
	c := dialRaw(t, g.addr())
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q %v", line, err)
	}
	c.r.ReadString('\n')
	c.send("body")
	res := c.response("POST")
	for res.StatusCode == http.StatusContinue { // the instance's own may come after net/http's
		res = c.response("POST")
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "body" || res.StatusCode != http.StatusOK {
		t.Errorf("%d %q %v", res.StatusCode, b, err)
	}
	// The instance says no before the client has sent a byte of it: the client must not be told to go on.
	c = dialRaw(t, g.addr())
	c.send("POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	if res := c.response("POST"); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("refused: %d", res.StatusCode)
	}
	if got := g.settled(2); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
}

// The client goes away while it sends, while it waits, and while it reads: never the service's fault.
func TestClientGoesAway(t *testing.T) {
	arrived, release := make(chan bool, 10), make(chan bool)
	defer close(release)
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/reads":
			arrived <- true
			io.Copy(io.Discard, r.Body)
		case "/waits":
			arrived <- true
			select {
			case <-r.Context().Done():
			case <-release:
			}
		case "/writes":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}
	})
	c := dialRaw(t, g.addr())
	c.send("POST /reads HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
	receive(t, arrived)
	c.Close()
	g.settled(1)

	ctx, cancel := context.WithCancel(t.Context())
	for _, hc := range []*http.Client{client(t), h2c(t)} {
		go func() {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url()+"/waits", nil)
			if res, err := hc.Do(r); err == nil {
				res.Body.Close()
			}
		}()
		receive(t, arrived)
	}
	cancel()
	g.settled(3)

	c = dialRaw(t, g.addr())
	c.send("GET /writes HTTP/1.1\r\nHost: a\r\n\r\n")
	c.response("GET")
	c.Close()
	got := g.settled(4)
	if got.Aborted != 4 || got.Failed+got.Undone != 0 {
		t.Errorf("aborted %d, failed %d, undone %d", got.Aborted, got.Failed, got.Undone)
	}
	if in := g.counts(1, 1); in.Requests != 4 || in.Aborted != 4 || in.Open != 0 {
		t.Errorf("the instance: %+v", in)
	}
}

// A client that closes only its sending side looks as if it went away. It must not be told that all is well.
func TestHalfClosedClientIsNotLiedTo(t *testing.T) {
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := dialRaw(t, g.addr())
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	eventually(t, func() bool { return g.counts(1, 1).Open == 1 })
	type closer interface{ CloseWrite() error }
	if err := c.Conn.(closer).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c.r); strings.Contains(string(b), "200") {
		t.Errorf("an answer that no instance gave: %q", b)
	}
	if got := g.settled(1); got.Aborted != 1 {
		t.Errorf("%+v", got)
	}
}

// A request that is not HTTP past its head is the client's fault, and it is told so.
func TestBrokenRequestBody(t *testing.T) {
	g := newRig(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	c := dialRaw(t, g.addr())
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n")
	if res := c.response("POST"); res.StatusCode != http.StatusBadRequest {
		t.Errorf("%d", res.StatusCode)
	}
	if got := g.settled(1); got.Failed != 0 || got.Aborted != 1 {
		t.Errorf("%+v", got)
	}
}

// The instance breaks off in the middle of its answer: the client must see that it is not whole.
func TestInstanceBreaksOff(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", "1000")
		}
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	n := uint64(0)
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		for _, path := range []string{"/sized", "/chunked"} {
			res, err := c.Do(request(t, http.MethodGet, g.url()+path, nil))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%s %s: %q looks whole", name, path, b)
			}
			res.Body.Close()
			n++
		}
	}
	for _, got := range []Counts{g.settled(n), g.counts(1, 1)} {
		if got.Failed != n || got.Undone != n || got.Aborted != 0 || got.Unplaced != 0 || got.Classes[2] != n {
			t.Errorf("%+v", got)
		}
	}
}
