//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// pass hands the answer on whose head was read.
func (a *reply) pass() error {
	c, ex, up := a.c, a.ex, a.up
	f := a.frame
	if up.head.first == "HTTP/1.0" {
		f.close = true
	}
	c.s.proxy.begun(ex, a.status, a.now)
	bodiless := c.head.first == http.MethodHead || a.status == http.StatusNoContent || a.status == http.StatusNotModified
	untold := !bodiless && !f.chunked && f.length < 0 // it ends with the connection
	a.keep = !c.frame.close && !c.s.leaving.Load() && !ex.route.Direct
	a.head(f, bodiless, untold)
	var err error
	switch {
	case bodiless:
	case f.chunked:
		err = a.chunks()
	case untold:
		f.close = true
		err = a.rest()
	default:
		err = a.exactly(f.length)
	}
	if err == nil {
		err = c.w.Flush()
	}
	here := c.unwatch()
	if err != nil {
		a.broken, a.keep = true, false
		a.gone = a.gone || !here || errors.Is(err, errClient)
		a.drop()
		return err
	}
	if f.close || up.r.Buffered() > 0 {
		a.drop()
	} else {
		c.s.upstreams.put(ex.end.addr, up, a.now)
		a.up = nil
	}
	a.keep = a.keep && here
	return nil
}

// head writes the head of the answer. What ends with the connection is sent in chunks: so the client knows that it was all.
func (a *reply) head(f messageFrame, bodiless, untold bool) {
	w, h := a.c.w, &a.up.head
	w.WriteString("HTTP/1.1 ")
	w.WriteString(h.second)
	w.WriteByte(' ')
	w.WriteString(h.third)
	w.WriteString("\r\n")
	if a.ex.route.changesAnswer {
		a.changedFields(f)
	} else {
		for _, x := range h.fields {
			if !f.hop(x.name) {
				line(w, x.name, x.value)
			}
		}
	}
	switch {
	case f.length >= 0 && a.status != http.StatusNoContent:
		w.WriteString("Content-Length: ")
		w.Write(strconv.AppendInt(w.AvailableBuffer(), f.length, 10))
		w.WriteString("\r\n")
	case !bodiless && (f.chunked || untold):
		w.WriteString("Transfer-Encoding: chunked\r\n")
	}
	if f.chunked && !bodiless {
		for _, x := range h.fields {
			if same(x.name, "trailer") {
				line(w, x.name, x.value)
			}
		}
	}
	if !a.keep {
		w.WriteString("Connection: close\r\n")
	}
	w.WriteString("\r\n")
}

func line(w *bufio.Writer, name, value string) {
	w.WriteString(name)
	w.WriteString(": ")
	w.WriteString(value)
	w.WriteString("\r\n")
}

// changedFields writes the answer's headers as the route wants them.
func (a *reply) changedFields(f messageFrame) {
	all := http.Header{}
	for _, x := range a.up.head.fields {
		if !f.hop(x.name) {
			all.Add(x.name, x.value)
		}
	}
	a.ex.route.Headers.Response.apply(all)
	for name, values := range all {
		for _, v := range values {
			line(a.c.w, name, v)
		}
	}
}

// errClient marks what went wrong on the client's side.
var errClient = errors.New("the client does not take the answer")

// exactly passes n bytes on.
func (a *reply) exactly(n int64) error {
	for n > 0 {
		b, err := a.some(n)
		if err != nil {
			return err
		}
		if err := a.tell(b); err != nil {
			return err
		}
		n -= int64(len(b))
	}
	return nil
}

// refill waits until there is something of the instance's to read; what waits to be sent goes out before that. An end is one
// that comes too early.
func (a *reply) refill() error {
	if a.up.r.Buffered() > 0 {
		return nil
	}
	return a.further(1)
}

