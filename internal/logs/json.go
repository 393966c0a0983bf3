package logs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/internal/jsonl"
)

// maxDepth is how deep a line's values may nest; a deeper line is kept as plain text.
const maxDepth = 200

// eachMember walks a flat JSON object without building it: the values are handed on as they stand, as bytes and as text.
// It reports whether the whole line is one valid object; f has seen the members before the fault by then. Walking and
// checking are one pass, because this is most of what taking in a line costs.
func eachMember(line []byte, f func(key string, raw []byte, val string)) bool {
	text := string(line) // the one copy: keys and plain strings are parts of it
	s := scanner{b: line, simple: simple(line)}
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return s.end()
	}
	for {
		s.space()
		start := s.i
		plain, ok := s.text()
		if !ok {
			return false
		}
		key := text[start+1 : s.i-1]
		if !plain {
			key, _ = unquote(text[start:s.i])
		}
		if !s.take(':') {
			return false
		}
		s.space()
		start = s.i
		if !s.value(maxDepth) {
			return false
		}
		f(key, line[start:s.i:s.i], text[start:s.i])
		if !s.take(',') {
			return s.take('}') && s.end()
		}
	}
}

// scanner moves over JSON and checks what it moves over.
type scanner struct {
	b      []byte
	i      int
	simple bool // b is simple, so that a string ends at the next quote
}

// simple reports whether b is printable ASCII without a backslash, as most lines are: eight bytes at a time.
func simple(b []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		slash := x ^ ones*'\\' // its zero bytes are the backslashes
		if (x|(x-ones*' ')|(slash-ones)&^slash)&high != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c >= utf8.RuneSelf || c == '\\' {
			return false
		}
	}
	return true
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t' || s.b[s.i] == '\n' || s.b[s.i] == '\r') {
		s.i++
	}
}

// take moves over space and c.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) end() bool { s.space(); return s.i == len(s.b) }

// text moves over a string, and tells one without escapes.
func (s *scanner) text() (plain, ok bool) {
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return false, false
	}
	if s.simple {
		n := bytes.IndexByte(s.b[s.i+1:], '"')
		s.i += n + 2
		return true, n >= 0
	}
	plain = true
	for i := s.i + 1; i < len(s.b); i++ {
		c := s.b[i]
		switch {
		case jsonl.Plain[c] || c >= utf8.RuneSelf:
		case c == '"':
			s.i = i + 1
			return plain, true
		case c == '\\':
			plain = false
			n := escape(s.b[i+1:])
			if n == 0 {
				return false, false
			}
			i += n
		default:
			return false, false
		}
	}
	return false, false
}

// escape returns the length of what stands behind a backslash, 0 where that is no escape.
func escape(b []byte) int {
	switch {
	case len(b) == 0:
		return 0
	case strings.IndexByte(`"\/bfnrt`, b[0]) >= 0:
		return 1
	case b[0] != 'u' || len(b) < 5:
		return 0
	}
	for _, c := range b[1:5] {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return 0
		}
	}
	return 5
}

// value moves over any value.
func (s *scanner) value(depth int) bool {
	if s.i >= len(s.b) || depth == 0 {
		return false
	}
	switch s.b[s.i] {
	case '"':
		_, ok := s.text()
		return ok
	case '{':
		s.i++
		return s.take('}') || s.items(depth, '}')
	case '[':
		s.i++
		return s.take(']') || s.items(depth, ']')
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	return s.number()
}

// items moves over the members of an object or a list, up to its closing bracket.
func (s *scanner) items(depth int, closing byte) bool {
	for {
		s.space()
		if closing == '}' {
			if _, ok := s.text(); !ok || !s.take(':') {
				return false
			}
			s.space()
		}
		if !s.value(depth - 1) {
			return false
		}
		if !s.take(',') {
			return s.take(closing)
		}
	}
}

func (s *scanner) word(w string) bool {
	ok := bytes.HasPrefix(s.b[s.i:], []byte(w))
	s.i += len(w)
	return ok
}

// digits moves over digits and reports whether there were any.
func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > start
}

