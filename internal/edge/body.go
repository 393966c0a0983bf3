package edge

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// copyBuffers are what bodies are copied through; to make one for each answer costs as much as the rest of it.
type copyBuffers struct{}

var copyPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get implements [httputil.BufferPool].
func (copyBuffers) Get() []byte { return copyPool.Get().(*[32 << 10]byte)[:] }

// Put implements [httputil.BufferPool].
func (copyBuffers) Put(b []byte) { copyPool.Put((*[32 << 10]byte)(b)) }

// keptBody keeps a request's body open over several tries: the transport closes it even when it could not dial and so
// read nothing of it. ReverseProxy closes the real one in the end.
type keptBody struct{ io.Reader }

// Close does nothing.
func (keptBody) Close() error { return nil }

// clientBody is a request's body as the client sends it.
type clientBody struct {
	io.ReadCloser
	ex      *exchange
	trailer http.Header // filled when the body ends
	ended   atomic.Bool // it was read to its end, and that was one
}

// Read notes when it is the client who breaks the request off.
func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ex.upload.Add(int64(n))
	switch {
	case errors.Is(err, io.EOF):
		for _, k := range framing {
			delete(b.trailer, k) // net/http puts all trailers among those that were announced
		}
		b.ended.Store(true)
	case err != nil && !errors.Is(err, http.ErrBodyReadAfterClose):
		b.ex.cutOff.Store(true)
	}
	return n, err
}

// framing are the fields that may not stand in a trailer: an instance that joins it to the header would read the message anew.
var framing = []string{"Content-Length", "Transfer-Encoding", "Host", "Trailer", "Connection"}

// countingWriter sees what is answered.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
	body   *clientBody // of an HTTP/1 request that has one
	ex     *exchange
	r      *http.Request
}

// FlushError does not send the head of an answer ahead that has nothing else: over HTTP/2 the head must itself say that it is
// the end, or a gRPC client, whose status stands in such a head, waits for trailers (gRPC over HTTP/2, "Responses").
func (w *countingWriter) FlushError() error {
	if w.ex.empty {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *countingWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.status = code
	}
	if w.body != nil && code >= 200 && !w.body.ended.Load() {
		// In full duplex net/http would keep the connection even where the body turns out to be broken, and read what is left
		// of it as the next request.
		w.Header().Set("Connection", "close")
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets [http.ResponseController] flush and hijack.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
