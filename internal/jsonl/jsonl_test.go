package jsonl

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestString(t *testing.T) {
	for _, s := range []string{"", "plain", "a\"b\\c\nd\te\rf\x00g\x1f\x7f", "\xff\xfe<&>", "ünï\u2028", strings.Repeat("\x01", 100)} {
		b := AppendString([]byte("x"), s)
		var got string
		if err := json.Unmarshal(b[1:], &got); err != nil || got != strings.ToValidUTF8(strings.ReplaceAll(s, "\xff\xfe", "\ufffd\ufffd"), "\ufffd") {
			t.Errorf("%q: %s %q %v", s, b, got, err)
		}
		if !utf8.Valid(b) || strings.ContainsAny(string(b), "\n\r") {
			t.Errorf("%q: %q is no part of one line", s, b)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 60_007_008, time.FixedZone("", 3600))
	for digits, want := range map[int]string{3: "2026-01-02T02:04:05.060Z", 6: "2026-01-02T02:04:05.060007Z", 9: "2026-01-02T02:04:05.060007008Z"} {
		if got := string(AppendTime(nil, at, digits)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