// is moves over a or b.
func (s *scanner) is(a, b byte) bool {
	ok := s.i < len(s.b) && (s.b[s.i] == a || s.b[s.i] == b)
	if ok {
		s.i++
	}
	return ok
}

func (s *scanner) number() bool {
	s.is('-', '-')
	if !s.is('0', '0') && !s.digits() {
		return false
	}
	if s.is('.', '.') && !s.digits() {
		return false
	}
	if s.is('e', 'E') {
		s.is('+', '-')
		return s.digits()
	}
	return true
}

// unquote returns the text of a JSON string that is known to be valid.
func unquote(v string) (string, bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	for i := range len(v) {
		if v[i] == '\\' {
			var s string
			err := json.Unmarshal([]byte(v), &s)
			return s, err == nil
		}
	}
	return v[1 : len(v)-1], true
}

// append writes r as one JSON line onto b.
func (r *Record) append(b []byte) []byte {
	digits := 6
	if r.Stream == Access {
		digits = 9 // as the edge wrote it: requests are many
	}
	b = jsonl.AppendTime(append(b, `{"time":"`...), r.Time, digits)
	b = jsonl.AppendMember(b, `","level":`, r.Level)
	b = jsonl.AppendMember(b, `,"service":`, r.Service)
	b = jsonl.AppendMember(b, `,"environment":`, r.Env)
	b = strconv.AppendInt(append(b, `,"release":`...), int64(r.Release), 10)
	b = strconv.AppendInt(append(b, `,"instance":`...), int64(r.Instance), 10)
	b = jsonl.AppendMember(b, `,"stream":`, r.Stream)
	if r.Stream != Access || r.Message != "" {
		b = jsonl.AppendMember(b, `,"message":`, r.Message)
	}
	if r.TraceID != "" {
		b = jsonl.AppendMember(b, `,"trace_id":`, r.TraceID)
	}
	for _, f := range r.Fields {
		b = jsonl.AppendMember(b, ",", f.Key)
		b = append(append(b, ':'), f.Value...)
	}
	return append(b, '}', '\n')
}

// MarshalJSON writes r flat, as it stands in the file.
func (r Record) MarshalJSON() ([]byte, error) { return bytes.TrimSpace(r.append(nil)), nil }

// UnmarshalJSON reads what MarshalJSON or the file holds.
func (r *Record) UnmarshalJSON(line []byte) error {
	*r = Record{}
	var bad error
	valid := eachMember(bytes.Clone(line), func(key string, raw []byte, val string) {
		if err := r.set(key, raw, val); err != nil && bad == nil {
			bad = fmt.Errorf("%s: %w", key, err)
		}
	})
	if !valid {
		return fmt.Errorf("%.60q is no record", line)
	}
	return bad
}

// set takes one member. Names count as they are: a line's own "Time" is not ours.
func (r *Record) set(key string, raw []byte, val string) (err error) {
	text := func(p *string) error {
		s, ok := unquote(val)
		if !ok {
			return fmt.Errorf("%s is no text", val)
		}
		*p = s
		return nil
	}
	switch key {
	case "time":
		var s string
		if err = text(&s); err == nil {
			r.Time, err = time.Parse(time.RFC3339Nano, s)
		}
	case "level":
		err = text(&r.Level)
	case "service":
		err = text(&r.Service)
	case "environment":
		err = text(&r.Env)
	case "stream":
		err = text(&r.Stream)
	case "message":
		err = text(&r.Message)
	case "trace_id":
		err = text(&r.TraceID)
	case "release":
		r.Release, err = strconv.Atoi(val)
	case "instance":
		r.Instance, err = strconv.Atoi(val)
	default:
		r.Fields = append(r.Fields, Field{key, raw})
	}
	return err
}
