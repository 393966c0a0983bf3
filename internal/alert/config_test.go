package alert

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const goodRules = "groups: [{name: mine, rules: [{alert: A, expr: up == 0}]}]"

// What the file names is read now, so that the machine does not depend on it later; it survives the way to the agent.
func TestReadConfig(t *testing.T) {
	dir := writeFiles(t, map[string]string{"hook": "https://hooks.example.com/T0/secret\n", "rules.yaml": goodRules, "alerts.yaml": `
receivers:
  - {name: am, alertmanager: "http://127.0.0.1:9093"}
  - {name: chat, slack: file://hook, match: [severity=~"page|ticket"], firing_only: true}
  - name: mail
    mail: {server: "mail.example.com:587", from: a@example.com, to: [b@example.com], user: a, password: env://MAIL, require_tls: true}
rules: [rules.yaml]
group_by: [service]
repeat_every: 12h
`})
	c, err := ReadConfig(filepath.Join(dir, "alerts.yaml"), func(name string) string { return map[string]string{"MAIL": "pw"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	o, err := back.Options()
	if err != nil || len(o.Receivers) != 3 || o.RepeatEvery != 12*time.Hour || o.GroupBy[0] != "service" {
		t.Fatalf("%+v, %v", o, err)
	}
	if s := o.Receivers[1].To.(Slack); s.URL != "https://hooks.example.com/T0/secret" || !o.Receivers[1].FiringOnly || len(o.Receivers[1].Match) != 1 {
		t.Errorf("chat: %#v", o.Receivers[1])
	}
	if m := o.Receivers[2].To.(Mail); string(m.Password) != "pw" || !m.RequireTLS {
		t.Errorf("mail: %v", m.To)
	}
	if len(back.RuleFiles) != 1 || back.RuleFiles[0].Text != goodRules {
		t.Errorf("rules: %+v", back.RuleFiles)
	}
	if k := []string{back.Receivers[0].Kind(), back.Receivers[1].Kind(), back.Receivers[2].Kind()}; strings.Join(k, " ") != "alertmanager slack mail" {
		t.Errorf("kinds: %v", k)
	}
}

func TestReadConfigRefuses(t *testing.T) {
	for text, say := range map[string]string{
		"receivers: [{name: a}]": "0 ways",
		"receivers: [{name: a, slack: 'https://x/hunter2', webhook: 'http://y'}]": "2 ways",
		"receivers: [{name: a, webhook: 'env://NOT_SET'}]":                        "NOT_SET is not set",
		"receivers: [{name: a, webhook: 'file://missing'}]":                       "missing",
		"receivers: [{name: a, webhook: 'http://y', match: ['=x']}]":              "=x",
		"receiver: []":      "receiver",
		"group_wait: soon":  "soon",
		"group_wait: -3s":   "above zero",
		"rules: [bad.yaml]": "bad.yaml",
	} {
		dir := writeFiles(t, map[string]string{"alerts.yaml": text, "bad.yaml": "groups: [{name: g, rules: [{alert: A, expr: 'up ='}]}]"})
		_, err := ReadConfig(filepath.Join(dir, "alerts.yaml"), func(string) string { return "" })
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), say) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, say)
		}
	}
}
