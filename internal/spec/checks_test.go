package spec

import (
	"strings"
	"testing"
	"time"
)

func TestParseCheck(t *testing.T) {
	for text, want := range map[string]Check{
		"errors <= 1%":               {Metric: "errors", Op: "<=", Value: 0.01},
		"errors<0.5%":                {Metric: "errors", Op: "<", Value: 0.005},
		"p95 <= 500ms":               {Metric: "latency", Q: 0.95, Op: "<=", Value: 0.5},
		"p99.9 < 2s":                 {Metric: "latency", Q: 0.999, Op: "<", Value: 2},
		"cpu <= 90%":                 {Metric: "cpu", Op: "<=", Value: 0.9},
		"memory <= 80%":              {Metric: "memory", Op: "<=", Value: 0.8},
		"memory <= 300MiB":           {Metric: "memory", Op: "<=", Value: 300 << 20, Bytes: true},
		"drill(rollback) <= 30d":     {Metric: "drill", Arg: "rollback", Op: "<=", Value: 30 * 86400},
		"restarts == 0":              {Metric: "restarts", Op: "==", Value: 0},
		"log(level=error) <= 10/min": {Metric: "log", Arg: "level=error", Level: "error", Op: "<=", Value: 10, Per: time.Minute},
		`log("panic: (x)") == 0`:     {Metric: "log", Arg: `"panic: (x)"`, Match: "panic: (x)", Op: "==", Value: 0},
		`log( "a" ) <= 2 / hour`:     {},
	} {
		got, err := ParseCheck(text)
		if want.Metric == "" {
			if err == nil {
				t.Errorf("%q was taken: %+v", text, got)
			}
			continue
		}
		want.Text = text
		if err != nil || got != want {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", text, got, err, want)
		}
	}
	for text, say := range map[string]string{
		"":                        "is not a check",
		"errors are low":          "is not a check",
		"errors <= 1":             "is not a share",
		"errors <= 101%":          "is not a share",
		"p95 <= 500":              "is not a duration",
		"p0 <= 1s":                "is not a duration",
		"speed <= 3":              "cannot be measured",
		"drill(flood) <= 3d":      "write drill(rollback)",
		"drill(rollback) <= 3h":   "write drill(rollback)",
		"cpu(x) <= 3%":            "only log",
		"log(error) <= 3":         "log wants",
		"log(level=loud) <= 3":    "none of debug",
		"errors <= 1%/min":        "a rate is of",
		"restarts <= 1/fortnight": "a rate is of",
		"memory <= much":          "much",
	} {
		if _, err := ParseCheck(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v, want %q", text, err, say)
		}
	}
}

func TestCheckHolds(t *testing.T) {
	for op, want := range map[string][3]bool{"<=": {true, true, false}, "<": {true, false, false}, "==": {false, true, false}, ">=": {false, true, true}, ">": {false, false, true}} {
		for i, v := range []float64{1, 2, 3} {
			if (Check{Op: op, Value: 2}).Holds(v) != want[i] {
				t.Errorf("%v %s 2 is not %t", v, op, want[i])
			}
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, tc := range []struct {
		window, at string
		open       bool
	}{
		{"Mon-Fri 09:00-16:00 Europe/Berlin", "2026-11-20T08:00:00Z", true},  // Friday, 09:00 there
		{"Mon-Fri 09:00-16:00 Europe/Berlin", "2026-11-20T15:00:00Z", false}, // 16:00 there
		{"Mon-Fri 09:00-16:00 Europe/Berlin", "2026-11-21T10:00:00Z", false}, // Saturday
		{"Fri-Mon 00:00-24:00", "2026-11-22T23:59:00Z", true},                // Sunday, over the week's end
		{"Fri-Mon 00:00-24:00", "2026-11-24T00:00:00Z", false},               // Tuesday
		{"Sat 10:00-11:00", "2026-11-21T10:30:00Z", true},                    //
		{"10:00-11:00", "2026-11-21T11:00:00Z", false},                       //
		{"9:00-17:00 America/New_York", "2026-07-01T13:00:00Z", true},        // summer time
		{"9:00-17:00 America/New_York", "2026-01-02T13:30:00Z", false},       // winter
	} {
		w, err := ParseWindow(tc.window)
		if err != nil || w.Open(at(tc.at)) != tc.open {
			t.Errorf("%s at %s: %v, want %t", tc.window, tc.at, err, tc.open)
		}
	}
	for _, bad := range []string{"", "Mon", "Mon-Fry 09:00-16:00", "09:00-08:00", "09:00-25:00", "09:61-10:00", "09:00-10:00 Mars/Base"} {
		if _, err := ParseWindow(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
