package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/logs"
)

// accessLine is a request on one line: when it ended, what became of it, how long that took, what was asked, who served it and for
// whom, and for how many requests it stands.
func accessLine(r logs.Record, s styles) string {
	f := map[string]string{}
	for _, x := range r.Fields {
		var text string
		if json.Unmarshal(x.Value, &text) != nil {
			text = string(x.Value) // a number
		}
		f[x.Key] = text
	}
	if f["network.transport"] != "" {
		return connectionLine(r, f, s)
	}
	status := f["http.response.status_code"]
	if status == "" {
		status = "---"
	}
	switch r.Level {
	case "warn":
		status = s.warn(status)
	case "error":
		status = s.bad(status)
	}
	target := f["server.address"]
	if port := f["server.port"]; port != "" {
		target += ":" + port
	}
	target += f["url.path"]
	if q := f["url.query"]; q != "" {
		target += "?" + q
	}
	by := "-"
	if r.Release > 0 {
		by = fmt.Sprintf("%d.%d", r.Release, r.Instance)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %8s %s %s %s %s", s.dim(r.Time.Local().Format("2006-01-02 15:04:05.000")), status, took(f["http.server.request.duration"]),
		printable(f["http.request.method"]), printable(target), s.dim(by), s.dim(f["client.address"]))
	if c := f["cache"]; c != "" {
		fmt.Fprintf(&b, " %s", s.dim(printable(c)))
	}
	if f["outcome"] != "served" {
		fmt.Fprintf(&b, " %s", f["outcome"])
	}
	if why := f["error.type"]; why != "" {
		fmt.Fprintf(&b, " (%s)", why)
	}
	if agent := f["user_agent.original"]; agent != "" {
		fmt.Fprintf(&b, " %q", agent)
	}
	for _, x := range r.Fields {
		if name, ok := strings.CutPrefix(x.Key, "http.request.header."); ok {
			fmt.Fprintf(&b, " %s=%s", s.dim(printable(name)), printable(strings.Trim(string(x.Value), `[]"`)))
		}
	}
	if w := f["weight"]; w != "1" && w != "" {
		fmt.Fprintf(&b, " %s", s.dim("x"+w))
	}
	return b.String()
}

// took is a duration in seconds as a person reads it.
func took(seconds string) string {
	x, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return "-"
	}
	d := time.Duration(x * float64(time.Second))
	switch {
	case d < time.Millisecond:
		d = d.Round(time.Microsecond)
	case d < time.Second:
		d = d.Round(100 * time.Microsecond)
	default:
		d = d.Round(10 * time.Millisecond)
	}
	return d.String()
}
