package logs

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Record is one line of a service's log, or several that belong together. It is written as one flat JSON object.
type Record struct {
	Time     time.Time
	Level    string // debug, info, warn, error or fatal
	Service  string
	Env      string
	Release  int
	Instance int
	Stream   string // stdout, stderr, [Access], or fairlead for its own remarks
	Message  string
	TraceID  string
	Fields   []Field // everything else the line held, in its order
}

// Field is one further member of a JSON line, its value as it stood there.
type Field struct {
	Key   string
	Value json.RawMessage
}

// The members that loggers use for what every record has. slog: time, level, msg; zap: ts, level, msg; logrus: time,
// level, msg; zerolog: time, level, message.
type role uint8

const (
	noRole role = iota
	timeRole
	levelRole
	messageRole
	traceRole
)

func roleOf(key string) role {
	switch key {
	case "time", "ts", "timestamp", "@timestamp":
		return timeRole
	case "level", "lvl", "severity":
		return levelRole
	case "msg", "message":
		return messageRole
	case "trace_id", "traceId", "traceID":
		return traceRole
	}
	return noRole
}

// own reports whether fairlead sets the member; a line's own one of such a name moves aside with an underscore.
func own(key string) bool {
	switch key {
	case "time", "level", "service", "environment", "release", "instance", "stream", "message", "trace_id":
		return true
	}
	return false
}

// parser reads lines. What it returns is good until it reads the next: the fields are parts of the line.
type parser struct{ fields []Field }

// line reads one line, and tells a JSON object. now stamps a line that holds no time of its own.
func (p *parser) line(line []byte, now time.Time) (r Record, isJSON bool) {
	if t := bytes.TrimSpace(line); len(t) > 1 && t[0] == '{' && t[len(t)-1] == '}' {
		if r, ok := p.object(t, now); ok {
			return r, true
		}
	}
	text := clean(line)
	return Record{Time: now, Level: guessLevel(text), Message: text}, false
}

func (p *parser) object(line []byte, now time.Time) (Record, bool) {
	if !utf8.Valid(line) {
		line = bytes.ToValidUTF8(line, []byte("\ufffd"))
	}
	r := Record{Time: now, Level: "info"}
	var has [traceRole + 1]bool
	p.fields = p.fields[:0]
	ok := eachMember(line, func(key string, raw []byte, val string) {
		if what := roleOf(key); what != noRole && !has[what] {
			if has[what] = r.fill(what, val); has[what] {
				return
			}
		}
		if own(key) {
			key = "_" + key
		}
		p.fields = append(p.fields, Field{key, raw})
	})
	if len(p.fields) > 0 {
		r.Fields = p.fields
	}
	return r, ok
}

// fill sets the part of r that has the role, unless val is not of its form.
func (r *Record) fill(what role, val string) (ok bool) {
	switch what {
	case timeRole:
		if t, ok := parseTime(val); ok {
			r.Time = t
			return true
		}
	case levelRole:
		if l, ok := normalLevel(val); ok {
			r.Level = l
			return true
		}
	case messageRole:
		r.Message, ok = unquote(val)
	case traceRole:
		r.TraceID, ok = unquote(val)
		ok = ok && r.TraceID != ""
	}
	return ok
}

// parseTime takes RFC 3339 text, also without the zone's colon as zap writes it, and seconds, milliseconds, microseconds
// or nanoseconds since 1970 by their size. A year that no service has seen is not its time: a zero time.Time is common.
func parseTime(v string) (t time.Time, ok bool) {
	if s, ok := unquote(v); ok {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t, err = time.Parse("2006-01-02T15:04:05.999999999Z0700", s)
		}
		y := t.UTC().Year()
		return t, err == nil && y >= 1970 && y < 10000
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 1e8 {
		switch {
		case n < 1e11:
			return time.Unix(n, 0), true
		case n < 1e14:
			return time.UnixMilli(n), true
		case n < 1e17:
			return time.UnixMicro(n), true
		}
		return time.Unix(0, n), true
	}
	x, err := strconv.ParseFloat(v, 64)
	if err != nil || x < 1e8 || x >= 9e18 {
		return time.Time{}, false
	}
	// Rounded to the microsecond: a float of today's seconds has no more, and cutting off would make .123456 a .123455.
	switch {
	case x < 1e11: // seconds, as zap writes them
		return time.UnixMicro(int64(math.Round(x * 1e6))), true
	case x < 1e14:
		return time.UnixMicro(int64(math.Round(x * 1e3))), true
	case x < 1e17:
		return time.UnixMicro(int64(math.Round(x))), true
	}
	return time.Unix(0, int64(x)), true
}

// levels are the forms that loggers write most; they need no closer look.
var levels = map[string]string{
	`"debug"`: "debug", `"info"`: "info", `"warn"`: "warn", `"warning"`: "warn", `"error"`: "error", `"fatal"`: "fatal",
	`"DEBUG"`: "debug", `"INFO"`: "info", `"WARN"`: "warn", `"ERROR"`: "error",
	`10`: "debug", `20`: "debug", `30`: "info", `40`: "warn", `50`: "error", `60`: "fatal", // pino and bunyan
}

