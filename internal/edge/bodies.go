package edge

import (
	"errors"
	"io"
	"net/http"
	"sync"
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
	ex *exchange
}

// Read notes when it is the client who breaks the request off.
func (b clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.ex.cutOff.Store(true)
	}
	return n, err
}

// countingWriter sees what is answered.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		w.status = code
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
