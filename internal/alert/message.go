package alert

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// message is what a channel delivers.
type message struct {
	receiver string
	key      string            // of the group
	group    map[string]string // the labels that all alerts of the group share by its definition
	alerts   []metrics.Alert   // what fires first
	link     string            // where people reach the metrics; "": nowhere
}

// firing counts the alerts that are not over.
func (m message) firing() (n int) {
	for _, a := range m.alerts {
		if a.Resolved.IsZero() {
			n++
		}
	}
	return n
}

// status is Alertmanager's word for a message or an alert.
func status(firing bool) string {
	if firing {
		return "firing"
	}
	return "resolved"
}

// title says in one line what happens: "2 FIRING, 1 resolved: QueueLong (production, shop)".
func (m message) title() string {
	firing := m.firing()
	over := len(m.alerts) - firing
	var what string
	switch {
	case over == 0 && firing == 1:
		what = "FIRING"
	case firing == 0 && over == 1:
		what = "RESOLVED"
	case over == 0:
		what = fmt.Sprintf("%d FIRING", firing)
	case firing == 0:
		what = fmt.Sprintf("%d RESOLVED", over)
	default:
		what = fmt.Sprintf("%d FIRING, %d resolved", firing, over)
	}
	labels := maps.Clone(m.group)
	if len(labels) == 0 {
		labels = common(m.alerts, func(a metrics.Alert) map[string]string { return a.Labels })
	}
	name := labels[model.AlertNameLabel]
	delete(labels, model.AlertNameLabel)
	var rest []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		rest = append(rest, labels[k])
	}
	if name == "" {
		name = "alerts"
	}
	if len(rest) > 0 {
		name += " (" + strings.Join(rest, ", ") + ")"
	}
	return what + ": " + name
}

// headline is what the rule says of an alert in one line, or its labels where it says nothing.
func headline(a metrics.Alert) string {
	text := cmp.Or(a.Annotations["summary"], a.Annotations["message"], a.Annotations["description"], groupKey(a.Labels))
	return strings.Join(strings.Fields(text), " ")
}

// details is what the rule says beyond the headline.
func details(a metrics.Alert) string {
	d := strings.TrimSpace(a.Annotations["description"])
	if d == headline(a) {
		return ""
	}
	return d
}

// started is when an alert began to fire.
func started(a metrics.Alert) time.Time {
	if !a.Fired.IsZero() {
		return a.Fired
	}
	return a.Active
}

// lasted says for how long an alert that is over had fired.
func lasted(a metrics.Alert) time.Duration {
	return max(0, a.Resolved.Sub(started(a))).Round(time.Second)
}

// graph links to the alert's expression, by the path that Prometheus itself puts into alerts; "" without a base.
func graph(base, expr string) string {
	if base == "" || expr == "" {
		return ""
	}
	return strings.TrimSuffix(base, "/") + "/graph?g0.expr=" + url.QueryEscape(expr) + "&g0.tab=1"
}

// cut shortens text to at most n bytes, between runes.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const mark = "..."
	return strings.ToValidUTF8(text[:n-len(mark)], "") + mark
}
