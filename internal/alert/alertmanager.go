package alert

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Alertmanager is told as a Prometheus tells it, by its API v2 (POST /api/v2/alerts; the wire is in its
// api/v2/openapi.yaml). It groups, repeats and routes on its own. Each of several in a cluster is a Receiver of its own: all
// of them want to be told.
type Alertmanager struct {
	URL   Secret // what stands before /api/v2; a user and a password in it are sent
	Login Login
}

// wireAlert is an alert on Alertmanager's API.
type wireAlert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt,omitzero"`
	EndsAt       time.Time         `json:"endsAt,omitzero"` // in the future while it fires: it is over then unless told again
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// resendEvery is how often an Alertmanager hears of what fires, as Prometheus does it; what it has not heard of for four
// times as long is over.
const resendEvery = time.Minute

func (Alertmanager) resend() time.Duration { return resendEvery }

func (a Alertmanager) check() error { return errors.Join(checkURL(a.URL), a.Login.check()) }

func (a Alertmanager) secrets() []string { return append(secretsOf(a.URL), a.Login.secrets()...) }

// send posts in parts, as Prometheus does: an Alertmanager limits the size of a request.
func (a Alertmanager) send(ctx context.Context, c *http.Client, m message) error {
	u, err := url.Parse(string(a.URL))
	if err != nil {
		return permanent(errors.New("the url is none"))
	}
	to := Secret(u.JoinPath("api/v2/alerts").String())
	const most = 256
	now := time.Now()
	for part := range slices.Chunk(m.alerts, most) {
		wire := make([]wireAlert, len(part))
		for i, al := range part {
			wire[i] = wireAlert{Labels: valid(al.Labels), Annotations: valid(al.Annotations), StartsAt: started(al), EndsAt: endsAt(al, now),
				GeneratorURL: graph(m.link, al.Expr)}
		}
		if err := post(ctx, c, to, a.Login, wire); err != nil {
			return err
		}
	}
	return nil
}

func endsAt(a metrics.Alert, now time.Time) time.Time {
	switch {
	case !a.Resolved.IsZero():
		return a.Resolved
	case !a.ValidUntil.IsZero():
		return a.ValidUntil
	}
	return now.Add(4 * resendEvery)
}

// valid makes text out of values that are not UTF-8, which Alertmanager would refuse, and a map out of none.
func valid(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = strings.ToValidUTF8(v, "\uFFFD")
	}
	return out
}
