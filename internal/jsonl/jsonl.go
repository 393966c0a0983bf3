// Package jsonl writes the parts of a line of JSON onto a buffer: without reflection and without an allocation, for those who write
// many lines.
package jsonl

import (
	"time"
	"unicode/utf8"
)

// Plain are the ASCII characters that stand for themselves in a JSON string.
var Plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// AppendMember writes before, which ends the member before it and names this one, and s as its value.
func AppendMember(b []byte, before, s string) []byte {
	return AppendString(append(b, before...), s)
}

// AppendString writes s as a JSON string; what is no UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if Plain[c] {
			i++
			continue
		}
		n := 1
		var as string
		switch {
		case c == '"':
			as = `\"`
		case c == '\\':
			as = `\\`
		case c == '\n':
			as = `\n`
		case c == '\t':
			as = `\t`
		case c < ' ':
			as = `\u00` + string([]byte{hex[c>>4], hex[c&15]})
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			as = "\ufffd"
		}
		b = append(append(b, s[done:i]...), as...)
		i += n
		done = i
	}
	return append(append(b, s[done:]...), '"')
}

// AppendTime writes t in UTC with so many digits of the second's fraction, at most nine, always as wide: so the lines of a file sort
// as text.
func AppendTime(b []byte, t time.Time, digits int) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, sec := t.Clock()
	b = appendPadded(b, year, 4)
	b = appendPadded(append(b, '-'), int(month), 2)
	b = appendPadded(append(b, '-'), day, 2)
	b = appendPadded(append(b, 'T'), hour, 2)
	b = appendPadded(append(b, ':'), minute, 2)
	b = appendPadded(append(b, ':'), sec, 2)
	fraction := t.Nanosecond()
	for range 9 - digits {
		fraction /= 10
	}
	b = appendPadded(append(b, '.'), fraction, digits)
	return append(b, 'Z')
}

func appendPadded(b []byte, n, width int) []byte {
	b = append(b, "000000000"[:width]...)
	for i := len(b) - 1; n > 0 && width > 0; i, width = i-1, width-1 {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}
