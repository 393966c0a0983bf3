package alert

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Receiver is one that is told.
type Receiver struct {
	Name       string    // of its own; it stands in the log and in the state file
	To         Channel   // how
	Match      []Matcher // only of alerts that all of them fit; none: of all
	FiringOnly bool      // not of the end of an alert; an Alertmanager is always told
}

// Channel is a way to tell: [Alertmanager], [Webhook], [Slack] or [Mail].
type Channel interface {
	check() error      // what is wrong with the settings
	secrets() []string // that no error may show
	send(ctx context.Context, c *http.Client, m message) error
}

// resender is a Channel that groups on its own: it gets each change at once, and all that fires again after every interval.
type resender interface {
	resend() time.Duration
}

// Secret is text that no print, log or JSON shows: a password, or the URL of a hook, which is one.
type Secret string

const hidden = "[hidden]"

// String implements [fmt.Stringer].
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return s.String() }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Login is what a server asks for, where it does. User and Password, or Bearer alone.
type Login struct {
	User     string
	Password Secret
	Bearer   Secret
}

func (l Login) set(req *http.Request) {
	if l.Bearer != "" {
		req.Header.Set("Authorization", "Bearer "+string(l.Bearer))
	} else if l.User != "" {
		req.SetBasicAuth(l.User, string(l.Password))
	}
}

func (l Login) check() error {
	if l.Bearer != "" && l.User != "" {
		return errors.New("it has a bearer token and a user: only one of them can be sent")
	}
	if strings.ContainsAny(string(l.Bearer), "\r\n") {
		return errors.New("its bearer token has a line break in it")
	}
	return nil
}

func (l Login) secrets() []string {
	return []string{string(l.Password), string(l.Bearer), base64.StdEncoding.EncodeToString([]byte(l.User + ":" + string(l.Password)))}
}

func checkReceivers(all []Receiver) error {
	seen := map[string]bool{}
	for _, r := range all {
		op := "alert receiver " + r.Name
		if r.Name == "" || seen[r.Name] {
			return fail.New(fail.Usage, op, "each receiver needs a name of its own").Hinted("the log of what was sent tells receivers apart by it")
		}
		seen[r.Name] = true
		if r.To == nil {
			return fail.New(fail.Usage, op, "it has no address").Hinted("give it one of alertmanager, webhook, slack or mail")
		}
		if err := r.To.check(); err != nil {
			return fail.New(fail.Usage, op, "%s", scrub(err.Error(), r.To.secrets()))
		}
		for _, m := range r.Match {
			if m.compiled == nil {
				return fail.New(fail.Usage, op, "its match %s was not made by ParseMatcher", m)
			}
		}
	}
	return nil
}

// checkURL says what is wrong with the address of a hook, without saying the address.
func checkURL(s Secret) error {
	u, err := url.Parse(string(s))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("its url must look like https://HOST/PATH")
	}
	return nil
}

// secretsOf lists what of a hook's URL must not be shown: all but scheme and host. Servers like to repeat the last part of
// a path alone, so the parts are listed too, escaped and not.
func secretsOf(s Secret) []string {
	out := []string{string(s)}
	u, err := url.Parse(string(s))
	if err != nil {
		return out
	}
	out = append(out, u.RequestURI(), u.RawQuery, u.Path, u.EscapedPath())
	const telling = 6 // a part shorter than that is a word such as "api", not a token
	for _, path := range []string{u.Path, u.EscapedPath()} {
		for part := range strings.SplitSeq(path, "/") {
			if len(part) >= telling {
				out = append(out, part)
			}
		}
	}
	for _, values := range u.Query() {
		out = append(out, values...)
		for _, v := range values {
			out = append(out, url.QueryEscape(v))
		}
	}
	if p, ok := u.User.Password(); ok {
		out = append(out, p, u.User.String())
	}
	return out
}

// scrub takes secrets out of text, the longest first: else the rest of one that holds another would stay. Errors like to
// quote, so it looks for them in that spelling too.
func scrub(text string, secrets []string) string {
	secrets = slices.Clone(secrets)
	for _, s := range secrets {
		quoted := strconv.Quote(s)
		secrets = append(secrets, quoted[1:len(quoted)-1])
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		if len(s) > 1 { // "/" is the path of a URL without one
			text = strings.ReplaceAll(text, s, hidden)
		}
	}
	return text
}
