package httpcache

import (
	"context"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func contextWithTimeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func TestControl(t *testing.T) {
	none := parseControl(nil)
	for text, change := range map[string]func(*control){
		"":                         func(*control) {},
		",, ,":                     func(*control) {},
		"no-store":                 func(c *control) { c.noStore = true },
		" No-Store ,no-cache":      func(c *control) { c.noStore, c.noCache = true, true },
		`private="a, no-store"`:    func(c *control) { c.private = true },
		`private="a\", no-store`:   func(c *control) { c.private = true },
		`x="a\"b", public`:         func(c *control) { c.public = true },
		"max-age=1,s-maxage = 2":   func(c *control) { c.maxAge, c.sMaxAge = 1, 2 },
		`max-age="7"`:              func(c *control) { c.maxAge = 7 },
		`max-age="7`:               func(c *control) { c.maxAge = 0 },
		"max-age=-1":               func(c *control) { c.maxAge = 0 },
		"max-age":                  func(c *control) { c.maxAge = 0 },
		"max-age=7, max-age=3":     func(c *control) { c.maxAge = 3 },
		"max-age=4294967296":       func(c *control) { c.maxAge = maxDelta },
		"max-stale":                func(c *control) { c.maxStale = maxDelta },
		"max-stale=5, max-stale":   func(c *control) { c.maxStale = 5 },
		"min-fresh=5,min-fresh=9":  func(c *control) { c.minFresh = 9 },
		"stale-if-error=9":         func(c *control) { c.staleIfError = 9 },
		"stale-while-revalidate=9": func(c *control) { c.staleWhileRevalidate = 9 },
		"no-storex, xno-store":     func(*control) {},
	} {
		want := none
		change(&want)
		if got := parseControl([]string{text}); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

// One line of two parts means what two lines mean, whatever other directives stand beside them.
func TestControlLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.SampledFrom([]string{"no-store", "private", `private="a,b"`, "max-age=5", "max-age=9", "public", `x="\"no-store"`, "s-maxage=0", " ", "must-revalidate", "y=z"})
		lines := rapid.SliceOf(part).Draw(t, "lines")
		if a, b := parseControl(lines), parseControl([]string{strings.Join(lines, ",")}); a != b {
			t.Fatalf("%+v and %+v", a, b)
		}
	})
}

func FuzzControl(f *testing.F) {
	for _, s := range []string{"", "no-store, max-age=5", `private="a, b\"", x`, "max-age=99999999999999999999", `="`, "a=\x00", `\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := parseControl([]string{s})
		for _, n := range []int64{c.maxAge, c.sMaxAge, c.minFresh, c.maxStale, c.staleIfError, c.staleWhileRevalidate} {
			if n < -1 || n > maxDelta {
				t.Errorf("%q: %+v", s, c)
			}
		}
		// To say more never makes an answer one that may be kept for longer.
		d := parseControl([]string{s, "no-store, private, no-cache, max-age=0, s-maxage=0"})
		if !d.noStore || !d.private || !d.noCache || d.maxAge != 0 || d.sMaxAge != 0 {
			t.Errorf("%q hides what stands on the next line: %+v", s, d)
		}
	})
}
