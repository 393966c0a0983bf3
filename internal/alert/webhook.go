package alert

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Webhook is told by a POST of the JSON that Alertmanager's own webhook sends, version 4 (Alertmanager's documentation,
// "webhook_config"), so that what was written for that takes this.
type Webhook struct {
	URL   Secret
	Login Login
}

// hookMessage is the JSON of Alertmanager's webhook.
type hookMessage struct {
	Receiver          string            `json:"receiver"`
	Status            string            `json:"status"`
	Alerts            []hookAlert       `json:"alerts"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
}

type hookAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // the zero time while it fires
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

func (h Webhook) check() error { return errors.Join(checkURL(h.URL), h.Login.check()) }

func (h Webhook) secrets() []string { return append(secretsOf(h.URL), h.Login.secrets()...) }

func (h Webhook) send(ctx context.Context, c *http.Client, m message) error {
	return post(ctx, c, h.URL, h.Login, hookMessageOf(m))
}

// hookMessageOf lists at most 500 alerts: a hook behind a small proxy takes a megabyte.
func hookMessageOf(m message) hookMessage {
	const most = 500
	listed := m.alerts[:min(len(m.alerts), most)]
	out := hookMessage{
		Receiver:          m.receiver,
		Status:            status(m.firing() > 0),
		Alerts:            make([]hookAlert, len(listed)),
		GroupLabels:       m.group,
		CommonLabels:      common(m.alerts, func(a metrics.Alert) map[string]string { return a.Labels }),
		CommonAnnotations: common(m.alerts, func(a metrics.Alert) map[string]string { return a.Annotations }),
		ExternalURL:       m.link,
		Version:           "4",
		GroupKey:          "{}:" + m.key, // before the colon stands the route, of which there is one
		TruncatedAlerts:   len(m.alerts) - len(listed),
	}
	for i, a := range listed {
		out.Alerts[i] = hookAlert{Status: status(a.Resolved.IsZero()), Labels: valid(a.Labels), Annotations: valid(a.Annotations),
			StartsAt: started(a), EndsAt: a.Resolved, GeneratorURL: graph(m.link, a.Expr), Fingerprint: fingerprint(a.Labels)}
	}
	return out
}
