//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// The edge reads plain HTTP/1.1 itself where a request is of the usual kind, and gives the connection to net/http for everything
// else: upgrades, large bodies, HTTP/1.0, HTTP/2 and whatever is not written as RFC 9112 wants it. So what is
// read here can be narrow: what is not surely right is not judged but handed over.

// field is one line of a head. Both parts lie in the head's own bytes.
type field struct{ name, value string }

// head is the head of a message. It is used again for the next one, so nothing of it may be kept.
type head struct {
	raw    []byte  // all of it, with the empty line; the strings below point into it
	first  string  // a request's method, or a response's version
	second string  // its target, or the status
	third  string  // its version, or the reason
	fields []field // in their order
}

// maxFields bounds the lines of a head.
const maxFields = 100

// token marks the characters of names and methods (RFC 9110, section 5.6.2).
var token = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

func allToken(s string) bool {
	for i := range len(s) {
		if !token[s[i]] {
			return false
		}
	}
	return s != ""
}

// plainText reports whether a value or a reason has only visible characters, spaces and tabs (and what is beyond ASCII).
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// parse reads a head that is all there. It reports false for one that is not written exactly as it should be: lines that end in
// a lone LF, folded lines, space around a name, control characters.
func (h *head) parse(raw []byte) bool {
	h.raw, h.fields = raw, h.fields[:0]
	text := unsafe.String(unsafe.SliceData(raw), len(raw)) // as long as raw is not written to: until the next head
	text = text[:len(text)-2]                              // without the empty line
	line, rest, ok := cutLine(text)
	if !ok {
		return false
	}
	var three bool
	h.first, line, three = strings.Cut(line, " ")
	h.second, h.third, _ = strings.Cut(line, " ")
	if !three || h.second == "" || !plainText(h.first) || !plainText(h.second) || !plainText(h.third) {
		return false
	}
	for rest != "" {
		if line, rest, ok = cutLine(rest); !ok || len(h.fields) == maxFields {
			return false
		}
		name, value, ok := strings.Cut(line, ":")
		value = trim(value)
		if !ok || !allToken(name) || !plainText(value) {
			return false
		}
		h.fields = append(h.fields, field{name, value})
	}
	return true
}

// cutLine takes a line off that ends in CR LF and has no CR inside. A lone LF is for who looks at what the line says.
func cutLine(s string) (line, rest string, ok bool) {
	i := strings.IndexByte(s, '\r')
	if i < 0 || i+1 == len(s) || s[i+1] != '\n' {
		return "", "", false
	}
	return s[:i], s[i+2:], true
}

// trim takes off what may stand around a value (RFC 9110, section 5.6.3).
func trim(s string) string { return strings.Trim(s, " \t") }

// same compares names, whose case does not count. Most differ in their length already.
func same(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// length reads a Content-Length: digits and nothing else.
func length(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// messageFrame is what a head says of where its message ends and what becomes of the connection.
type messageFrame struct {
	length  int64 // of the body; -1 where it is not said
	chunked bool
	close   bool     // the connection ends with the message
	drop    []string // names that Connection lists: they go no further
	odd     bool     // something that is not usual: for net/http, or no answer at all
}

// frame reads the framing headers of a message.
func (h *head) frame() messageFrame {
	f := messageFrame{length: -1}
	for _, x := range h.fields {
		switch {
		case same(x.name, "content-length"):
			n, ok := length(x.value)
			f.odd = f.odd || !ok || f.length >= 0
			f.length = n
		case same(x.name, "transfer-encoding"):
			f.odd = f.odd || f.chunked || !same(x.value, "chunked")
			f.chunked = true
		case same(x.name, "connection"):
			f.connection(x.value)
		}
	}
	f.odd = f.odd || f.chunked && f.length >= 0
	return f
}

// connection reads a Connection header.
func (f *messageFrame) connection(list string) {
	for name := range strings.SplitSeq(list, ",") {
		switch name = trim(name); {
		case same(name, "close"):
			f.close = true
		case same(name, "keep-alive"), name == "":
		case same(name, "upgrade"):
			f.odd = true
		default:
			f.drop = append(f.drop, name)
		}
	}
}

// hop reports whether a header is one of [hops], or was named by Connection.
func (f *messageFrame) hop(name string) bool {
	is := func(h string) bool { return same(h, name) }
	return slices.ContainsFunc(hops, is) || slices.ContainsFunc(f.drop, is)
}

// Get returns the first line of a header, as [net/http.Header.Get] does: the Host is none for it.
func (h *head) Get(name string) string {
	for _, x := range h.fields {
		if same(x.name, name) && !same(x.name, "host") {
			return x.value
		}
	}
	return ""
}

// has implements [asks] for what the edge read itself.
func (h *head) has(method string, x Header) bool {
	if method != "" && method != h.first {
		return false
	}
	return x.Name == "" || slices.ContainsFunc(h.fields, func(f field) bool {
		return same(f.name, x.Name) && !same(f.name, "host") && (x.Value == "" || f.value == x.Value)
	})
}

// errHeadSize says that a head does not fit in the buffer that it is read through.
var errHeadSize = errors.New("the head is too long")

// endOf returns where a head ends for who takes a lone LF for the end of a line, as net/http does; 0 while it is not there.
func endOf(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		switch i += n + 1; {
		case bytes.HasPrefix(b[i:], lf):
			return i + len(lf)
		case bytes.HasPrefix(b[i:], crlf):
			return i + len(crlf)
		}
	}
}

var lf, crlf = []byte("\n"), []byte("\r\n")

// plainChunks looks for the end of a body in chunks that have no extensions, with no trailers behind them: so plain that it can be
// handed on as it is. It returns the length of all that and of what it holds, 0 while the end is not there, and false where it
// is not as plain.
func plainChunks(b []byte) (whole int, holds int64, ok bool) {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0, 0, len(b)-i <= maxDigits+len("\r")
		}
		size, ok := chunkSize(string(bytes.TrimSuffix(b[i:i+n], []byte("\r"))))
		if !ok || b[i+n-1] != '\r' || bytes.ContainsAny(b[i:i+n], "; \t") {
			return 0, 0, false
		}
		i += n + 1
		end := int64(i) + size
		if end+2 > int64(len(b)) {
			return 0, 0, size <= clientBuffer
		}
		if !bytes.HasPrefix(b[end:], crlf) {
			return 0, 0, false
		}
		i, holds = int(end)+2, holds+size
		if size == 0 {
			return i, holds, true
		}
	}
}

// takeHead reads a head through r into buf, which it returns. partial is called whenever a part of it is there, and not all.
// What is not a whole head stays in r.
func takeHead(r *bufio.Reader, buf []byte, partial func() error) ([]byte, error) {
	for scanned := 0; ; {
		if _, err := r.Peek(scanned + 1); err != nil {
			return buf, err
		}
		b, _ := r.Peek(r.Buffered())
		from := max(scanned-3, 0)
		if n := endOf(b[from:]); n > 0 {
			n += from
			buf = append(buf, b[:n]...)
			r.Discard(n)
			return buf, nil
		}
		if len(b) >= r.Size() {
			return buf, errHeadSize
		}
		if err := partial(); err != nil {
			return buf, err
		}
		scanned = len(b)
	}
}
