//go:build unix

package edge

import (
	"bytes"
	"strconv"
	"unsafe"
)

// The edge reads plain HTTP/1.1 itself where a request is of the usual kind, and gives the connection to net/http for everything
// else: upgrades, chunked and large bodies, HTTP/1.0, HTTP/2 and whatever is not written as RFC 9112 wants it. So what is
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

// headEnd returns the length of the head that b begins with, 0 where it is not all there.
func headEnd(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

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
	h.first, line, three = cutSpace(line)
	h.second, h.third, _ = cutSpace(line)
	if !three || h.second == "" || !plainText(h.second) || !plainText(h.third) {
		return false
	}
	for rest != "" {
		if line, rest, ok = cutLine(rest); !ok || len(h.fields) == maxFields {
			return false
		}
		i := 0
		for i < len(line) && line[i] != ':' {
			i++
		}
		if i == len(line) || !allToken(line[:i]) {
			return false
		}
		value := trim(line[i+1:])
		if !plainText(value) {
			return false
		}
		h.fields = append(h.fields, field{line[:i], value})
	}
	return true
}

// cutLine takes a line off that ends in CR LF and has neither inside.
func cutLine(s string) (line, rest string, ok bool) {
	for i := range len(s) {
		switch s[i] {
		case '\n':
			return "", "", false
		case '\r':
			if i+1 == len(s) || s[i+1] != '\n' {
				return "", "", false
			}
			return s[:i], s[i+2:], true
		}
	}
	return "", "", false
}

func cutSpace(s string) (before, after string, ok bool) {
	for i := range len(s) {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// same compares names, whose case does not count.
func same(a, lower string) bool {
	if len(a) != len(lower) {
		return false
	}
	for i := range len(a) {
		c := a[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

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
		switch len(x.name) {
		case 14:
			if same(x.name, "content-length") {
				n, ok := length(x.value)
				f.odd = f.odd || !ok || f.length >= 0
				f.length = n
			}
		case 17:
			if same(x.name, "transfer-encoding") {
				f.odd = f.odd || f.chunked || !same(x.value, "chunked")
				f.chunked = true
			}
		case 10:
			if same(x.name, "connection") {
				f.connection(x.value)
			}
		}
	}
	f.odd = f.odd || f.chunked && f.length >= 0
	return f
}

// connection reads a Connection header.
func (f *messageFrame) connection(list string) {
	for list != "" {
		var name string
		i := 0
		for i < len(list) && list[i] != ',' {
			i++
		}
		name, list = trim(list[:i]), list[min(i+1, len(list)):]
		switch {
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

// hop reports whether a header belongs to the connection and not to the message (RFC 9110, section 7.6.1). Content-Length is
// among them: the edge writes its own.
func (f *messageFrame) hop(name string) bool {
	switch len(name) {
	case 2:
		return same(name, "te")
	case 7:
		if same(name, "trailer") || same(name, "upgrade") {
			return true
		}
	case 10:
		if same(name, "connection") || same(name, "keep-alive") {
			return true
		}
	case 14:
		if same(name, "content-length") {
			return true
		}
	case 16:
		if same(name, "proxy-connection") {
			return true
		}
	case 17:
		if same(name, "transfer-encoding") {
			return true
		}
	case 18:
		if same(name, "proxy-authenticate") {
			return true
		}
	case 19:
		if same(name, "proxy-authorization") {
			return true
		}
	}
	for _, d := range f.drop {
		if len(d) == len(name) && sameFold(d, name) {
			return true
		}
	}
	return false
}

func sameFold(a, b string) bool {
	for i := range len(a) {
		x, y := a[i], b[i]
		if x >= 'A' && x <= 'Z' {
			x += 'a' - 'A'
		}
		if y >= 'A' && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}
