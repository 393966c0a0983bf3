// Package alert_test holds the room alert against real systems of Debian's: what a rule raises is seen in Alertmanager by its API and
// by amtool, the webhook that both of them send is the same, and a mail server takes what is mailed.
package alert_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/alert"
	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const pkg = "prometheus-alertmanager"

const rules = `
groups:
  - name: queue
    interval: 100ms
    rules:
      - alert: QueueLong
        expr: queue_length > 10
        for: 200ms
        labels: {severity: page}
        annotations: {summary: "{{ $labels.service }} has {{ $value }} waiting"}
`

// shop is a service whose queue can be filled, in a database that has the rule.
type shop struct {
	length atomic.Int64
	d      *alert.Dispatcher
	db     *metrics.DB
}

// open wires a database to a dispatcher as the agent does.
func open(t *testing.T, o alert.Options) *shop {
	t.Helper()
	if o.State == "" {
		o.State = filepath.Join(t.TempDir(), "alerts.json")
	}
	d, err := alert.New(o)
	if err != nil {
		t.Fatal(err)
	}
	db, err := metrics.Open(metrics.Options{Dir: filepath.Join(t.TempDir(), "metrics"), RuleInterval: 100 * time.Millisecond, Notify: d.Notify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &shop{d: d, db: db}
	db.Source("queue", 50*time.Millisecond, func(_ context.Context, r *metrics.Round) error {
		r.Gauge("queue_length", float64(s.length.Load()), "service", "shop")
		return nil
	})
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := db.Rules([]string{file}); err != nil {
		t.Fatal(err)
	}
	return s
}

// startAlertmanager runs Debian's on addr until the test ends; it passes alerts on to hook.
func startAlertmanager(t *testing.T, addr, hook string) {
	t.Helper()
	program, amtool := rig.Tool(t, pkg, pkg), rig.Tool(t, "amtool", pkg)
	conf := filepath.Join(t.TempDir(), "alertmanager.yml")
	content := fmt.Sprintf("route: {receiver: tools, group_by: [alertname, service], group_wait: 50ms, group_interval: 100ms}\n"+
		"receivers: [{name: tools, webhook_configs: [{url: %q}]}]\n", hook)
	if err := os.WriteFile(conf, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := rig.Command(t, "", nil, amtool, "check-config", conf); err != nil {
		t.Fatal(out, err)
	}
	var log strings.Builder
	cmd := exec.Command(program, "--config.file="+conf, "--storage.path="+t.TempDir(), "--web.listen-address="+addr, "--cluster.listen-address=")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	rig.Eventually(t, 30*time.Second, "Alertmanager answers", func() bool {
		_, err := rig.Get(t, "http://"+addr+"/-/ready")
		return err == nil
	})
}

// seen is an alert as Alertmanager's API lists it.
type seen struct {
	Labels       map[string]string
	Annotations  map[string]string
	StartsAt     time.Time
	EndsAt       time.Time
	GeneratorURL string
	Fingerprint  string
	Status       struct{ State string }
}

// active asks Alertmanager for what fires there.
func active(t *testing.T, addr string) (all []seen) {
	t.Helper()
	body, err := rig.Get(t, "http://"+addr+"/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return all
}

// hookServer keeps the webhooks it gets.
func hookServer(t *testing.T) (url string, got chan string) {
	t.Helper()
	got = make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			got <- string(b)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

// receive waits for a webhook of that status.
func receive(t *testing.T, got chan string, status string) string {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case body := <-got:
			if strings.Contains(body, `"status":"`+status+`","alerts"`) {
				return body
			}
		case <-late:
			t.Fatalf("no webhook that says %s", status)
		}
	}
}

// TestRuleFiresAndResolvesAtAlertmanager is the whole way, from a series to Alertmanager's API and its own webhook, and beside
// it the webhook that fairlead sends of the same alert: the two must be the same but for where they come from.
func TestRuleFiresAndResolvesAtAlertmanager(t *testing.T) {
	addr := rig.Free(t)
	theirURL, theirs := hookServer(t)
	ourURL, ours := hookServer(t)
	startAlertmanager(t, addr, theirURL)
	s := open(t, alert.Options{
		Receivers: []alert.Receiver{
			{Name: "alertmanager", To: alert.Alertmanager{URL: alert.Secret("http://" + addr)}},
			{Name: "tools", To: alert.Webhook{URL: alert.Secret(ourURL)}},
		},
		GroupBy: []string{"alertname", "service"}, GroupWait: 50 * time.Millisecond, GroupInterval: 100 * time.Millisecond, URL: "https://fl.example.com",
	})
	if all := active(t, addr); len(all) != 0 {
		t.Fatalf("before anything fired: %+v", all)
	}
	s.length.Store(12)
	rig.Eventually(t, 30*time.Second, "the alert is active at Alertmanager", func() bool { return len(active(t, addr)) == 1 })
	a := active(t, addr)[0]
	if a.Labels["alertname"] != "QueueLong" || a.Labels["service"] != "shop" || a.Labels["severity"] != "page" || a.Annotations["summary"] != "shop has 12 waiting" ||
		a.Status.State != "active" || !a.EndsAt.After(time.Now().Add(2*time.Minute)) || !strings.HasPrefix(a.GeneratorURL, "https://fl.example.com/graph?g0.expr=queue_length") {
		t.Errorf("%+v", a)
	}
	amtool := rig.Tool(t, "amtool", pkg)
	out, err := rig.Command(t, "", nil, amtool, "--alertmanager.url=http://"+addr, "alert", "query", "severity=page", "-o", "extended")
	if err != nil || !strings.Contains(out, `service="shop"`) || !strings.Contains(out, "shop has 12 waiting") {
		t.Errorf("amtool: %s %v", out, err)
	}
	compareHooks(t, receive(t, theirs, "firing"), receive(t, ours, "firing"))

	s.length.Store(3)
	rig.Eventually(t, 30*time.Second, "it is resolved at Alertmanager", func() bool { return len(active(t, addr)) == 0 })
	compareHooks(t, receive(t, theirs, "resolved"), receive(t, ours, "resolved"))
	var log []string
	for _, e := range s.d.Sent() {
		if e.Receiver == "alertmanager" {
			log = append(log, fmt.Sprintf("%s %s %s %t", e.Outcome, e.Alerts[0].Name, e.Alerts[0].Fingerprint, e.Alerts[0].Firing))
		}
	}
	if want := []string{"delivered QueueLong " + a.Fingerprint + " true", "delivered QueueLong " + a.Fingerprint + " false"}; !reflect.DeepEqual(log, want) {
		t.Errorf("the log of what was sent: %q, want %q", log, want)
	}
}

// compareHooks holds two webhooks to be the same JSON, but for the address of the sender.
func compareHooks(t *testing.T, theirs, ours string) {
	t.Helper()
	var want, got map[string]any
	if err := json.Unmarshal([]byte(theirs), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(ours), &got); err != nil {
		t.Fatal(err)
	}
	if want["externalURL"] == "" || got["externalURL"] != "https://fl.example.com" {
		t.Errorf("external URLs: %v and %v", want["externalURL"], got["externalURL"])
	}
	delete(want, "externalURL")
	delete(got, "externalURL")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("we send\n%s\nAlertmanager sends\n%s", ours, theirs)
	}
}

// TestAlertmanagerThatComesLater starts Alertmanager when the alert has been firing for a while.
func TestAlertmanagerThatComesLater(t *testing.T) {
	addr := rig.Free(t)
	hook, _ := hookServer(t)
	s := open(t, alert.Options{Receivers: []alert.Receiver{{Name: "alertmanager", To: alert.Alertmanager{URL: alert.Secret("http://" + addr)}}},
		State: filepath.Join(t.TempDir(), "state.json"), Attempts: 8})
	s.length.Store(12)
	tried := make(chan struct{})
	go func() { // nothing but this tells that an attempt was refused: the port is closed until Alertmanager has it
		defer close(tried)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return
		}
		defer l.Close()
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	}()
	<-tried
	startAlertmanager(t, addr, hook)
	rig.Eventually(t, time.Minute, "the alert arrives", func() bool { return len(active(t, addr)) == 1 })
	rig.Eventually(t, 10*time.Second, "the log says that it took more than one attempt", func() bool {
		all := s.d.Sent()
		return len(all) == 1 && all[0].Outcome == alert.Delivered && all[0].Attempts > 1
	})
}

// TestSilencedAlertsDoNotArrive silences at fairlead, and ends the silence.
func TestSilencedAlertsDoNotArrive(t *testing.T) {
	addr := rig.Free(t)
	hook, _ := hookServer(t)
	startAlertmanager(t, addr, hook)
	ourURL, ours := hookServer(t)
	s := open(t, alert.Options{Receivers: []alert.Receiver{
		{Name: "alertmanager", To: alert.Alertmanager{URL: alert.Secret("http://" + addr)}},
		{Name: "tools", To: alert.Webhook{URL: alert.Secret(ourURL)}},
	}, GroupWait: 50 * time.Millisecond})
	if err := s.d.Test(t.Context(), "tools"); err != nil {
		t.Fatal(err)
	}
	receive(t, ours, "firing")
	m, err := alert.ParseMatcher("alertname=~Queue.*")
	if err != nil {
		t.Fatal(err)
	}
	silence, err := s.d.Silence(alert.Silence{Matchers: []alert.Matcher{m}, Until: time.Now().Add(time.Hour), By: "ada", Why: "the queue is being moved"})
	if err != nil {
		t.Fatal(err)
	}
	s.length.Store(12)
	// The series of an alert is written after its notification: now the dispatcher knows of it.
	rig.Eventually(t, 30*time.Second, "the silenced alert fires", func() bool {
		got, err := s.db.Query(t.Context(), `ALERTS{alertname="QueueLong",alertstate="firing"}`, time.Now())
		return err == nil && len(got) == 1
	})
	loud := map[string]string{"alertname": "Loud", "service": "shop"} // nothing silences it
	s.d.Notify(t.Context(), []metrics.Alert{{Name: "Loud", Labels: loud, Firing: true, Active: time.Now(), Fired: time.Now()}})
	rig.Eventually(t, 30*time.Second, "the loud one arrives", func() bool { return len(active(t, addr)) > 0 })
	if all := active(t, addr); len(all) != 1 || all[0].Labels["alertname"] != "Loud" {
		t.Errorf("%+v", all)
	}
	if body := receive(t, ours, "firing"); !strings.Contains(body, "Loud") {
		t.Errorf("%s", body)
	}
	if err := s.d.Unsilence(silence.ID); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 30*time.Second, "the silenced one arrives", func() bool { return len(active(t, addr)) == 2 })
	if body := receive(t, ours, "firing"); !strings.Contains(body, "QueueLong") {
		t.Errorf("%s", body)
	}
}
