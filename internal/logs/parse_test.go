package logs

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func field(key, val string) Field { return Field{key, json.RawMessage(val)} }

func parsed(line string) Record {
	var p parser
	r, _ := p.line([]byte(line), noon)
	return r
}

// The lines are as the loggers' own releases print them with their default or production settings.
func TestLoggers(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name, line string
		want       Record
	}{
		{"slog", `{"time":"2026-01-31T13:00:00.123456789+01:00","level":"INFO","msg":"served","status":200,"took":1234567}`,
			Record{Time: at("2026-01-31T12:00:00.123456789Z"), Level: "info", Message: "served", Fields: []Field{field("status", "200"), field("took", "1234567")}}},
		{"slog with source and a level between", `{"time":"2026-01-31T12:00:00Z","level":"ERROR+2","source":{"function":"main.main","line":7},"msg":"a \"b\"\nc"}`,
			Record{Time: noon, Level: "error", Message: "a \"b\"\nc", Fields: []Field{field("source", `{"function":"main.main","line":7}`)}}},
		{"zap production", `{"level":"warn","ts":1769860800.1234567,"caller":"shop/main.go:12","msg":"slow","ms":12.5,"ok":false,"x":null}`,
			Record{Time: time.UnixMicro(1769860800123457), Level: "warn", Message: "slow",
				Fields: []Field{field("caller", `"shop/main.go:12"`), field("ms", "12.5"), field("ok", "false"), field("x", "null")}}},
		{"zap dpanic with ISO 8601", `{"level":"dpanic","ts":"2026-01-31T13:00:00.500+0100","msg":"no"}`,
			Record{Time: at("2026-01-31T12:00:00.5Z"), Level: "fatal", Message: "no"}},
		{"logrus", `{"animal":"walrus","level":"warning","msg":"grew","size":10,"time":"2026-01-31T12:00:00Z"}`,
			Record{Time: noon, Level: "warn", Message: "grew", Fields: []Field{field("animal", `"walrus"`), field("size", "10")}}},
		{"zerolog", `{"level":"debug","time":"2026-01-31T12:00:00Z","message":"hi","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}`,
			Record{Time: noon, Level: "debug", Message: "hi", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736"}},
		{"zerolog in unix time", `{"level":"trace","time":1769860800,"message":"hi"}`, Record{Time: noon, Level: "debug", Message: "hi"}},
		{"pino", `{"level":30,"time":1769860800123,"pid":7,"hostname":"h","msg":"up"}`,
			Record{Time: time.UnixMilli(1769860800123), Level: "info", Message: "up", Fields: []Field{field("pid", "7"), field("hostname", `"h"`)}}},
		{"pino with a level of its own", `{"level":55,"msg":"x"}`, Record{Time: noon, Level: "error", Message: "x"}},
		{"Google's", `{"severity":"ALERT","timestamp":"2026-01-31T12:00:00Z","message":"x"}`, Record{Time: noon, Level: "fatal", Message: "x"}},
		{"microseconds and nanoseconds", `{"ts":1769860800123456,"msg":"x","timestamp":1769860800123456789}`,
			Record{Time: time.UnixMicro(1769860800123456), Level: "info", Message: "x", Fields: []Field{field("timestamp", "1769860800123456789")}}},
		{"empty object", `{}`, Record{Time: noon, Level: "info"}},
		{"spaces and a carriage return", " \t{ \"msg\" : \"x\" , \"a\" : [ 1 , {} ] }\r", Record{Time: noon, Level: "info", Message: "x", Fields: []Field{field("a", "[ 1 , {} ]")}}},
		{"no UTF-8", "{\"msg\":\"a\xffb\",\"k\":\"\xfe\"}", Record{Time: noon, Level: "info", Message: "a\ufffdb", Fields: []Field{field("k", "\"\ufffd\"")}}},
		{"escaped key", `{"m\u0073g":"x","\u00e9":1}`, Record{Time: noon, Level: "info", Message: "x", Fields: []Field{field("é", "1")}}},
		{"what is ours moves aside", `{"msg":"x","service":"theirs","release":"v1","instance":null,"environment":1,"stream":true,"time":"0001-01-01T00:00:00Z","level":"loud","trace_id":7}`,
			Record{Time: noon, Level: "info", Message: "x", Fields: []Field{field("_service", `"theirs"`), field("_release", `"v1"`), field("_instance", "null"),
				field("_environment", "1"), field("_stream", "true"), field("_time", `"0001-01-01T00:00:00Z"`), field("_level", `"loud"`), field("_trace_id", "7")}}},
		{"the second of two names", `{"msg":"a","message":"b","ts":1769860800,"time":"x"}`,
			Record{Time: noon, Level: "info", Message: "a", Fields: []Field{field("_message", `"b"`), field("_time", `"x"`)}}},
		{"other letters are another name", `{"msg":"x","Time":"later","LEVEL":1,"Release":"r"}`,
			Record{Time: noon, Level: "info", Message: "x", Fields: []Field{field("Time", `"later"`), field("LEVEL", "1"), field("Release", `"r"`)}}},
		{"a message that is no text", `{"msg":{"a":1}}`, Record{Time: noon, Level: "info", Fields: []Field{field("msg", `{"a":1}`)}}},
		{"plain", "listening on :8080", Record{Time: noon, Level: "info", Message: "listening on :8080"}},
		{"plain Unicode", "größer 😀", Record{Time: noon, Level: "info", Message: "größer 😀"}},
		{"binary", "\x00\x1b[31mred\xff\x7f", Record{Time: noon, Level: "info", Message: `\x00\x1b[31mred\xff\x7f`}},
		{"broken JSON is plain", `{"msg":"x"`, Record{Time: noon, Level: "info", Message: `{"msg":"x"`}},
		{"two objects are plain", `{"a":1}{"b":2}`, Record{Time: noon, Level: "info", Message: `{"a":1}{"b":2}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parsed(c.line); !got.Time.Equal(c.want.Time) {
				t.Errorf("time %s, want %s", got.Time, c.want.Time)
			} else if got.Time = c.want.Time; !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestTimesThatAreNone(t *testing.T) {
	for _, v := range []string{`1e19`, `9223372036854775808`, `99999999`, `-1769860800`, `1e400`, `"yesterday"`, `""`, `true`, `null`, `[1]`,
		`"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59-01:00"`, `"1969-12-31T23:59:59Z"`, `0`} {
		if got, ok := parseTime(v); ok {
			t.Errorf("%s is taken for %s", v, got)
		}
	}
}

func TestGuessLevel(t *testing.T) {
	for text, want := range map[string]string{
		"2026/01/31 12:00:00 ERROR no route": "error", "[WARN] slow": "warn", "INF up": "info", "error: no such file": "error",
		"level=warning msg=x": "warn", `time=2026-01-31T12:00:00.000Z level=ERROR msg="x"`: "error", "main.go:12: fatal: gone": "fatal",
		`time="2026-01-31T12:00:00Z" level=fatal msg=x`: "fatal", "2026-01-31 12:00:00 debug starting": "debug", "panic mode": "fatal",
		"started without error": "info", "0 of 7 with error": "info", "ERRONEOUS": "info", "": "info", "[]: ": "info",
		"a line whose 48th letter stands in this word: ERRONEOUS": "info", "shop[12]: warn: x": "warn", "GET /error 200": "info",
	} {
		if got := guessLevel(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestScannerAgreesWithJSON holds the one-pass check against the standard library's, on JSON with small damages.
func TestScannerAgreesWithJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Custom(genValue).Draw(t, "value")
		b, err := json.Marshal(map[string]any{"a": v, "b\u2028\"": v})
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 3).Draw(t, "damages") {
			i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			b[i] = rapid.SampledFrom([]byte(`{}[]",:\ue0-.5tn`+"\t \x01\xc3")).Draw(t, "byte")
		}
		want := json.Valid(b) && bytes.TrimSpace(b)[0] == '{'
		if got := eachMember(b, func(string, []byte, string) {}); got != want {
			t.Fatalf("%q: %v, the standard library says %v", b, got, want)
		}
	})
}

func genValue(t *rapid.T) any {
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return rapid.String().Draw(t, "text")
	case 1:
		return rapid.Float64().Draw(t, "number")
	case 2:
		return rapid.Int().Draw(t, "int")
	case 3:
		return rapid.SampledFrom([]any{true, false, nil}).Draw(t, "word")
	case 4:
		return rapid.SliceOfN(rapid.Custom(genValue), 0, 3).Draw(t, "list")
	case 5:
		return rapid.MapOfN(rapid.String(), rapid.Custom(genValue), 0, 3).Draw(t, "object")
	}
	return rapid.StringMatching(`[a-z "\\/\n]{0,20}`).Draw(t, "text")
}