// normalLevel maps a logger's level to ours.
func normalLevel(v string) (string, bool) {
	if l, ok := levels[v]; ok {
		return l, true
	}
	if s, ok := unquote(v); ok {
		switch l := strings.ToLower(s); {
		case l == "trace" || strings.HasPrefix(l, "debug"):
			return "debug", true
		case strings.HasPrefix(l, "info") || l == "notice":
			return "info", true
		case strings.HasPrefix(l, "warn"):
			return "warn", true
		case strings.HasPrefix(l, "err"):
			return "error", true
		case l == "fatal" || l == "panic" || l == "dpanic" || l == "critical" || l == "alert" || strings.HasPrefix(l, "emerg"):
			return "fatal", true
		}
		return "", false
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 10 || n > 60 {
		return "", false
	}
	return levels[strconv.Itoa(n/10*10)], true
}

// guessLevel reads the level that a plain line begins with, in the forms people print it. Capitals are meant as a level
// wherever they stand there; "error" alone is an ordinary word unless it comes first or is marked as in "error:" or
// "[error]", so that "started without error" is none.
func guessLevel(text string) string {
	const seps = " []|:=\t"
	first := true
	for i := 0; i < min(len(text), 48); {
		if strings.IndexByte(seps, text[i]) >= 0 {
			i++
			continue
		}
		end := i + 1
		for end < len(text) && strings.IndexByte(seps, text[end]) < 0 {
			end++
		}
		marked := first || text[i-1] == '[' || text[i-1] == '=' || end < len(text) && strings.IndexByte(":]|", text[end]) >= 0
		w := text[i:end]
		if l := wordLevel(w); l != "" && (marked || w[0] < 'a') {
			return l
		}
		if c := w[0] | 0x20; c >= 'a' && c <= 'z' && w != "time" && w != "ts" && w != "level" && w != "lvl" {
			first = false
		}
		i = end
	}
	return "info"
}

func wordLevel(w string) string {
	switch w {
	case "DEBUG", "DBG", "debug":
		return "debug"
	case "INFO", "INF", "info":
		return "info"
	case "WARN", "WARNING", "WRN", "warn", "warning":
		return "warn"
	case "ERROR", "ERR", "error":
		return "error"
	case "FATAL", "PANIC", "FTL", "panic", "fatal":
		return "fatal"
	}
	return ""
}

// clean makes text out of what may be binary: bytes that are no UTF-8 and control characters are written as \xNN.
func clean(b []byte) string {
	ok := utf8.Valid(b)
	for i := 0; ok && i < len(b); i++ {
		ok = b[i] >= ' ' && b[i] != 0x7f || b[i] == '\t' || b[i] == '\n'
	}
	if ok {
		return string(b)
	}
	var s strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\t' && r != '\n' || r == 0x7f {
			const hex = "0123456789abcdef"
			s.WriteString(`\x`)
			s.WriteByte(hex[b[0]>>4])
			s.WriteByte(hex[b[0]&15])
			b = b[1:]
			continue
		}
		s.Write(b[:n])
		b = b[n:]
	}
	return s.String()
}

var traceHeads = [][]byte{[]byte("panic: "), []byte("fatal error: "), []byte("Traceback (most recent"), []byte("SIGQUIT: "),
	[]byte("SIGSEGV: "), []byte("SIGABRT: "), []byte("SIGBUS: "), []byte("SIGFPE: "), []byte("runtime: "), []byte("unexpected fault address")}

// traceLevel returns the level of a trace that line begins, "" where it begins none. A server that survives a handler's
// panic says so before the trace (net/http, gin): an error, not its end.
func traceLevel(line []byte) string {
	for _, h := range traceHeads {
		if bytes.HasPrefix(line, h) {
			return "fatal"
		}
	}
	switch {
	case goroutineHead(line):
		return "fatal"
	case bytes.Contains(line, []byte("panic serving ")), bytes.Contains(line, []byte("panic recovered:")):
		return "error"
	}
	return ""
}

// goroutineHead reports whether line is as "goroutine 7 [running]:", and not "goroutine pool started".
func goroutineHead(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("goroutine "))
	return ok && len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' && bytes.HasSuffix(rest, []byte("]:"))
}

// continues reports whether line belongs to a plain record before it, which is a Go trace or not: it is indented, or has
// a form that only traces have.
func continues(trace bool, line []byte) bool {
	if len(line) > 0 && (line[0] == '\t' || line[0] == ' ') {
		return true
	}
	if !trace {
		return false
	}
	switch {
	case len(line) == 0:
		return true
	case line[0] == '{':
		return false
	case traceLevel(line) == "fatal", frame(line), register(line):
		return true
	}
	for _, h := range []string{"created by ", "[signal ", "[originating ", "exit status ", "...", "PC=", "stack: "} {
		if bytes.HasPrefix(line, []byte(h)) {
			return true
		}
	}
	return false
}

// frame reports whether line is a call in a trace, as main.(*T).run(0x1, ...).
func frame(line []byte) bool {
	open := bytes.IndexByte(line, '(')
	if open < 1 || line[len(line)-1] != ')' {
		return false
	}
	name := line[:open]
	return bytes.IndexByte(name, ' ') < 0 && (bytes.IndexByte(name, '.') >= 0 || string(name) == "panic")
}

// register reports whether line is one of the registers behind a signal's trace, as "rax    0xca".
func register(line []byte) bool {
	name, val, ok := bytes.Cut(line, []byte(" "))
	val = bytes.TrimLeft(val, " ")
	return ok && len(name) <= 6 && bytes.HasPrefix(val, []byte("0x")) && bytes.IndexByte(val, ' ') < 0
}