// further waits until n bytes are there.
func (a *reply) further(n int) error {
	if err := a.c.w.Flush(); err != nil {
		return errors.Join(errClient, err)
	}
	a.now = time.Now()
	err := a.more(n)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// some returns up to n bytes of what the instance said, waiting for one. The bytes are taken, and stay until the next call.
func (a *reply) some(n int64) ([]byte, error) {
	if err := a.refill(); err != nil {
		return nil, err
	}
	r := a.up.r
	b, err := r.Peek(int(min(int64(r.Buffered()), n)))
	r.Discard(len(b))
	return b, err
}

func (a *reply) tell(b []byte) error {
	if _, err := a.c.w.Write(b); err != nil {
		return errors.Join(errClient, err)
	}
	a.sent += int64(len(b))
	return nil
}

// rest passes on what comes until the instance closes, in chunks.
func (a *reply) rest() error {
	for {
		b, err := a.some(1 << 30)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := a.chunk(b); err != nil {
			return err
		}
	}
	_, err := a.c.w.WriteString("0\r\n\r\n")
	return err
}

func (a *reply) chunk(b []byte) error {
	w := a.c.w
	w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(len(b)), 16))
	w.WriteString("\r\n")
	if err := a.tell(b); err != nil {
		return err
	}
	_, err := w.WriteString("\r\n")
	return err
}

// maxChunkLine bounds a chunk's size with its extensions, which are dropped (RFC 9112, section 7.1.1).
const maxChunkLine = 4 << 10

// chunks passes a chunked body on, chunk by chunk of what comes, and its trailers.
func (a *reply) chunks() error {
	for {
		text, err := a.crlf()
		if err != nil {
			return err
		}
		size, ok := chunkSize(text)
		if !ok {
			return errGarbage
		}
		if size == 0 {
			break
		}
		for size > 0 {
			b, err := a.some(size)
			if err != nil {
				return err
			}
			if err := a.chunk(b); err != nil {
				return err
			}
			size -= int64(len(b))
		}
		if text, err = a.crlf(); err != nil || text != "" {
			return errors.Join(errGarbage, err)
		}
	}
	a.c.w.WriteString("0\r\n")
	for n := 0; ; n++ {
		text, err := a.crlf()
		if err != nil || n > maxFields {
			return errors.Join(errGarbage, err)
		}
		if text == "" {
			_, err = a.c.w.WriteString("\r\n")
			return err
		}
		var h head
		if !h.parse([]byte("a b c\r\n"+text+"\r\n\r\n")) || len(h.fields) != 1 {
			return errGarbage
		}
		if f := (messageFrame{}); !f.hop(h.fields[0].name) {
			line(a.c.w, h.fields[0].name, h.fields[0].value)
		}
	}
}

// crlf reads a line that ends in CR LF.
func (a *reply) crlf() (string, error) {
	for r := a.up.r; ; {
		b, _ := r.Peek(r.Buffered())
		switch i := bytes.IndexByte(b, '\n'); {
		case i < 0 && len(b) > maxChunkLine, i > maxChunkLine, i == 0, i > 0 && b[i-1] != '\r':
			return "", errGarbage
		case i > 0:
			text := string(b[:i-1])
			r.Discard(i + 1)
			return text, nil
		}
		if err := a.further(len(b) + 1); err != nil {
			return "", err
		}
	}
}

// maxDigits of a chunk's size: more would not fit in 63 bits.
const maxDigits = 15

// chunkSize reads a chunk's size, in hexadecimal digits and nothing else before what may follow it.
func chunkSize(s string) (int64, bool) {
	n, digits := int64(0), 0
	for ; digits < len(s); digits++ {
		c := s[digits]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		case c == ';' || c == ' ' || c == '\t':
			return n, digits > 0 && (c == ';' || trim(s[digits:]) == "") && plainText(s[digits:])
		default:
			return 0, false
		}
		if digits == maxDigits {
			return 0, false
		}
		n = n<<4 | int64(c)
	}
	return n, digits > 0
}
