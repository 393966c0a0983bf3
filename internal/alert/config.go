package alert

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Config is what a machine's alerts file says, complete: secrets and rules stand in it as text. So it does not change when
// the files it was read from do, and it is kept where only the agent's user reads.
type Config struct {
	Receivers     []ReceiverConfig `yaml:"receivers" json:"receivers"`
	Rules         []string         `yaml:"rules" json:"-"` // Prometheus rule files
	RuleFiles     []RuleFile       `yaml:"-" json:"rule_files,omitempty"`
	GroupBy       []string         `yaml:"group_by" json:"group_by,omitempty"`
	GroupWait     Wait             `yaml:"group_wait" json:"group_wait,omitempty"`
	GroupInterval Wait             `yaml:"group_interval" json:"group_interval,omitempty"`
	RepeatEvery   Wait             `yaml:"repeat_every" json:"repeat_every,omitempty"`
}

// Wait is a time as 30s or 4h.
type Wait time.Duration

// UnmarshalText implements [encoding.TextUnmarshaler].
func (w *Wait) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is not above zero", d)
	}
	*w = Wait(d)
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (w Wait) MarshalText() ([]byte, error) { return []byte(time.Duration(w).String()), nil }

// RuleFile is a Prometheus rule file with its text.
type RuleFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// ReceiverConfig is one that is told; exactly one of the ways is set. Addresses of hooks and passwords may be written as
// env://NAME or file://PATH.
type ReceiverConfig struct {
	Name         string      `yaml:"name" json:"name"`
	Alertmanager string      `yaml:"alertmanager" json:"alertmanager,omitempty"`
	Webhook      string      `yaml:"webhook" json:"webhook,omitempty"`
	Slack        string      `yaml:"slack" json:"slack,omitempty"`
	Mail         *MailConfig `yaml:"mail" json:"mail,omitempty"`
	Match        []string    `yaml:"match" json:"match,omitempty"` // as severity=critical
	FiringOnly   bool        `yaml:"firing_only" json:"firing_only,omitempty"`
}

// MailConfig is a mail server and who is written to.
type MailConfig struct {
	Server     string   `yaml:"server" json:"server"`
	From       string   `yaml:"from" json:"from"`
	To         []string `yaml:"to" json:"to"`
	User       string   `yaml:"user" json:"user,omitempty"`
	Password   string   `yaml:"password" json:"password,omitempty"`
	RequireTLS bool     `yaml:"require_tls" json:"require_tls,omitempty"`
}

// ReadConfig reads an alerts file with all that it names: secrets by getenv or from files, and rule files, which are checked.
// Names of files are relative to the file's folder. What is wrong is a [fail.Usage] with its place, and shows no secret.
func ReadConfig(path string, getenv func(string) string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fail.New(fail.Usage, "", "%w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return c, fail.New(fail.Usage, path, "%w", err).Hinted("the keys are receivers, rules, group_by, group_wait, group_interval and repeat_every")
	}
	dir := filepath.Dir(path)
	for i := range c.Receivers {
		r := &c.Receivers[i]
		secrets := []*string{&r.Alertmanager, &r.Webhook, &r.Slack}
		if r.Mail != nil {
			secrets = append(secrets, &r.Mail.Password)
		}
		for _, s := range secrets {
			if *s, err = resolve(*s, dir, getenv); err != nil {
				return c, fail.New(fail.Usage, path, "receiver %q: %w", r.Name, err)
			}
		}
	}
	for _, name := range c.Rules {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if _, _, err := metrics.LoadRules(name); err != nil {
			return c, err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return c, fail.New(fail.Usage, path, "%w", err)
		}
		c.RuleFiles = append(c.RuleFiles, RuleFile{filepath.Base(name), string(text)})
	}
	if _, err := c.Options(); err != nil {
		e := *fail.As(err)
		e.Kind, e.Place = fail.Usage, path
		return c, &e
	}
	return c, nil
}

// resolve reads what env://NAME or file://PATH stands for.
func resolve(text, dir string, getenv func(string) string) (string, error) {
	if name, ok := strings.CutPrefix(text, "env://"); ok {
		v := getenv(name)
		if v == "" {
			return "", fmt.Errorf("%s is not set in the environment", name)
		}
		return v, nil
	}
	path, ok := strings.CutPrefix(text, "file://")
	if !ok {
		return text, nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// Options are what a dispatcher is made with. A receiver that cannot work is a [fail.Usage].
func (c Config) Options() (Options, error) {
	o := Options{GroupBy: c.GroupBy, GroupWait: time.Duration(c.GroupWait), GroupInterval: time.Duration(c.GroupInterval), RepeatEvery: time.Duration(c.RepeatEvery)}
	for i, r := range c.Receivers {
		to, n := r.channel()
		if n != 1 {
			return o, fail.New(fail.Usage, "", "receiver %q has %d ways to be told", cmp.Or(r.Name, fmt.Sprint(i)), n).Hinted("write exactly one of alertmanager, webhook, slack and mail")
		}
		out := Receiver{Name: r.Name, To: to, FiringOnly: r.FiringOnly}
		for _, text := range r.Match {
			m, err := ParseMatcher(text)
			if err != nil {
				return o, err
			}
			out.Match = append(out.Match, m)
		}
		o.Receivers = append(o.Receivers, out)
	}
	return o, nil
}

// channel is how the receiver is told, and how many ways are set.
func (r ReceiverConfig) channel() (to Channel, n int) {
	if r.Alertmanager != "" {
		to, n = Alertmanager{URL: Secret(r.Alertmanager)}, n+1
	}
	if r.Webhook != "" {
		to, n = Webhook{URL: Secret(r.Webhook)}, n+1
	}
	if r.Slack != "" {
		to, n = Slack{URL: Secret(r.Slack)}, n+1
	}
	if m := r.Mail; m != nil {
		to, n = Mail{Server: m.Server, From: m.From, To: m.To, User: m.User, Password: Secret(m.Password), RequireTLS: m.RequireTLS}, n+1
	}
	return to, n
}

// Kind names the way in which the receiver is told.
func (r ReceiverConfig) Kind() string {
	switch {
	case r.Alertmanager != "":
		return "alertmanager"
	case r.Webhook != "":
		return "webhook"
	case r.Slack != "":
		return "slack"
	}
	return "mail"
}
