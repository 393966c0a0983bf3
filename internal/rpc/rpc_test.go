package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

type note struct {
	Text string `json:"text"`
	N    int    `json:"n,omitempty"`
}

// serve runs a real server on a socket of its own.
func serve(t *testing.T, mux *http.ServeMux) (*Client, *http.Server) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	ended := make(chan bool)
	go func() { srv.Serve(l); close(ended) }()
	t.Cleanup(func() { srv.Close(); <-ended })
	return NewClient(sock), srv
}

func TestCall(t *testing.T) {
	mux := http.NewServeMux()
	Handle(mux, "POST /echo", func(r *http.Request) (any, error) {
		v, err := Decode[note](r)
		v.N++
		return v, err
	})
	Handle(mux, "PUT /raw", func(r *http.Request) (any, error) {
		b, err := io.ReadAll(r.Body)
		return note{Text: string(b)}, err
	})
	Handle(mux, "GET /nothing", func(*http.Request) (any, error) { return nil, nil })
	c, _ := serve(t, mux)
	var got note
	if err := c.Call(t.Context(), "POST", "/echo", note{"a <b>", 1}, &got); err != nil || got != (note{"a <b>", 2}) {
		t.Errorf("%+v %v", got, err)
	}
	if err := c.Call(t.Context(), "PUT", "/raw", strings.NewReader("as it is"), &got); err != nil || got.Text != "as it is" {
		t.Errorf("%+v %v", got, err)
	}
	if err := c.Call(t.Context(), "GET", "/nothing", nil, nil); err != nil {
		t.Error(err)
	}
	for _, body := range []string{`{"txt":"x"}`, `{"text":1}`, `{`, ``} {
		if err := c.Call(t.Context(), "POST", "/echo", strings.NewReader(body), &got); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v", body, err)
		}
	}
	if err := c.Call(t.Context(), "GET", "/no/such", nil, nil); fail.KindOf(err) != fail.Internal || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
	if err := c.Call(t.Context(), "POST", "/echo", func() {}, nil); err == nil {
		t.Error("a function went over the wire")
	}
}

func TestErrorsComeBackWhole(t *testing.T) {
	codes := map[fail.Kind]int{fail.Usage: 400, fail.NotFound: 404, fail.Busy: 409, fail.Preflight: 422}
	for _, kind := range []fail.Kind{fail.Internal, fail.Usage, fail.Preflight, fail.Build, fail.Unhealthy, fail.RolledBack, fail.Stuck, fail.Paused,
		fail.Busy, fail.NotFound, fail.Unavailable, fail.Interrupted} {
		sent := &fail.Error{Kind: kind, Op: "deploy", Place: "f:1:2", Hint: "wait", Lines: []string{"a", "b"}, Err: errors.New("held")}
		mux := http.NewServeMux()
		Handle(mux, "/x", func(*http.Request) (any, error) { return nil, fmt.Errorf("outside: %w", sent) })
		c, _ := serve(t, mux)
		got := fail.As(c.Call(t.Context(), "GET", "/x", nil, nil))
		if got.Kind != kind || got.Error() != "outside: f:1:2: deploy: held" || got.Hint != "wait" || !reflect.DeepEqual(got.Lines, sent.Lines) {
			t.Errorf("%+v", got)
		}
		res, err := c.http.Get("http://fairlead/x")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if want := codes[kind]; res.StatusCode != want && (want != 0 || res.StatusCode != http.StatusInternalServerError) {
			t.Errorf("%s: status %d", kind, res.StatusCode)
		}
	}
}

func TestStream(t *testing.T) {
	mux := http.NewServeMux()
	gate := make(chan bool)
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, r *http.Request) {
		s := NewStream(w)
		for i := range 3 {
			if s.Send(note{N: i}) != nil {
				return
			}
			<-gate // a line that waited for more to be sent would never arrive
		}
	})
	gone := make(chan bool)
	mux.HandleFunc("GET /endless", func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		s := NewStream(w)
		for s.Send(note{Text: "x"}) == nil && r.Context().Err() == nil {
		}
	})
	mux.HandleFunc("GET /torn", func(w http.ResponseWriter, _ *http.Request) {
		NewStream(w).Send(note{N: 1})
		panic(http.ErrAbortHandler)
	})
	c, _ := serve(t, mux)
	var got []int
	if err := Each(t.Context(), c, "/count", func(n note) error { got = append(got, n.N); gate <- true; return nil }); err != nil || !reflect.DeepEqual(got, []int{0, 1, 2}) {
		t.Errorf("%v %v", got, err)
	}
	stop := errors.New("enough")
	if err := Each(t.Context(), c, "/endless", func(note) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	<-gone // the server learns that its client went away
	n := 0
	if err := Each(t.Context(), c, "/torn", func(note) error { n++; return nil }); fail.KindOf(err) != fail.Unavailable || n != 1 {
		t.Errorf("a torn answer: %v after %d", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Each(ctx, c, "/count", func(note) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(gate)
	body, err := c.Raw(t.Context(), "/count")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != "{\"text\":\"\"}\n{\"text\":\"\",\"n\":1}\n{\"text\":\"\",\"n\":2}\n" {
		t.Errorf("%q %v", b, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "agent.sock"))
	err := c.Call(t.Context(), "GET", "/x", nil, nil)
	if fail.KindOf(err) != fail.Unavailable || !strings.Contains(err.Error(), "agent does not answer") || !strings.Contains(fail.As(err).Hint, "fairlead agent start") {
		t.Errorf("%v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/x", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"text":"a`) })
	c, srv := serve(t, mux)
	for _, path := range []string{"/x", "/half"} {
		var v note
		if err := c.Call(t.Context(), "GET", path, nil, &v); fail.KindOf(err) != fail.Unavailable {
			t.Errorf("%s: %v", path, err)
		}
	}
	srv.Close()
	if err := c.Call(t.Context(), "GET", "/x", nil, nil); fail.KindOf(err) != fail.Unavailable {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := fail.New(fail.Interrupted, "", "Ctrl-C")
	cancel(stop)
	if err := c.Call(ctx, "GET", "/x", nil, nil); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
