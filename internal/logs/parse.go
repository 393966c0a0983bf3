package logs

import (
	"bytes"
	"encoding/json"
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
	Stream   string // stdout, stderr, or fairlead for the supervisor's own remarks
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
var (
	timeKeys    = []string{"time", "ts", "timestamp", "@timestamp"}
	levelKeys   = []string{"level", "lvl", "severity"}
	messageKeys = []string{"msg", "message"}
	traceKeys   = []string{"trace_id", "traceId", "traceID"}
)

// own are the members that fairlead sets; a line's own member of such a name moves aside with an underscore.
var own = map[string]bool{"time": true, "level": true, "service": true, "environment": true, "release": true,
	"instance": true, "stream": true, "message": true, "trace_id": true}

// parseLine reads one line. now stamps a line that holds no time of its own.
func parseLine(line []byte, now time.Time) Record {
	if t := bytes.TrimSpace(line); len(t) > 1 && t[0] == '{' && t[len(t)-1] == '}' {
		if r, ok := parseJSON(t, now); ok {
			return r
		}
	}
	text := clean(line)
	return Record{Time: now, Level: guessLevel(text), Message: text}
}

func parseJSON(line []byte, now time.Time) (Record, bool) {
	r := Record{Time: now, Level: "info"}
	var timeSet, levelSet, messageSet bool
	ok := eachMember(line, func(key string, val []byte) {
		switch {
		case !timeSet && oneOf(timeKeys, key):
			if t, ok := parseTime(val); ok {
				r.Time, timeSet = t, true
				return
			}
		case !levelSet && oneOf(levelKeys, key):
			if l, ok := normalLevel(val); ok {
				r.Level, levelSet = l, true
				return
			}
		case !messageSet && oneOf(messageKeys, key):
			if s, ok := unquote(val); ok {
				r.Message, messageSet = s, true
				return
			}
		case r.TraceID == "" && oneOf(traceKeys, key):
			if s, ok := unquote(val); ok {
				r.TraceID = s
				return
			}
		}
		if own[key] {
			key = "_" + key
		}
		r.Fields = append(r.Fields, Field{key, bytes.Clone(val)})
	})
	return r, ok
}

func oneOf(keys []string, key string) bool {
	for _, k := range keys {
		if k == key {
			return true
		}
	}
	return false
}

// eachMember walks a flat JSON object without building it: the values are handed on as they stand. It reports whether
// the whole line is one valid object.
func eachMember(line []byte, f func(key string, val []byte)) bool {
	if !json.Valid(line) {
		return false
	}
	i := 1
	for {
		i = skipSpace(line, i)
		if line[i] == '}' {
			return true
		}
		if line[i] == ',' {
			i = skipSpace(line, i+1)
		}
		end := skipString(line, i)
		key, ok := unquote(line[i:end])
		if !ok {
			return false
		}
		i = skipSpace(line, end)
		i = skipSpace(line, i+1) // the colon
		end = skipValue(line, i)
		f(key, line[i:end])
		i = end
	}
}

func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue finds the end of the value at i in valid JSON.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	return i
}

func unquote(v []byte) (string, bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(v, '\\') < 0 && utf8.Valid(v) {
		return string(v[1 : len(v)-1]), true
	}
	var s string
	err := json.Unmarshal(v, &s)
	return s, err == nil
}

// parseTime takes RFC 3339 text, and seconds, milliseconds, microseconds or nanoseconds since 1970 by their size.
func parseTime(v []byte) (time.Time, bool) {
	if s, ok := unquote(v); ok {
		t, err := time.Parse(time.RFC3339Nano, s)
		return t, err == nil
	}
	x, err := strconv.ParseFloat(string(v), 64)
	if err != nil || x < 1e8 || x > 1e20 {
		return time.Time{}, false
	}
	switch {
	case x < 1e11: // seconds, as zap writes them
		sec := int64(x)
		return time.Unix(sec, int64((x-float64(sec))*1e9)), true
	case x < 1e14:
		return time.UnixMilli(int64(x)), true
	case x < 1e17:
		return time.UnixMicro(int64(x)), true
	}
	return time.Unix(0, int64(x)), true
}

// normalLevel maps a logger's level to ours. Numbers are pino's and bunyan's.
func normalLevel(v []byte) (string, bool) {
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
		case l == "fatal" || l == "panic" || l == "dpanic" || l == "critical":
			return "fatal", true
		}
		return "", false
	}
	n, err := strconv.Atoi(string(v))
	if err != nil || n < 10 || n > 60 {
		return "", false
	}
	return [...]string{"debug", "debug", "info", "warn", "error", "fatal"}[n/10-1], true
}

// guessLevel reads the level that a plain line begins with, in the forms people print it.
func guessLevel(text string) string {
	head := text[:min(len(text), 48)]
	for _, w := range strings.FieldsFunc(head, func(r rune) bool { return strings.ContainsRune(" []|:=\t", r) }) {
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
	}
	return "info"
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

// append writes r as one JSON line onto b.
func (r *Record) append(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = appendMember(b, `","level":`, r.Level)
	b = appendMember(b, `,"service":`, r.Service)
	b = appendMember(b, `,"environment":`, r.Env)
	b = strconv.AppendInt(append(b, `,"release":`...), int64(r.Release), 10)
	b = strconv.AppendInt(append(b, `,"instance":`...), int64(r.Instance), 10)
	b = appendMember(b, `,"stream":`, r.Stream)
	b = appendMember(b, `,"message":`, r.Message)
	if r.TraceID != "" {
		b = appendMember(b, `,"trace_id":`, r.TraceID)
	}
	for _, f := range r.Fields {
		b = appendMember(b, ",", f.Key)
		b = append(append(b, ':'), f.Value...)
	}
	return append(b, '}', '\n')
}

func appendMember(b []byte, before, s string) []byte {
	b = append(b, before...)
	plain := true
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] != '"' && s[i] != '\\' && s[i] < 0x7f
	}
	if plain {
		return append(append(append(b, '"'), s...), '"')
	}
	q, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // a string always marshals
	}
	return append(b, q...)
}

// MarshalJSON writes r flat, as it stands in the file.
func (r Record) MarshalJSON() ([]byte, error) { return bytes.TrimSpace(r.append(nil)), nil }

// UnmarshalJSON reads what MarshalJSON or the file holds.
func (r *Record) UnmarshalJSON(line []byte) error {
	var known struct {
		Time     time.Time `json:"time"`
		Level    string    `json:"level"`
		Service  string    `json:"service"`
		Env      string    `json:"environment"`
		Release  int       `json:"release"`
		Instance int       `json:"instance"`
		Stream   string    `json:"stream"`
		Message  string    `json:"message"`
		TraceID  string    `json:"trace_id"`
	}
	if err := json.Unmarshal(line, &known); err != nil {
		return err
	}
	*r = Record{Time: known.Time, Level: known.Level, Service: known.Service, Env: known.Env, Release: known.Release,
		Instance: known.Instance, Stream: known.Stream, Message: known.Message, TraceID: known.TraceID}
	eachMember(bytes.TrimSpace(line), func(key string, val []byte) {
		if !own[key] {
			r.Fields = append(r.Fields, Field{key, bytes.Clone(val)})
		}
	})
	return nil
}
