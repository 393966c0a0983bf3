package alert

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Slack is told by an incoming webhook as Slack has them; Mattermost and Rocket.Chat take the same. A message is a line of
// text and one attachment an alert, whose colour is the severity: what all three of them show.
type Slack struct {
	URL     Secret
	Channel string // instead of the one that the hook belongs to, where the server allows that
	Name    string // under which it appears, where the server allows that
}

// slackMessage is the part of Slack's format that the others know too.
type slackMessage struct {
	Channel     string            `json:"channel,omitempty"`
	Username    string            `json:"username,omitempty"`
	Text        string            `json:"text"`
	Attachments []slackAttachment `json:"attachments"`
}

type slackAttachment struct {
	Fallback  string `json:"fallback"`
	Color     string `json:"color"`
	Title     string `json:"title"`
	TitleLink string `json:"title_link,omitempty"`
	Text      string `json:"text"`
	Footer    string `json:"footer,omitempty"`
	Time      int64  `json:"ts,omitempty"` // s since 1970
}

func (s Slack) check() error { return checkURL(s.URL) }

func (s Slack) secrets() []string { return secretsOf(s.URL) }

func (s Slack) send(ctx context.Context, c *http.Client, m message) error {
	return post(ctx, c, s.URL, Login{}, s.messageOf(m))
}

// messageOf shows at most 20 alerts, as Slack does.
func (s Slack) messageOf(m message) slackMessage {
	const most, longest = 20, 2500
	out := slackMessage{Channel: s.Channel, Username: s.Name, Text: "*" + escapeSlack(m.title()) + "*", Attachments: []slackAttachment{}}
	for _, a := range m.alerts[:min(len(m.alerts), most)] {
		title := cut(headline(a), 250)
		if !a.Resolved.IsZero() {
			title = "over after " + lasted(a).String() + ": " + title
		}
		out.Attachments = append(out.Attachments, slackAttachment{
			Fallback: escapeSlack(title), Title: escapeSlack(title), Text: escapeSlack(cut(details(a), longest)), Color: colour(a),
			TitleLink: graph(m.link, a.Expr), Footer: escapeSlack(cut(groupKey(a.Labels), 500)), Time: stamp(a),
		})
	}
	if more := len(m.alerts) - most; more > 0 {
		out.Text += fmt.Sprintf(" and %d more", more)
	}
	return out
}

func stamp(a metrics.Alert) int64 {
	at := started(a)
	if !a.Resolved.IsZero() {
		at = a.Resolved
	}
	if at.IsZero() {
		return 0
	}
	return at.Unix()
}

// colour goes by the label severity, which rules for Prometheus carry by custom.
func colour(a metrics.Alert) string {
	if !a.Resolved.IsZero() {
		return "#2e9e44"
	}
	switch strings.ToLower(a.Labels["severity"]) {
	case "critical", "page", "error", "emergency", "fatal":
		return "#d01f2e"
	case "info", "information", "none", "debug":
		return "#3273c8"
	}
	return "#e8a117"
}

// unmarked keeps text from being markup: with <!channel>, or @channel in Mattermost, a label could call everybody. Slack asks
// for the first three; the others get a space of no width.
var unmarked = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;",
	"@channel", "@\u200bchannel", "@all", "@\u200ball", "@here", "@\u200bhere")

func escapeSlack(s string) string { return unmarked.Replace(s) }
