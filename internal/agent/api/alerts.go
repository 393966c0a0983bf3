package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/fairlead-dev/fairlead/internal/alert"
)

// Alerts is what is wrong now, and who is told of it.
type Alerts struct {
	Active    []Alert           `json:"active"`
	Silences  []alert.Silence   `json:"silences"`
	Receivers map[string]string `json:"receivers"` // the kind of each
}

// Alert is one that holds now.
type Alert struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Value       float64           `json:"value"`
	Firing      bool              `json:"firing"` // false: not yet for as long as its rule asks
	Since       time.Time         `json:"since"`
	SilencedBy  []string          `json:"silenced_by,omitempty"`
}

// Alerts returns what is wrong now.
func (c *Client) Alerts(ctx context.Context) (s Alerts, err error) {
	return s, c.c.Call(ctx, http.MethodGet, "/v1/alerts", nil, &s)
}

// SetAlerts replaces receivers and rules.
func (c *Client) SetAlerts(ctx context.Context, conf alert.Config) error {
	return c.c.Call(ctx, http.MethodPut, "/v1/alerts/config", conf, nil)
}

// Sent returns the log of what was sent, the oldest first.
func (c *Client) Sent(ctx context.Context) (s []alert.Sent, err error) {
	return s, c.c.Call(ctx, http.MethodGet, "/v1/alerts/sent", nil, &s)
}

// Silence keeps alerts from being told.
func (c *Client) Silence(ctx context.Context, s alert.Silence) (made alert.Silence, err error) {
	return made, c.c.Call(ctx, http.MethodPost, "/v1/alerts/silences", s, &made)
}

// Unsilence ends a silence.
func (c *Client) Unsilence(ctx context.Context, id string) error {
	return c.c.Call(ctx, http.MethodDelete, "/v1/alerts/silences/"+url.PathEscape(id), nil, nil)
}

// TestAlert sends one made-up alert to a receiver.
func (c *Client) TestAlert(ctx context.Context, receiver string) error {
	return c.c.Call(ctx, http.MethodPost, "/v1/alerts/test/"+url.PathEscape(receiver), nil, nil)
}
