package alert

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// delivery is what a real server got.
type delivery struct {
	path   string
	header http.Header
	body   []byte
}

// hookServer is a real server that keeps what it gets and answers 204.
func hookServer(t *testing.T) (url string, got chan delivery) {
	t.Helper()
	got = make(chan delivery, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- delivery{r.URL.RequestURI(), r.Header, b}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

func receive(t *testing.T, got chan delivery) delivery {
	t.Helper()
	select {
	case d := <-got:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was delivered")
		return delivery{}
	}
}

// quick is for tests against real servers, in real time.
func quick(r ...Receiver) Options {
	return Options{Receivers: r, GroupWait: time.Millisecond, GroupInterval: time.Millisecond, URL: "https://fl.example.com/prom/"}
}

func TestWebhookOverTheWire(t *testing.T) {
	url, got := hookServer(t)
	d := start(t, quick(Receiver{Name: "tools", To: Webhook{URL: Secret(url + "/in?key=abc"), Login: Login{User: "u", Password: "pässword"}}}))
	a := firing("1")
	d.Notify(t.Context(), []metrics.Alert{a})
	first := receive(t, got)
	if user, pass, ok := (&http.Request{Header: first.header}).BasicAuth(); !ok || user != "u" || pass != "pässword" || first.path != "/in?key=abc" || first.header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v", first)
	}
	began := a.Fired.Format(time.RFC3339Nano)
	want := fmt.Sprintf(`{"receiver":"tools","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"QueueLong","id":"1","service":"shop"},`+
		`"annotations":{"summary":"too long"},"startsAt":%q,"endsAt":"0001-01-01T00:00:00Z","generatorURL":"https://fl.example.com/prom/graph?g0.expr=queue+%%3E+10\u0026g0.tab=1",`+
		`"fingerprint":%q}],"groupLabels":{"alertname":"QueueLong","service":"shop"},"commonLabels":{"alertname":"QueueLong","id":"1","service":"shop"},`+
		`"commonAnnotations":{"summary":"too long"},"externalURL":"https://fl.example.com/prom/","version":"4",`+
		`"groupKey":"{}:{alertname=\"QueueLong\", service=\"shop\"}","truncatedAlerts":0}`, began, fingerprint(a.Labels))
	if string(first.body) != want {
		t.Errorf("got\n%s\nwant\n%s", first.body, want)
	}
	a = over(a)
	d.Notify(t.Context(), []metrics.Alert{a})
	second := receive(t, got)
	if s := string(second.body); !strings.Contains(s, `"status":"resolved","alerts":[{"status":"resolved"`) || !strings.Contains(s, `"endsAt":"`+a.Resolved.Format(time.RFC3339Nano)) {
		t.Errorf("%s", s)
	}
}

func TestWebhookIsCutShort(t *testing.T) {
	m := message{}
	for i := range 600 {
		m.alerts = append(m.alerts, firing(fmt.Sprint(i)))
	}
	if h := hookMessageOf(m); len(h.Alerts) != 500 || h.TruncatedAlerts != 100 || h.CommonLabels["service"] != "shop" || h.CommonLabels["id"] != "" {
		t.Errorf("%d alerts, %d cut, %v", len(h.Alerts), h.TruncatedAlerts, h.CommonLabels)
	}
	if b, err := json.Marshal(hookMessageOf(message{alerts: []metrics.Alert{{}}})); err != nil || strings.Contains(string(b), `"labels":null`) || strings.Contains(string(b), `"commonLabels":null`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestSlackOverTheWire(t *testing.T) {
	url, got := hookServer(t)
	d := start(t, quick(Receiver{Name: "chat", To: Slack{URL: Secret(url + "/services/T0/B0/tokentoken"), Channel: "#ops", Name: "fairlead"}}))
	crit, warn := firing("1", "severity", "critical"), firing("2", "severity", "warning")
	crit.Annotations = map[string]string{"summary": "<!channel> a & b\n@here", "description": "see *logs*"}
	d.Notify(t.Context(), []metrics.Alert{warn, crit})
	first := receive(t, got)
	var m slackMessage
	if err := json.Unmarshal(first.body, &m); err != nil {
		t.Fatal(err)
	}
	if m.Text != "*2 FIRING: QueueLong (shop)*" || m.Channel != "#ops" || m.Username != "fairlead" || len(m.Attachments) != 2 {
		t.Fatalf("%s", first.body)
	}
	if a := m.Attachments[0]; a.Color != "#d01f2e" || a.Title != "&lt;!channel&gt; a &amp; b @\u200bhere" || a.Text != "see *logs*" || a.Fallback != a.Title ||
		a.Time != crit.Fired.Unix() || !strings.HasPrefix(a.TitleLink, "https://fl.example.com/prom/graph?") || !strings.Contains(a.Footer, `severity="critical"`) {
		t.Errorf("%+v", a)
	}
	if a := m.Attachments[1]; a.Color != "#e8a117" || a.Title != "too long" {
		t.Errorf("%+v", a)
	}
	warn = over(warn)
	warn.Resolved = warn.Fired.Add(90 * time.Second)
	m = Slack{}.messageOf(message{alerts: []metrics.Alert{warn}})
	if a := m.Attachments[0]; a.Color != "#2e9e44" || a.Title != "over after 1m30s: too long" || m.Text != "*RESOLVED: QueueLong (2, shop, warning)*" {
		t.Errorf("%+v", m)
	}
	var many []metrics.Alert
	for i := range 25 {
		many = append(many, firing(fmt.Sprint(i), "severity", "info"))
	}
	if m = (Slack{}).messageOf(message{alerts: many}); len(m.Attachments) != 20 || !strings.HasSuffix(m.Text, " and 5 more") || m.Attachments[0].Color != "#3273c8" {
		t.Errorf("%s and %d attachments", m.Text, len(m.Attachments))
	}
}

func TestTitles(t *testing.T) {
	f := metrics.Alert{Labels: map[string]string{"alertname": "Down", "service": "shop", "n": "1"}}
	g := metrics.Alert{Labels: map[string]string{"alertname": "Slow", "service": "shop"}}
	for want, m := range map[string]message{
		"FIRING: Down (shop)":                 {group: map[string]string{"alertname": "Down", "service": "shop"}, alerts: []metrics.Alert{f}},
		"2 FIRING: alerts (shop)":             {alerts: []metrics.Alert{f, g}},
		"1 FIRING, 1 resolved: alerts (shop)": {alerts: []metrics.Alert{f, over(g)}},
		"2 RESOLVED: alerts (shop)":           {alerts: []metrics.Alert{over(f), over(g)}},
		"RESOLVED: Down (1, shop)":            {alerts: []metrics.Alert{over(f)}},
	} {
		if got := m.title(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := cut("äöüäöü", 8); got != "äö..." {
		t.Errorf("%q", got)
	}
}

// TestNoSecretIsShown fails every kind of receiver in every way here, with hostile answers that repeat what they were sent,
// and looks for secrets in all that comes out.
func TestNoSecretIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		const base = "/secret-path/T0KENT0KEN%2Fx?key=S3CRETKEY"
		var o Options
		var w wire
		o.Client, o.Log, o.State, o.Attempts = &http.Client{Transport: &w}, log.logger(), stateFile(t), 2
		login := Login{User: "user", Password: "PASSW0RD"}
		for _, host := range []string{"breaks", "hangs", "refuses", "fails", "moves"} {
			url := Secret("http://me:URLPASS@" + host + base)
			o.Receivers = append(o.Receivers,
				Receiver{Name: host + "-hook", To: Webhook{URL: url, Login: login}},
				Receiver{Name: host + "-bearer", To: Webhook{URL: url, Login: Login{Bearer: "BEARERT0KEN"}}},
				Receiver{Name: host + "-am", To: Alertmanager{URL: url, Login: login}},
				Receiver{Name: host + "-slack", To: Slack{URL: url}})
		}
		w.answer = func(host string, _ int) int {
			return map[string]int{"breaks": 0, "hangs": -1, "refuses": 403, "fails": 500, "moves": 302}[host]
		}
		w.header = http.Header{"Location": {"http://elsewhere" + base}}
		o.Log.Info("what is configured", "receivers", o.Receivers)
		d := start(t, o)
		begin := time.Now()
		d.Notify(t.Context(), []metrics.Alert{firing("a")})
		pass(t, begin, 3*time.Minute)
		text := log.String()
		for _, r := range o.Receivers {
			if !strings.Contains(text, "receiver="+r.Name) {
				t.Errorf("nothing of %s in the log", r.Name)
			}
			if err := d.Test(t.Context(), r.Name); fail.KindOf(err) != fail.Unavailable {
				t.Errorf("%s: %v", r.Name, err)
			} else {
				text += err.Error()
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(o.State)
		if err != nil {
			t.Fatal(err)
		}
		all, err := json.Marshal(o.Receivers)
		if err != nil {
			t.Fatal(err)
		}
		sent, err := json.Marshal(d.Sent())
		if err != nil {
			t.Fatal(err)
		}
		text += string(b) + string(all) + string(sent) + fmt.Sprintf("%v %+v %#v", o.Receivers, o.Receivers, o.Receivers)
		for _, secret := range []string{"secret-path", "T0KENT0KEN", "S3CRETKEY", "URLPASS", "PASSW0RD", "BEARERT0KEN", "dXNlcjpQQVNTVzBSRA"} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s is shown: %s", secret, text[max(0, i-200):min(len(text), i+100)])
			}
		}
		if !strings.Contains(text, "http://refuses") || !strings.Contains(text, hidden) {
			t.Error("nothing of what should be there is there")
		}
	})
}

func TestReceiversThatCannotWork(t *testing.T) {
	for name, r := range map[string]Receiver{
		"no name":         {To: Webhook{URL: "http://x"}},
		"no channel":      {Name: "a"},
		"no url":          {Name: "a", To: Webhook{}},
		"no host":         {Name: "a", To: Slack{URL: "https:///T0KENT0KEN"}},
		"no http":         {Name: "a", To: Alertmanager{URL: "ftp://x/T0KENT0KEN"}},
		"a control":       {Name: "a", To: Webhook{URL: "http://x/T0KENT0KEN\x00"}},
		"two logins":      {Name: "a", To: Webhook{URL: "http://x", Login: Login{User: "u", Bearer: "T0KENT0KEN"}}},
		"a split bearer":  {Name: "a", To: Webhook{URL: "http://x", Login: Login{Bearer: "T0KENT0KEN\r\nX: y"}}},
		"an empty match":  {Name: "a", To: Webhook{URL: "http://x"}, Match: []Matcher{{}}},
		"no port":         {Name: "a", To: Mail{Server: "mail", From: "a@b", To: []string{"c@d"}}},
		"nobody":          {Name: "a", To: Mail{Server: "mail:25", From: "a@b"}},
		"no sender":       {Name: "a", To: Mail{Server: "mail:25", To: []string{"c@d"}}},
		"a split address": {Name: "a", To: Mail{Server: "mail:25", From: "a@b", To: []string{"c@d\r\nBcc: e@f"}}},
		"a split hello":   {Name: "a", To: Mail{Server: "mail:25", From: "a@b", To: []string{"c@d"}, Hello: "x\r\nMAIL"}},
		"only a password": {Name: "a", To: Mail{Server: "mail:25", From: "a@b", To: []string{"c@d"}, Password: "T0KENT0KEN"}},
	} {
		_, err := New(Options{Receivers: []Receiver{r}})
		if fail.KindOf(err) != fail.Usage || strings.Contains(err.Error(), "T0KENT0KEN") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Options{Receivers: []Receiver{hook("a"), hook("a")}}); fail.KindOf(err) != fail.Usage {
		t.Errorf("two of one name: %v", err)
	}
	if err := start(t, Options{}).Test(t.Context(), "nobody"); fail.KindOf(err) != fail.NotFound {
		t.Errorf("a test of nobody: %v", err)
	}
}

func TestTestAlert(t *testing.T) {
	url, got := hookServer(t)
	o := quick(Receiver{Name: "tools", To: Webhook{URL: Secret(url)}, Match: []Matcher{matcher(t, "never=so")}})
	o.Log = slog.New(slog.DiscardHandler)
	d := start(t, o)
	if err := d.Test(t.Context(), "tools"); err != nil {
		t.Fatal(err)
	}
	if b := string(receive(t, got).body); !strings.Contains(b, `"alertname":"FairleadTest"`) {
		t.Error(b)
	}
	if s := d.Sent(); len(s) != 1 || s[0].Outcome != Delivered || s[0].Alerts[0].Name != TestName {
		t.Errorf("%+v", s)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-3": 0, "99999999": 10 * time.Minute, "soon": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}
