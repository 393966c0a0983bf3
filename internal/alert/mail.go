package alert

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

// Mail is told by e-mail, through a server that takes it from us.
type Mail struct {
	Server   string   // HOST:PORT; on port 465 TLS comes first, elsewhere with STARTTLS where the server offers it
	From     string   // ADDRESS or NAME <ADDRESS>
	To       []string // each like From
	User     string   // with Password: for AUTH PLAIN, which goes over TLS or to this machine itself only
	Password Secret

	RequireTLS bool           // rather no mail than one in the clear
	Hello      string         // our name in EHLO; "": localhost, which most servers take
	CAs        *x509.CertPool // that sign the server's certificate; nil: the system's
}

func (m Mail) check() error {
	host, port, err := net.SplitHostPort(m.Server)
	if err != nil || host == "" || port == "" {
		return errors.New("its server must look like mail.example.com:587")
	}
	if _, err := m.addresses(); err != nil {
		return err
	}
	if m.User == "" && m.Password != "" {
		return errors.New("it has a password and no user")
	}
	if strings.ContainsAny(m.Hello, " \r\n") {
		return errors.New("its hello is no name of a host")
	}
	return nil
}

func (m Mail) secrets() []string {
	if m.User == "" {
		return nil
	}
	return []string{string(m.Password), base64.StdEncoding.EncodeToString(plainResponse(m.User, m.Password)),
		base64.StdEncoding.EncodeToString([]byte(m.Password))}
}

// envelope is who a mail is from and for.
type envelope struct {
	from *mail.Address
	to   []*mail.Address
}

func (m Mail) addresses() (e envelope, err error) {
	if e.from, err = mail.ParseAddress(m.From); err != nil {
		return e, fmt.Errorf("its sender %q is no mail address", m.From)
	}
	if len(m.To) == 0 {
		return e, errors.New("it says nobody to write to")
	}
	for _, to := range m.To {
		a, err := mail.ParseAddress(to)
		if err != nil {
			return e, fmt.Errorf("%q is no mail address", to)
		}
		e.to = append(e.to, a)
	}
	return e, nil
}

// compose writes a mail after RFC 5322, in ASCII whatever the alerts say: each header is made of parsed addresses, of our own
// characters or of encoded words (RFC 2047), so that no label can begin a header of its own, and the body is quoted-printable
// (RFC 2045). Mails of one group refer to the same, made-up mail: clients show them as one thread.
func compose(e envelope, m message, now time.Time) ([]byte, error) {
	var b bytes.Buffer
	header := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	_, domain, _ := strings.Cut(e.from.Address, "@")
	if i := strings.LastIndex(domain, "@"); i >= 0 { // a quoted local part may hold one
		domain = domain[i+1:]
	}
	thread := sha256.Sum256([]byte(m.receiver + "\n" + m.key))
	to := make([]string, len(e.to))
	for i, a := range e.to {
		to[i] = a.String()
	}
	header("Date", now.Format(time.RFC1123Z))
	header("From", e.from.String())
	header("To", strings.Join(to, ",\r\n "))
	header("Subject", subject(m.title()))
	header("Message-ID", "<"+rand.Text()+"@"+domain+">")
	header("References", "<"+hex.EncodeToString(thread[:12])+".fairlead@"+domain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: no out-of-office answers
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	if _, err := q.Write([]byte(mailText(m))); err != nil {
		return nil, err
	}
	if err := q.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// subject encodes and folds a title. White space of any kind becomes a blank, and what looks like an encoded word already is
// broken up.
func subject(title string) string {
	const longest = 200 // bytes; encoded, three times as much: still a header that servers take
	title = cut(strings.ToValidUTF8(strings.Join(strings.Fields(title), " "), "\uFFFD"), longest)
	title = strings.ReplaceAll(title, "=?", "= ?")
	return strings.ReplaceAll(mime.QEncoding.Encode("utf-8", title), "?= =?", "?=\r\n =?")
}

// mailText lists at most 50 alerts, with all their labels.
func mailText(m message) string {
	const most = 50
	var b strings.Builder
	b.WriteString(m.title() + "\n")
	for _, a := range m.alerts[:min(len(m.alerts), most)] {
		b.WriteString("\n" + headline(a) + "\n")
		mailAlert(&b, a)
		if l := graph(m.link, a.Expr); l != "" {
			b.WriteString("  " + l + "\n")
		}
	}
	if more := len(m.alerts) - most; more > 0 {
		fmt.Fprintf(&b, "\nand %d more.\n", more)
	}
	fmt.Fprintf(&b, "\n-- \nfairlead, as receiver %s\n", m.receiver)
	return b.String()
}

func mailAlert(b *strings.Builder, a metrics.Alert) {
	if d := details(a); d != "" {
		b.WriteString("  " + strings.ReplaceAll(d, "\n", "\n  ") + "\n")
	}
	if at := started(a); !at.IsZero() {
		fmt.Fprintf(b, "  fires since %s", at.UTC().Format("2006-01-02 15:04:05 MST"))
		if !a.Resolved.IsZero() {
			fmt.Fprintf(b, ", over since %s, after %s", a.Resolved.UTC().Format("2006-01-02 15:04:05 MST"), lasted(a))
		}
		b.WriteString("\n")
	}
	for _, k := range slices.Sorted(maps.Keys(a.Labels)) {
		fmt.Fprintf(b, "  %s = %s\n", k, a.Labels[k])
	}
}
