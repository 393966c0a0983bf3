package httpcache

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Config is how much a cache keeps, and for how long.
type Config struct {
	Size         int64         // bytes of all answers together
	Object       int64         // bytes of one
	Default      time.Duration // how long an answer is fresh that does not say, at most; 0: such answers are not kept
	StaleIfError time.Duration // after it was fresh, where the answer itself does not say
	Across       bool          // what one release answered serves for the others, too
}

// understood are the statuses whose answers are kept where they say for how long. Failures are not among them, though they could be: they
// would outlast the release that failed.
var understood = []int{200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451}

// guessable are those for which an answer may be fresh that does not say so (RFC 9110, section 15.1).
var guessable = []int{200, 203, 204, 300, 301, 308, 404, 405, 410, 414}

// unseen are request headers that the edge makes itself: what an answer varies by there cannot be told from what the client sent.
var unseen = []string{"X-Forwarded-For", "Forwarded", "Traceparent"}

// storable reports whether an answer to a GET may be kept at all (RFC 9111, section 3).
func (c Config) storable(r *http.Request, status int, h http.Header) bool {
	cc := parseControl(h["Cache-Control"])
	switch {
	case !slices.Contains(understood, status), requestControl(r.Header).noStore, cc.noStore, cc.private, h.Get("Trailer") != "":
		return false
	case r.Header.Get("Authorization") != "" && !cc.public && !cc.mustRevalidate && cc.sMaxAge < 0: // RFC 9111, section 3.5
		return false
	case len(h["Set-Cookie"]) > 0 && !cc.public:
		return false
	}
	for _, name := range varyOf(h) {
		if name == "*" || slices.Contains(unseen, name) {
			return false
		}
	}
	if cc.maxAge >= 0 || cc.sMaxAge >= 0 || h.Get("Expires") != "" || cc.public {
		return true
	}
	if cc.noCache { // and nothing else: many mean by it what private means
		return false
	}
	return c.guesses(r, status, h)
}

// guesses reports whether the configured time stands in for what an answer does not say. Never where the client may be somebody in
// particular: an answer that nobody marked as his own must not be seen by others.
func (c Config) guesses(r *http.Request, status int, h http.Header) bool {
	return c.Default > 0 && slices.Contains(guessable, status) && r.Header.Get("Cookie") == "" && r.Header.Get("Authorization") == "" && len(h["Set-Cookie"]) == 0
}

// lifetime is how long an answer is fresh after it was made (RFC 9111, section 4.2.1).
func (c Config) lifetime(r *http.Request, status int, h http.Header, received time.Time) time.Duration {
	cc := parseControl(h["Cache-Control"])
	date := dateOf(h, received)
	switch expires := h["Expires"]; {
	case cc.sMaxAge >= 0:
		return seconds(cc.sMaxAge)
	case cc.maxAge >= 0:
		return seconds(cc.maxAge)
	case len(expires) > 0:
		at, err := http.ParseTime(expires[0])
		if err != nil || slices.ContainsFunc(expires, func(e string) bool { return e != expires[0] }) {
			return 0 // as "0", which many write
		}
		return max(at.Sub(date), 0)
	case !c.guesses(r, status, h):
		return 0
	}
	if at, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		return max(min(date.Sub(at)/10, c.Default), 0) // the usual guess: RFC 9111, section 4.2.2
	}
	return c.Default
}

// span is when an answer was asked for, and when it came.
type span struct{ asked, received time.Time }

// initialAge is how old an answer was when it came (RFC 9111, section 4.2.3).
func initialAge(h http.Header, at span) time.Duration {
	apparent := max(at.received.Sub(dateOf(h, at.received)), 0)
	said := time.Duration(0)
	if ages := h["Age"]; len(ages) > 0 {
		first, _, _ := strings.Cut(ages[0], ",")
		said = seconds(delta(strings.TrimSpace(first)))
	}
	return max(apparent, said+at.received.Sub(at.asked))
}

// dateOf is when an answer was made, by its own word.
func dateOf(h http.Header, received time.Time) time.Time {
	if at, err := http.ParseTime(h.Get("Date")); err == nil {
		return at
	}
	return received
}

// varyOf lists the request headers by which an answer was chosen, in their usual form.
func varyOf(h http.Header) []string {
	var out []string
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				out = append(out, http.CanonicalHeaderKey(name))
			}
		}
	}
	return out
}

// chosenBy are the values of those headers in a request, so that they can be compared (RFC 9111, section 4.1).
func chosenBy(names []string, r http.Header) []string {
	out := make([]string, len(names))
	for i, name := range names {
		var parts []string
		for _, line := range r[name] {
			for part := range strings.SplitSeq(line, ",") {
				parts = append(parts, strings.TrimSpace(part))
			}
		}
		if out[i] = strings.Join(parts, ","); len(r[name]) == 0 {
			out[i] = "\x00" // none is not the same as an empty one
		}
	}
	return out
}
