package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/logs"
)

// connectionLine is that of a connection, or a flow of datagrams, that was passed on as it is: what went to the client and what came of it stand where a request
// has its status and its target.
func connectionLine(r logs.Record, f map[string]string, s styles) string {
	name := f["server.address"]
	if name == "" {
		name = "-"
	}
	kind := printable(f["network.transport"])
	switch r.Level {
	case "warn":
		kind = s.warn(kind)
	case "error":
		kind = s.bad(kind)
	}
	by := "-"
	if r.Release > 0 {
		by = fmt.Sprintf("%d.%d", r.Release, r.Instance)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %8s out %s in %s %s %s %s", s.dim(r.Time.Local().Format("2006-01-02 15:04:05.000")), kind, took(f["duration"]),
		volume(f["bytes_sent"]), volume(f["bytes_received"]), printable(name), s.dim(by), s.dim(f["client.address"]))
	if f["outcome"] != "served" {
		fmt.Fprintf(&b, " %s", f["outcome"])
	}
	if why := f["error.type"]; why != "" {
		fmt.Fprintf(&b, " (%s)", why)
	}
	if w := f["weight"]; w != "1" && w != "" {
		fmt.Fprintf(&b, " %s", s.dim("x"+w))
	}
	return b.String()
}

// volume is a number of bytes as a person reads it.
func volume(text string) string {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "-"
	}
	unit, digits := "B", 0
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n < 1024 {
			break
		}
		n, unit, digits = n/1024, next, 1
	}
	return strconv.FormatFloat(n, 'f', digits, 64) + unit
}
