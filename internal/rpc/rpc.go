// Package rpc is JSON over HTTP on a unix socket: how fairlead's own processes talk. The socket's file mode is its guard.
package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Handle registers f at an [http.ServeMux] pattern. What f returns is written as JSON, an error with its kind and hint.
func Handle(mux *http.ServeMux, pattern string, f func(*http.Request) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			WriteError(w, err)
			return
		}
		b, err := json.Marshal(v)
		if err != nil {
			WriteError(w, fmt.Errorf("%s: the answer: %w", pattern, err))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(b, '\n')) // an error means that the client went away: there is nobody to tell
	})
}

// Decode reads a request's JSON body into a T, strictly.
func Decode[T any](r *http.Request) (T, error) {
	var v T
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fail.New(fail.Usage, r.Method+" "+r.URL.Path, "request body: %w", err)
	}
	return v, nil
}

// WriteError answers with err as JSON and a status code that follows from its kind.
func WriteError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch fail.KindOf(err) {
	case fail.Usage:
		code = http.StatusBadRequest
	case fail.NotFound:
		code = http.StatusNotFound
	case fail.Busy:
		code = http.StatusConflict
	case fail.Preflight:
		code = http.StatusUnprocessableEntity
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(fail.As(err))
}

// Stream answers with one JSON value a line, each sent at once.
type Stream struct {
	enc *json.Encoder
	rc  *http.ResponseController
}

// NewStream starts the answer.
func NewStream(w http.ResponseWriter) *Stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	s := &Stream{json.NewEncoder(w), http.NewResponseController(w)}
	s.rc.Flush()
	return s
}

// Send writes v; an error means that the client went away.
func (s *Stream) Send(v any) error {
	if err := s.enc.Encode(v); err != nil {
		return err
	}
	return s.rc.Flush()
}

// Client calls one socket. It is safe for use by several goroutines.
type Client struct {
	who  string // answers there
	hint string // where nobody does
	http *http.Client
}

// NewClient makes a client of a process of this machine; nothing is dialled before the first call.
func NewClient(sock string) *Client {
	dial := func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", sock)
	}
	// A person does not think in sockets, so it is named by its role.
	c := NewClientBy(strings.TrimSuffix(filepath.Base(sock), ".sock"), dial)
	c.who += " does not answer at " + sock
	c.http.Transport.(*http.Transport).DisableKeepAlives = true // to connect costs nothing here
	c.hint = "run `fairlead agent status`; `fairlead agent start` or `fairlead up` starts it"
	return c
}

// idleFor is how long a connection that is not needed is kept: over SSH each one is a command, with a line in the host's log.
const idleFor = time.Minute

// NewClientBy makes a client of who is connected to by dial; nothing is dialled before the first call.
func NewClientBy(who string, dial func(context.Context) (net.Conn, error)) *Client {
	by := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	return &Client{who: who, http: &http.Client{Transport: &http.Transport{DialContext: by, IdleConnTimeout: idleFor}}}
}

// Transport sends requests to the socket, whatever host their URL names.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Call sends in as JSON (nothing when nil; an [io.Reader] as it is) and fills out from the answer (unless nil).
// A daemon that does not answer gives a [fail.Unavailable]; what it refuses comes back as the [fail.Error] it wrote.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
	} else {
		err = json.NewDecoder(res.Body).Decode(out)
	}
	if err != nil {
		return c.lost(err)
	}
	return nil
}

// Raw sends a GET and returns the answer's body, which the caller closes.
func (c *Client) Raw(ctx context.Context, path string) (io.ReadCloser, error) {
	res, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Each calls f for every line of a streamed answer until it ends, f fails or ctx is done.
func Each[T any](ctx context.Context, c *Client, path string, f func(T) error) error {
	res, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	d := json.NewDecoder(res.Body)
	for {
		var v T
		if err := d.Decode(&v); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return c.lost(err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	switch v := in.(type) {
	case nil:
	case io.Reader:
		body = v
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.lost(err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, c.lost(err)
	}
	e := &fail.Error{}
	if json.Unmarshal(b, e) != nil || e.Kind == "" {
		return nil, fail.New(fail.Internal, method+" "+path, "%s: %s", res.Status, bytes.TrimSpace(b))
	}
	return nil, e
}

// lost says who does not answer.
func (c *Client) lost(err error) error {
	if e, ok := errors.AsType[*fail.Error](err); ok {
		return e // of who connects, who knows better
	}
	if u, ok := errors.AsType[*net.OpError](err); ok {
		err = u.Err
	}
	return fail.New(fail.Unavailable, "", "the %s: %w", c.who, err).Hinted("%s", c.hint)
}
