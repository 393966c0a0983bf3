package remote

import (
	"bytes"
	"strings"
	"sync"
)

// What is kept of a command's standard error.
const (
	tailLines = 20
	tailBytes = 16 << 10
)

// tail keeps the last lines of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > tailBytes {
		p = p[len(p)-tailBytes:]
	}
	if over := len(t.buf) + len(p) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// lines returns them oldest first, as text that a terminal takes: a machine's output does not get to move the cursor.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for line := range bytes.Lines(t.buf) {
		if s := printable(string(bytes.TrimRight(line, "\r\n"))); s != "" {
			out = append(out, s)
		}
	}
	return out[max(0, len(out)-tailLines):]
}

// printable replaces what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
