package logs

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/internal/jsonl"
)

// minHide is the length under which a secret is not looked for: it would blank out half the log.
const minHide = 6

// hidden is written in a secret's place.
const hidden = "[secret]"

// hider takes secrets out of records. A nil hider does nothing.
type hider struct {
	secrets  []string
	replacer *strings.Replacer
}

// newHider looks for each value, for each line of one that has several (they are printed line by line), and for the forms
// that quoting gives them in plain text.
func newHider(values []string) *hider {
	h := &hider{}
	add := func(s string) {
		if len(s) >= minHide && !slices.Contains(h.secrets, s) {
			h.secrets = append(h.secrets, s)
		}
	}
	for _, v := range values {
		lines := append(strings.Split(v, "\n"), v)
		for _, s := range lines {
			s = strings.TrimRight(s, "\r\n")
			add(s)
			if b, err := json.Marshal(s); err == nil {
				add(string(b[1 : len(b)-1]))
			}
			q := jsonl.AppendString(nil, s)
			add(string(q[1 : len(q)-1]))
		}
	}
	if len(h.secrets) == 0 {
		return nil
	}
	// The longest first, or a secret that begins with another would keep its end.
	slices.SortFunc(h.secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range h.secrets {
		pairs = append(pairs, s, hidden)
	}
	h.replacer = strings.NewReplacer(pairs...)
	return h
}

// record hides in every part of r that comes from the service.
func (h *hider) record(r *Record) {
	if h == nil {
		return
	}
	r.Message, r.TraceID = h.text(r.Message), h.text(r.TraceID)
	for i, f := range r.Fields {
		r.Fields[i] = Field{h.text(f.Key), h.raw(f.Value)}
	}
}

func (h *hider) text(s string) string {
	for _, x := range h.secrets {
		if strings.Contains(s, x) {
			return h.replacer.Replace(s)
		}
	}
	return s
}

// raw hides in valid JSON and leaves valid JSON: a loop over its strings, because escapes have several forms and a
// number may be a secret, too.
func (h *hider) raw(v []byte) []byte {
	look := bytes.IndexByte(v, '\\') >= 0
	for _, x := range h.secrets {
		look = look || bytes.Contains(v, []byte(x))
	}
	if !look {
		return v
	}
	var out []byte
	for s := (scanner{b: v}); s.i < len(v); {
		start := s.i
		switch c := v[s.i]; {
		case c == '"':
			s.text()
			tok := string(v[start:s.i])
			if plain, ok := unquote(tok); ok && h.text(plain) != plain {
				out = jsonl.AppendString(out, h.text(plain))
				continue
			}
			out = append(out, tok...)
		case bytes.IndexByte([]byte("{}[],: \t\r\n"), c) >= 0:
			s.i++
			out = append(out, c)
		default:
			s.value(1)
			if tok := string(v[start:s.i]); h.text(tok) != tok {
				out = jsonl.AppendString(out, hidden)
				continue
			}
			out = append(out, v[start:s.i]...)
		}
	}
	return out
}

// cut returns how much of b may be taken away from what follows it: no secret that begins in there goes on behind, and
// no letter is cut in two. 0 means that all of b may be the beginning of a secret.
func (h *hider) cut(b []byte) int {
	n := len(b)
	for i := max(n-utf8.UTFMax+1, 0); i < n; i++ {
		if utf8.RuneStart(b[i]) && !utf8.FullRune(b[i:]) {
			n = i
		}
	}
	if h == nil {
		return n
	}
	for k := min(len(h.secrets[0])-1, n); k > 0; k-- {
		for _, s := range h.secrets {
			if len(s) > k && s[:k] == string(b[n-k:n]) {
				return n - k
			}
		}
	}
	return n
}
