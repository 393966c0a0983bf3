package spec

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Check is a threshold in words, as `errors <= 1%`, taken apart.
type Check struct {
	Text   string
	Metric string  // errors, latency, differs, cpu, memory, restarts, files, log or drill
	Arg    string  // drill: what was rehearsed; log: what a line must have, as level=error or a quoted text
	Level  string  // log: the level, where Arg names one
	Match  string  // log: the text, where Arg is one
	Q      float64 // latency: which quantile, 0 to 1
	Op     string  // <=, <, ==, >=, >
	Value  float64 // a share (0.01 for 1%), seconds, bytes, or a number
	Bytes  bool    // memory: Value is in bytes
	Per    time.Duration
}

var (
	checkForm    = regexp.MustCompile(`^\s*([a-z][a-z0-9.]*)\s*(?:\(\s*(.*?)\s*\))?\s*(<=|>=|==|<|>)\s*([^\s/]+)(?:\s*/\s*([a-z]+))?\s*$`)
	quantileForm = regexp.MustCompile(`^p(\d{1,2}(?:\.\d+)?)$`)
)

// Drills are what can be rehearsed.
var Drills = []string{"rollback", "switch", "crash", "latency", "errors", "cpu", "memory"}

const checkExamples = `write it as "errors <= 1%", "p95 <= 500ms", "cpu <= 90%", "memory <= 80%", "restarts == 0", "log(level=error) <= 10/min" or "log(\"panic:\") == 0"`

// Holds reports whether v is as the check wants it.
func (c Check) Holds(v float64) bool {
	switch c.Op {
	case "<":
		return v < c.Value
	case "==":
		return v == c.Value
	case ">=":
		return v >= c.Value
	case ">":
		return v > c.Value
	}
	return v <= c.Value
}

// ParseCheck takes a threshold in words apart. The error says what is wrong with it and what may stand there.
func ParseCheck(text string) (Check, error) {
	c := Check{Text: text}
	m := checkForm.FindStringSubmatch(text)
	if m == nil {
		return c, fmt.Errorf("%q is not a check: %s", text, checkExamples)
	}
	c.Metric, c.Arg, c.Op = m[1], m[2], m[3]
	if q := quantileForm.FindStringSubmatch(c.Metric); q != nil {
		n, _ := strconv.ParseFloat(q[1], 64)
		c.Metric, c.Q = "latency", math.Round(n*1e6)/1e8 // 99.9 is 0.999 then, not the next number to it
	}
	if c.Arg != "" && c.Metric != "log" && c.Metric != "drill" {
		return c, fmt.Errorf("%q: only log and drill take something in brackets", text)
	}
	if err := c.value(m[4]); err != nil {
		return c, fmt.Errorf("%q: %w", text, err)
	}
	if m[5] == "" {
		return c, nil
	}
	per, ok := map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour}[m[5]]
	if !ok || c.Metric != "log" && c.Metric != "restarts" {
		return c, fmt.Errorf("%q: a rate is of log lines or restarts, and per s, min or h", text)
	}
	c.Per = per
	return c, nil
}

// value reads the right side in the metric's own unit.
func (c *Check) value(s string) error {
	num, percent := strings.CutSuffix(s, "%")
	share := func() error {
		n, ok := number(num)
		if !percent || !ok || n > 100 {
			return fmt.Errorf("%q is not a share: write 1%%", s)
		}
		c.Value = n / 100
		return nil
	}
	switch c.Metric {
	case "errors", "differs", "cpu":
		return share()
	case "memory":
		if percent {
			return share()
		}
		var b Bytes
		if err := b.parse(s); err != nil {
			return err
		}
		c.Value, c.Bytes = float64(b), true
		return nil
	case "latency":
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || c.Q <= 0 {
			return fmt.Errorf("%q is not a duration: write 500ms", s)
		}
		c.Value = d.Seconds()
		return nil
	case "drill":
		days, ok := strings.CutSuffix(s, "d")
		n, isNumber := number(days)
		if !ok || !isNumber || !slices.Contains(Drills, c.Arg) || c.Op != "<=" && c.Op != "<" {
			return fmt.Errorf("write drill(rollback) <= 30d: no longer ago than so many days; what can be rehearsed is %s", strings.Join(Drills, ", "))
		}
		c.Value = n * (24 * time.Hour).Seconds()
		return nil
	case "restarts", "files", "log":
		n, ok := number(s)
		if !ok {
			return fmt.Errorf("%q is not a number", s)
		}
		c.Value = n
		return c.logArg()
	}
	return fmt.Errorf("%s cannot be measured: %s", c.Metric, checkExamples)
}

// logArg reads what a line must have: level=error, or a quoted text.
func (c *Check) logArg() error {
	if c.Metric != "log" {
		return nil
	}
	if level, ok := strings.CutPrefix(c.Arg, "level="); ok {
		for _, l := range []string{"debug", "info", "warn", "error"} {
			if level == l {
				c.Level = level
				return nil
			}
		}
		return fmt.Errorf("level %q is none of debug, info, warn, error", level)
	}
	text, err := strconv.Unquote(c.Arg)
	if err != nil || text == "" {
		return fmt.Errorf(`log wants log(level=error) or log("some text")`)
	}
	c.Match = text
	return nil
}

// Window is a span of each week, in a time zone.
type Window struct {
	days     [7]bool
	from, to int // minutes of the day
	zone     *time.Location
}

var windowForm = regexp.MustCompile(`^\s*(?:([A-Z][a-z]{2})(?:-([A-Z][a-z]{2}))?\s+)?(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})(?:\s+(\S+))?\s*$`)

var weekdays = map[string]int{"Sun": 0, "Mon": 1, "Tue": 2, "Wed": 3, "Thu": 4, "Fri": 5, "Sat": 6}

// ParseWindow reads "Mon-Fri 09:00-16:00 Europe/Berlin"; the days and the zone (UTC) may be left out.
func ParseWindow(s string) (Window, error) {
	m := windowForm.FindStringSubmatch(s)
	bad := fmt.Errorf("%q is not a window: write Mon-Fri 09:00-16:00 Europe/Berlin", s)
	if m == nil {
		return Window{}, bad
	}
	w := Window{zone: time.UTC}
	first, ok1 := weekdays[m[1]]
	last, ok2 := weekdays[m[2]]
	switch {
	case m[1] == "":
		first, last = 0, 6
	case !ok1, m[2] != "" && !ok2:
		return Window{}, bad
	case m[2] == "":
		last = first
	}
	for d := first; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == last {
			break
		}
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[3+i])
	}
	w.from, w.to = n[0]*60+n[1], n[2]*60+n[3]
	if n[1] > 59 || n[3] > 59 || w.to > 24*60 || w.from >= w.to {
		return Window{}, bad
	}
	if m[7] != "" {
		zone, err := time.LoadLocation(m[7])
		if err != nil {
			return Window{}, fmt.Errorf("%q: there is no time zone %s", s, m[7])
		}
		w.zone = zone
	}
	return w, nil
}

// Open reports whether t lies in the window.
func (w Window) Open(t time.Time) bool {
	t = t.In(w.zone)
	n := t.Hour()*60 + t.Minute()
	return w.days[t.Weekday()] && n >= w.from && n < w.to
}
