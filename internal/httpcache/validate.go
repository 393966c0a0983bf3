package httpcache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// conditions are the headers by which a client asks only for what it does not have (RFC 9110, section 13.1).
var conditions = []string{"If-None-Match", "If-Modified-Since", "If-Range"}

// notModified reports whether a client has an answer already (RFC 9111, section 4.3.2).
func notModified(r *http.Request, status int, h http.Header) bool {
	if status != http.StatusOK {
		return false
	}
	if lines := r.Header["If-None-Match"]; len(lines) > 0 {
		return tagged(lines, h.Get("Etag"))
	}
	since, err := http.ParseTime(r.Header.Get("If-Modified-Since"))
	if err != nil {
		return false
	}
	at, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return false
	}
	return !at.After(since)
}

// tagged reports whether a list of entity tags has one, by the weak comparison.
func tagged(lines []string, tag string) bool {
	want := strings.TrimPrefix(tag, "W/")
	return slices.ContainsFunc(lines, func(line string) bool {
		if strings.TrimSpace(line) == "*" {
			return true
		}
		for want != "" && line != "" {
			start := strings.IndexByte(line, '"')
			if start < 0 {
				return false
			}
			end := strings.IndexByte(line[start+1:], '"')
			if end < 0 {
				return false
			}
			if end += start + 2; line[start:end] == want {
				return true
			}
			line = line[end:]
		}
		return false
	})
}

// conditional makes a request one for what is newer than e. It reports whether e has anything by which that can be said.
func conditional(h http.Header, e *entry) bool {
	for _, name := range conditions {
		h.Del(name)
	}
	if e == nil {
		return false
	}
	tag, at := e.header.Get("Etag"), e.header.Get("Last-Modified")
	if tag != "" {
		h.Set("If-None-Match", tag)
	}
	if at != "" {
		h.Set("If-Modified-Since", at)
	}
	return tag != "" || at != ""
}

// kept are the headers that the answer 304 does not change: they are of the body that is kept (RFC 9111, section 3.2).
var kept = []string{"Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Content-Language", "Etag", "Set-Cookie", "Trailer", "Vary"}

// freshened is e with what a 304 says (RFC 9111, section 4.3.4); nil where that is not about e.
func (c Config) freshened(e *entry, r *http.Request, h http.Header, at span) *entry {
	if tag := h.Get("Etag"); tag != "" && strings.TrimPrefix(tag, "W/") != strings.TrimPrefix(e.header.Get("Etag"), "W/") {
		return nil
	}
	merged := e.header.Clone()
	for name, values := range h {
		if !slices.Contains(kept, name) {
			merged[name] = values
		}
	}
	if len(h["Date"]) == 0 {
		merged.Del("Date")
	}
	f := c.entryOf(e.status, merged, e.body, r, at)
	f.uri, f.release, f.vary, f.by = e.uri, e.release, e.vary, e.by
	f.age = initialAge(h, at)
	return f
}

// entryOf makes an answer one that can be kept.
func (c Config) entryOf(status int, h http.Header, body []byte, r *http.Request, at span) *entry {
	e := &entry{status: status, header: h, body: body, cc: parseControl(h["Cache-Control"]), vary: varyOf(h), received: at.received}
	e.by = chosenBy(e.vary, r.Header)
	e.age, e.life = initialAge(h, at), c.lifetime(r, status, h, at.received)
	if len(h["Date"]) == 0 { // RFC 9110, section 6.6.1
		h.Set("Date", at.received.UTC().Format(http.TimeFormat))
	}
	h.Del("Age")
	return e
}

// told is what Cache-Status says of an answer (RFC 9211).
type told struct {
	hit       bool
	fwd       string // why somebody was asked
	status    int    // what he answered, where the client gets something else
	left      time.Duration
	timed     bool // left is known
	stored    bool
	collapsed bool
	detail    string
}

// name is what this cache calls itself.
const name = "fairlead"

func (t told) String() string {
	b := name
	if t.hit {
		b += "; hit"
	} else {
		b += "; fwd=" + t.fwd
	}
	if t.status != 0 {
		b += "; fwd-status=" + strconv.Itoa(t.status)
	}
	if t.timed {
		b += "; ttl=" + strconv.Itoa(int(t.left/time.Second))
	}
	if t.stored {
		b += "; stored"
	}
	if t.collapsed {
		b += "; collapsed"
	}
	if t.detail != "" {
		b += "; detail=" + t.detail
	}
	return b
}