func TestDeepNestingIsPlain(t *testing.T) {
	line := `{"a":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + "}"
	if r := parsed(line); r.Message != line {
		t.Errorf("message is %.40q", r.Message)
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~\n\t\x00-\x1f]{0,30}`))
		r := Record{
			Time:  time.UnixMicro(rapid.Int64Range(0, 253402300799e6).Draw(t, "time")).UTC(),
			Level: rapid.SampledFrom(Levels).Draw(t, "level"), Service: "shop", Env: "default", Stream: "stdout",
			Release: rapid.IntRange(0, 1e6).Draw(t, "release"), Instance: rapid.IntRange(1, 200).Draw(t, "instance"),
			Message: text.Draw(t, "message"), TraceID: text.Draw(t, "trace"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "fields") {
			v, err := json.Marshal(rapid.Custom(genValue).Draw(t, "value"))
			if err != nil {
				t.Fatal(err)
			}
			if key := text.Draw(t, "key"); !own(key) {
				r.Fields = append(r.Fields, Field{key, v})
			}
		}
		line := r.append(nil)
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q is no JSON line", line)
		}
		var got Record
		if err := json.Unmarshal(line, &got); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v\ncame back as\n%+v (%v)", r, got, err)
		}
		whole, err := json.Marshal(r)
		if err != nil || json.Unmarshal(whole, &got) != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("over the wire: %s (%v)", whole, err)
		}
	})
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, line := range []string{``, `[]`, `{`, `{"time":"x"}`, `{"time":1}`, `{"release":"x"}`, `{"release":1.5}`, `{"level":1}`} {
		var r Record
		if err := r.UnmarshalJSON([]byte(line)); err == nil {
			t.Errorf("%q is taken for %+v", line, r)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{
		`{"time":"2026-01-31T12:00:00Z","level":"INFO","msg":"served","status":200}`, `{"level":30,"time":1769860800123,"msg":"up"}`,
		`{"ts":1769860800.1234567,"msg":"a\u00e9\ud800\"","x":{"y":[1,-2.5e+3,null]}}`, `{"time":"x","_time":1,"trace_id":"","release":1}`,
		"plain ERROR text", "goroutine 1 [running]:", "\x00\xff\x1b[0m", "{\"a\":\"\xff\"}", `{"a":01}`, `{"a":1,}`, `{"":"\/"}`, "", "{}", `{"t":"\`,
	} {
		f.Add([]byte(s))
	}
	h := newHider([]string{"hunter2-secret", "123456"})
	f.Fuzz(func(t *testing.T, line []byte) {
		r := parsed(string(line))
		for _, hide := range []*hider{nil, h} {
			hide.record(&r)
			out := r.append(nil)
			var back Record
			if !json.Valid(out) || !utf8.Valid(out) || bytes.Count(out, []byte("\n")) != 1 {
				t.Fatalf("%q gives %q", line, out)
			}
			if err := back.UnmarshalJSON(out); err != nil {
				t.Fatalf("%q gives %q: %v", line, out, err)
			}
			if again := back.append(nil); !bytes.Equal(again, out) {
				t.Fatalf("%q is read back as %q", out, again)
			}
			if hide != nil && bytes.Contains(out[bytes.Index(out, []byte(`"message"`)):], []byte("hunter2-secret")) {
				t.Fatalf("%q shows a secret: %q", line, out)
			}
		}
	})
}
