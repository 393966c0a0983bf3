package edge

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"time"
)

const (
	// endWait is how long the end of a request may take whose method seldom has a body, before it is taken for one that has.
	endWait = 100 * time.Millisecond
	// endWaitOthers is that for other methods: of some the client waits for an answer before it sends anything.
	endWaitOthers = 5 * time.Millisecond
)

// settled is a request as net/http makes them, of one that the library for HTTP/3 made: one without a body has none, and the trailers
// that were announced are in the map that is there from the beginning.
func settled(r *http.Request) *http.Request {
	out := new(http.Request)
	*out = *r
	out.Trailer = maps.Clone(r.Trailer)
	body := &streamBody{ReadCloser: r.Body, from: r, trailer: out.Trailer}
	out.Body = body
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	if r.ContentLength >= 0 {
		return out
	}
	wait := endWaitOthers
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodTrace:
		wait = endWait
	}
	body.begun = make(chan struct{})
	go func() {
		body.n, body.err = body.ReadCloser.Read(body.first[:])
		close(body.begun)
	}()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-body.begun:
		if body.n == 0 && errors.Is(body.err, io.EOF) {
			out.Body, out.ContentLength = http.NoBody, 0
		}
	case <-t.C:
	}
	return out
}

// streamBody is a body of which HTTP/3 does not say ahead whether there is anything.
type streamBody struct {
	io.ReadCloser
	from    *http.Request // it gets the trailers when the body ends
	trailer http.Header

	begun chan struct{} // closed when first was read; nil where that need not be
	first [512]byte
	n     int
	err   error
}

// Read implements [io.Reader].
func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	if errors.Is(err, io.EOF) {
		for name := range b.trailer {
			if v, ok := b.from.Trailer[name]; ok {
				b.trailer[name] = v
			}
		}
	}
	return n, err
}

func (b *streamBody) read(p []byte) (int, error) {
	if b.begun == nil {
		return b.ReadCloser.Read(p)
	}
	<-b.begun // closing the body ends this, too
	n := copy(p, b.first[:b.n])
	copy(b.first[:], b.first[n:b.n])
	if b.n -= n; b.n > 0 {
		return n, nil
	}
	b.begun = nil
	return n, b.err
}
