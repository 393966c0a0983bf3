//go:build unix

package badbackend

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkBackends measures every cell by itself and writes the page into the file that TABLE names. REQUESTS is how many each gets.
func BenchmarkBackends(b *testing.B) {
	l := load{1000, 5 * time.Millisecond}
	if n, err := strconv.Atoi(os.Getenv("REQUESTS")); err == nil && n > 0 {
		l.requests = n
	}
	p := plan{l, 1, 150 * time.Millisecond, 3}
	r := newWorld(b).measure(b, p)
	check(b, r, 15)
	text := document(r, p)
	fmt.Print(text)
	path := os.Getenv("TABLE")
	if path == "" || b.Failed() {
		return
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

// document is docs/backends-table.md.
func document(r results, l plan) string {
	text := fmt.Sprintf(head, l.requests, time.Second/l.every, work, patience, tryTime, requestTime, ejecting.Failures, ejecting.For,
		concurrency.Limit, concurrency.Queue, concurrency.Wait, runtime.NumCPU(), runtime.GOOS, runtime.Version(), l.calm, l.most, noisy(r))
	text += "\n| |"
	for _, p := range protections {
		text += " " + p.title + " |"
	}
	text += "\n|---|" + strings.Repeat("---|", len(protections)) + "\n"
	for _, b := range badnesses {
		text += "| [" + b.short() + "](#" + anchor(b.title) + ") |"
		for _, c := range r[b.name] {
			text += fmt.Sprintf(" %s, %s |", percent(c.share(answered)), seconds(c.longest()))
		}
		text += "\n"
	}
	for _, b := range badnesses {
		text += "\n### " + b.title + "\n\n" + columns
		for _, c := range r[b.name] {
			text += c.line()
		}
	}
	return text
}

// noisy says which lines had no calm machine in the end.
func noisy(r results) string {
	var names []string
	for _, b := range badnesses {
		for _, c := range r[b.name] {
			if !c.calm {
				names = append(names, fmt.Sprintf("%s (%v)", c, c.noise.Round(time.Millisecond)))
			}
		}
	}
	if names == nil {
		return ""
	}
	return ". To no avail: " + strings.Join(names, ", ")
}

// short is a title up to its explanation.
func (b badness) short() string {
	if i := strings.IndexAny(b.title, ":,"); i >= 0 {
		return b.title[:i]
	}
	return b.title
}

// anchor is what a heading is called in links.
func anchor(title string) string {
	var out strings.Builder
	for _, c := range strings.ToLower(title) {
		switch {
		case c == ' ':
			out.WriteByte('-')
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			out.WriteRune(c)
		}
	}
	return out.String()
}

func (c *cell) line() string {
	text := "| " + protections[c.protection].title + " | " + percent(share(c.get, answered)) + " | " + percent(share(c.post, answered)) + " |"
	for o := failed; o < outcomes; o++ {
		text += " " + some(uint64(c.sum(o))) + " |"
	}
	at := some(uint64(c.atBad))
	if c.name == refusing || c.name == reset0 {
		at = "" // what it does not read it cannot count
	}
	return text + fmt.Sprintf(" %s / %s / %s | %s | %s |\n", ms(c.quantile(0.5)), ms(c.quantile(0.99)), ms(c.longest()), some(c.again), at)
}

func percent(x float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0") + " %"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func ms(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()*1e3) }

// some leaves a cell empty where there is nothing: so the eye finds what there is.
func some(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

const columns = "| | GET answered well | POST answered well | 500 | 502 | 503 | 504 | broke off | gave up | p50 / p99 / longest, ms | sent again | came to bad ones |\n" +
	"|---|---|---|---|---|---|---|---|---|---|---|---|\n"

const head = `# What clients see of bad instances

Written by ` + "`make bench-backends`" + ` (test/badbackend). Do not edit. Which instance gets a request is left to chance, so the last digit is, too.

Three instances of one release behind a real edge, of which one or all are bad. Each line is %d requests, %d a second whatever becomes of
those before, three GETs to one POST with a body. An instance that is well takes %v. A client goes away after %v; an edge that bounds
nothing would let it wait for ever. What each protection was set to, alone or with others:

| ` + "`timeouts.try`" + ` | ` + "`timeouts.request`" + ` | ` + "`eject`" + ` | ` + "`concurrency`" + ` |
|---|---|---|---|
| %v | %v | %d failures, for %v | limit %d, queue %d, wait %v |

"None" is what the edge does without being told: of two instances it takes the less busy, leaves one that takes no connection out for a
second, and sends a safe request that was not answered to another instance, within its budget. All protections can be had on top of
that only.

- **Answered well** is 200 and the whole body, checked to the byte. **500** is an instance's own and passed on, **502**, **503** and **504** are
  the edge's words. What **broke off** did so after the 200; the client notices. Who **gave up** had no answer after %[4]v.
- **Sent again** is how many tries the edge repeated; **came to bad ones** is how many tries those read.
- No request was answered with another one's answer, and no POST came to an instance twice.

Measured on %[12]d cores, %[13]s, %[14]s, everything on one machine. A service that is well was asked beside each line; where its longest answer
took %[15]v or more the machine was busy with other things, and the line was measured again, up to %[16]d times%[17]s.

## Requests answered well, and the longest that one took
`
