// Package httpcache is a shared HTTP cache in memory (RFC 9111), with answers that may be used while they are stale (RFC 5861) and one
// request to the origin for many that want the same.
//
// It knows nothing of who the origin is: see [Origin]. What it keeps it keeps by release, for a client that goes to one release must not
// see what another one answered.
package httpcache

import (
	"net/http"
	"strings"
	"time"
)

// maxDelta is what a number of seconds that is too large to count stands for (RFC 9111, section 1.2.2).
const maxDelta = 1 << 31

// control is what Cache-Control says, of a request or of an answer. A number is -1 where it is not said.
type control struct {
	noStore, noCache, private, public, mustRevalidate, proxyRevalidate bool
	onlyIfCached                                                       bool

	maxAge, sMaxAge, minFresh, maxStale int64
	staleIfError, staleWhileRevalidate  int64
}

// parseControl reads the lines of a Cache-Control header. A directive that stands there twice with different numbers counts with the lesser
// one, and one whose number cannot be read as 0: what is unclear is stale (RFC 9111, section 4.2.1).
func parseControl(lines []string) control {
	c := control{maxAge: -1, sMaxAge: -1, minFresh: -1, maxStale: -1, staleIfError: -1, staleWhileRevalidate: -1}
	for _, line := range lines {
		for line != "" {
			var name, value string
			var given bool
			name, value, given, line = directive(line)
			c.take(strings.ToLower(name), value, given)
		}
	}
	return c
}

func (c *control) take(name, value string, given bool) {
	least := func(n *int64) {
		if d := delta(value); *n < 0 || d < *n {
			*n = d
		}
	}
	switch name {
	case "no-store":
		c.noStore = true
	case "no-cache": // where it names fields it is taken for all of the answer, as private is: that is on the safe side
		c.noCache = true
	case "private":
		c.private = true
	case "public":
		c.public = true
	case "must-revalidate":
		c.mustRevalidate = true
	case "proxy-revalidate":
		c.proxyRevalidate = true
	case "only-if-cached":
		c.onlyIfCached = true
	case "max-age":
		least(&c.maxAge)
	case "s-maxage":
		least(&c.sMaxAge)
	case "stale-if-error":
		least(&c.staleIfError)
	case "stale-while-revalidate":
		least(&c.staleWhileRevalidate)
	case "min-fresh":
		c.minFresh = max(c.minFresh, delta(value))
	case "max-stale":
		if given {
			least(&c.maxStale)
		} else if c.maxStale < 0 {
			c.maxStale = maxDelta // however stale
		}
	}
}

// directive takes the first directive off a line: a token, and perhaps a value, as a token or in quotes.
func directive(s string) (name, value string, given bool, rest string) {
	s = strings.TrimLeft(s, " \t,")
	end := strings.IndexAny(s, "=,")
	if end < 0 {
		return strings.TrimRight(s, " \t"), "", false, ""
	}
	name = strings.TrimRight(s[:end], " \t")
	if s[end] == ',' {
		return name, "", false, s[end+1:]
	}
	s = strings.TrimLeft(s[end+1:], " \t")
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ",")
		return name, strings.TrimRight(value, " \t"), true, rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '"':
			_, rest, _ = strings.Cut(s[i+1:], ",")
			return name, b.String(), true, rest
		default:
			b.WriteByte(c)
		}
	}
	return name, "", true, "" // the quotes are not closed: it says nothing
}

// delta reads a number of seconds; what is none is 0.
func delta(s string) int64 {
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		if n = n*10 + int64(s[i]-'0'); n > maxDelta {
			n = maxDelta
		}
	}
	return n
}

// requestControl is what a request asks of caches. Pragma speaks for clients of HTTP/1.0 only.
func requestControl(h http.Header) control {
	if lines := h["Cache-Control"]; len(lines) > 0 {
		return parseControl(lines)
	}
	c := parseControl(nil)
	c.noCache = strings.Contains(strings.ToLower(h.Get("Pragma")), "no-cache")
	return c
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
