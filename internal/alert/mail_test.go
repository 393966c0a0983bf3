package alert

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
)

func mailTo(s *mailServer) Mail {
	return Mail{Server: s.addr, From: "Fairlead <fairlead@example.com>", To: []string{"Zoë Ops <ops@example.org>", "two@example.net"}}
}

func sendMail(t *testing.T, m Mail, alerts ...metrics.Alert) failure {
	t.Helper()
	if err := m.check(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	msg := message{receiver: "ops", key: `{alertname="QueueLong"}`, group: map[string]string{"alertname": "QueueLong"}, alerts: alerts}
	return judge(m.send(ctx, nil, msg), m.secrets())
}

// read parses a mail as a reader's program does.
func read(t *testing.T, text string) (header mail.Header, body string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	b, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header, strings.ReplaceAll(string(b), "\r\n", "\n")
}

// TestMailOverStartTLS is a whole way: from Notify to what a mail program shows.
func TestMailOverStartTLS(t *testing.T) {
	s := &mailServer{auth: true}
	cert, pool := certificate(t)
	s.cert = cert
	s.start(t)
	m := mailTo(s)
	m.CAs, m.User, m.Password, m.RequireTLS, m.Hello = pool, "fairlead", "pass wörd", true, "host.example.com"
	d := start(t, quick(Receiver{Name: "ops", To: m}))
	a := firing("ä", "severity", "critical")
	a.Fired = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a.Annotations = map[string]string{"summary": "Größe über 90 %", "description": "line one\n.\nline three"}
	d.Notify(t.Context(), []metrics.Alert{a})
	within(t, "the mail is taken", func() bool { return len(s.taken()) == 1 })
	got := s.taken()[0]
	if !got.secure || got.user != "fairlead" || got.password != "pass wörd" || !strings.HasPrefix(got.from, "FROM:<fairlead@example.com>") ||
		strings.Join(got.to, " ") != "TO:<ops@example.org> TO:<two@example.net>" {
		t.Errorf("%+v", got)
	}
	if heard := s.heard(); !strings.HasPrefix(heard, "EHLO host.example.com\nSTARTTLS\nEHLO host.example.com\nAUTH PLAIN ") {
		t.Errorf("%s", heard)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(got.text, "\r\n"), "\r\n") {
		if len(line) > 78 || strings.ContainsAny(line, "\r\n") || strings.IndexFunc(line, func(r rune) bool { return r > 126 }) >= 0 {
			t.Errorf("a line that RFC 5322 does not like: %q", line)
		}
	}
	h, body := read(t, got.text)
	date, err := h.Date()
	if err != nil || time.Since(date) > time.Minute {
		t.Errorf("date %s, %v", date, err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || subject != "FIRING: QueueLong (shop)" {
		t.Errorf("%q %v", subject, err)
	}
	to, err := h.AddressList("To")
	if err != nil || len(to) != 2 || to[0].Name != "Zoë Ops" || to[1].Address != "two@example.net" {
		t.Errorf("%v %v", to, err)
	}
	if id := h.Get("Message-ID"); !strings.HasPrefix(id, "<") || !strings.HasSuffix(id, "@example.com>") || len(id) < 30 {
		t.Errorf("message id %q", id)
	}
	if h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("MIME-Version") != "1.0" || h.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("%v", h)
	}
	want := "FIRING: QueueLong (shop)\n\nGröße über 90 %\n  line one\n  .\n  line three\n  fires since 2026-01-02 03:04:05 UTC\n" +
		"  alertname = QueueLong\n  id = ä\n  service = shop\n  severity = critical\n  https://fl.example.com/prom/graph?g0.expr=queue+%3E+10&g0.tab=1\n" +
		"\n-- \nfairlead, as receiver ops\n"
	if strings.TrimRight(body, "\n") != strings.TrimRight(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", body, want)
	}
	d.Notify(t.Context(), []metrics.Alert{over(a)})
	within(t, "the end is told", func() bool { return len(s.taken()) == 2 })
	h2, body := read(t, s.taken()[1].text)
	if h2.Get("References") == "" || h2.Get("References") != h.Get("References") || h2.Get("Message-ID") == h.Get("Message-ID") {
		t.Errorf("not one thread: %v and %v", h, h2)
	}
	if !strings.Contains(body, "RESOLVED: QueueLong") || !strings.Contains(body, ", over since ") {
		t.Error(body)
	}
}

func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("still not: %s", what)
		}
	}
}

// TestNoLabelBecomesAHeader puts line breaks, and what decodes to them, wherever an alert has text.
func TestNoLabelBecomesAHeader(t *testing.T) {
	s := &mailServer{}
	s.start(t)
	evil := "x\r\nBcc: all@example.com\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\n =?utf-8?q?=0D=0ABcc:_me?= \x00\x1b\u2028" + strings.Repeat("ü", 300)
	a := firing("1", "evil", evil)
	a.Annotations = map[string]string{"summary": evil, "description": evil}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := mailTo(s).send(ctx, nil, message{receiver: "ops", key: evil, group: map[string]string{"alertname": evil, "service": evil}, alerts: []metrics.Alert{a}})
	if err != nil {
		t.Fatal(err)
	}
	got := s.taken()
	if len(got) != 1 || len(got[0].to) != 2 || strings.Contains(s.heard(), "evil@example.com") {
		t.Fatalf("%d mails; commands:\n%s", len(got), s.heard())
	}
	h, body := read(t, got[0].text)
	names := map[string]bool{"Date": true, "From": true, "To": true, "Subject": true, "Message-Id": true, "References": true, "Auto-Submitted": true,
		"Mime-Version": true, "Content-Type": true, "Content-Transfer-Encoding": true}
	for name := range h {
		if !names[name] {
			t.Errorf("a header %s: %q", name, h[name])
		}
	}
	if len(h) != len(names) {
		t.Errorf("%d headers", len(h))
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || strings.ContainsAny(subject, "\r\n") || !strings.HasPrefix(subject, "FIRING: x Bcc: all@example.com") || len(subject) > 220 {
		t.Errorf("%q %v", subject, err)
	}
	if !strings.Contains(body, "evil@example.com") {
		t.Error("the text of the alert is lost")
	}
	for line := range strings.SplitSeq(got[0].text, "\r\n") {
		if len(line) > 998 || strings.Contains(line, "\n") {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

// elsewhere makes a connection look as if it led to another machine.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

func TestPasswordStaysOffTheOpenNet(t *testing.T) {
	s := &mailServer{auth: true}
	s.start(t)
	m := mailTo(s)
	m.User, m.Password = "u", "PASSW0RD"
	if f := sendMail(t, m, firing("1")); !f.delivered || f.text != "" || s.taken()[0].password != "PASSW0RD" {
		t.Errorf("to this machine itself it may go: %+v", f)
	}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e, err := m.addresses()
	if err != nil {
		t.Fatal(err)
	}
	before := strings.Count(s.heard(), "AUTH")
	_, err = m.converse(t.Context(), elsewhere{conn}, e, []byte("x"))
	if own, ok := errors.AsType[*sendError](err); !ok || !own.permanent || strings.Count(s.heard(), "AUTH") != before || len(s.taken()) != 1 {
		t.Errorf("%v\n%s", err, s.heard())
	}
	m.RequireTLS = true
	if f := sendMail(t, m, firing("1")); !f.permanent || !strings.Contains(f.text, "STARTTLS") || len(s.taken()) != 1 {
		t.Errorf("%+v", f)
	}
}

func TestMailServersThatRefuse(t *testing.T) {
	const pass = `PASS"W0RD`
	cert, _ := certificate(t)
	for name, c := range map[string]struct {
		server *mailServer
		user   bool
		want   failure // its text is a part
	}{
		"a busy server":                {&mailServer{replies: map[string]string{"GREETING": "421 later"}}, false, failure{text: `421 "later"`}},
		"a closed server":              {&mailServer{replies: map[string]string{"GREETING": "554 no"}}, false, failure{text: `554 "no"`, permanent: true}},
		"a wrong password":             {&mailServer{auth: true, replies: map[string]string{"AUTH": "535 no such password: " + pass}}, true, failure{text: `535 "no such password: ` + hidden, permanent: true}},
		"no login at all":              {&mailServer{}, true, failure{text: "no AUTH PLAIN", permanent: true}},
		"a sender it does not like":    {&mailServer{replies: map[string]string{"MAIL": "550 not you"}}, false, failure{text: `sender: 550 "not you"`, permanent: true}},
		"one recipient":                {&mailServer{replies: map[string]string{"RCPT TO:<two@example.net>": "550 nobody\tof that name"}}, false, failure{text: `refuses two@example.net: 550 "nobody\tof that name"`, delivered: true}},
		"all recipients":               {&mailServer{replies: map[string]string{"RCPT": "550 nobody"}}, false, failure{text: `550 "nobody"`, permanent: true}},
		"greylisting":                  {&mailServer{replies: map[string]string{"RCPT TO:<ops@example.org>": "550 no", "RCPT TO:<two@example.net>": "451 later"}}, false, failure{text: `451 "later"`}},
		"hangs up between recipients":  {&mailServer{replies: map[string]string{"RCPT TO:<two@example.net>": "421 bye"}}, false, failure{text: `421 "bye"`}},
		"a full disk":                  {&mailServer{replies: map[string]string{"DOT": "452 full"}}, false, failure{text: `452 "full"`}},
		"spam":                         {&mailServer{replies: map[string]string{"DOT": "554 spam"}}, false, failure{text: `554 "spam"`, permanent: true}},
		"hangs up at hello":            {&mailServer{hangUp: "EHLO"}, false, failure{text: "EOF"}},
		"hangs up at the text":         {&mailServer{hangUp: "DATA"}, false, failure{text: "EOF"}},
		"a certificate of nobody":      {&mailServer{cert: cert}, false, failure{text: "certificate"}},
		"hangs up after it took it":    {&mailServer{hangUp: "QUIT"}, false, failure{delivered: true}},
		"is rude after it took it":     {&mailServer{replies: map[string]string{"QUIT": "554 away with you"}}, false, failure{delivered: true}},
		"offers STARTTLS and does not": {&mailServer{cert: cert, replies: map[string]string{"STARTTLS": "454 not now"}}, true, failure{text: `454 "not now"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.server
			s.start(t)
			m := mailTo(s)
			if c.user {
				m.User, m.Password = "u", pass
			}
			f := sendMail(t, m, firing("1"))
			if f.permanent != c.want.permanent || f.delivered != c.want.delivered || !strings.Contains(f.text, c.want.text) || c.want.text == "" && f.text != "" ||
				strings.ContainsAny(f.text, "\r\n\t") || strings.Contains(f.text, "W0RD") {
				t.Errorf("got %+v\nwant %+v", f, c.want)
			}
			if taken := len(s.taken()); (taken == 1) != c.want.delivered {
				t.Errorf("%d mails were taken", taken)
			}
		})
	}
}

// TestMailServerThatSaysNothing must not hold the receiver longer than an attempt may take.
func TestMailServerThatSaysNothing(t *testing.T) {
	s := &mailServer{mute: "MAIL"}
	s.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := mailTo(s).send(ctx, nil, message{alerts: []metrics.Alert{firing("1")}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), s.addr) {
		t.Errorf("%v", err)
	}
}

// TestCloseBreaksOffAMail closes while the server is silent: Close must not wait for the attempt's own end.
func TestCloseBreaksOffAMail(t *testing.T) {
	s := &mailServer{mute: "MAIL"}
	s.start(t)
	o := quick(Receiver{Name: "ops", To: mailTo(s)})
	o.Timeout = time.Hour
	d := start(t, o)
	d.Notify(t.Context(), []metrics.Alert{firing("1")})
	within(t, "it is under way", func() bool { return strings.Contains(s.heard(), "MAIL") })
	done := make(chan error)
	go func() { done <- d.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits")
	}
}

func TestLongMails(t *testing.T) {
	var many []metrics.Alert
	for range 60 {
		many = append(many, firing("x"))
	}
	if text := mailText(message{alerts: many}); strings.Count(text, "too long") != 50 || !strings.Contains(text, "\nand 10 more.\n") {
		t.Error(text)
	}
}

// TestTLSComesFirst is port 465, which a test may not open: the server listens elsewhere, and the connection is handed over.
func TestTLSComesFirst(t *testing.T) {
	cert, pool := certificate(t)
	s := &mailServer{cert: cert, first: true, auth: true}
	s.start(t)
	m := mailTo(s)
	m.Server, m.CAs, m.User, m.Password, m.RequireTLS = "127.0.0.1:465", pool, "u", "PASSW0RD", true
	e, err := m.addresses()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if refused, err := m.converse(t.Context(), elsewhere{conn}, e, []byte("Subject: x\r\n\r\nx\r\n")); err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	if got := s.taken(); len(got) != 1 || !got[0].secure || got[0].password != "PASSW0RD" || strings.Contains(s.heard(), "STARTTLS") {
		t.Errorf("%+v\n%s", got, s.heard())
	}
}

// TestSubjectsAreNotDecodedTwice has labels that look encoded already: a reader must see them as they are.
func TestSubjectsAreNotDecodedTwice(t *testing.T) {
	for title, want := range map[string]string{
		"FIRING: =?utf-8?q?All_is_well?=": "FIRING: = ?utf-8?q?All_is_well?=",
		"FIRING: ä =?utf-8?q?x?=":         "FIRING: ä = ?utf-8?q?x?=",
		"FIRING: \xff\n\tx":               "FIRING: \uFFFD x",
	} {
		got, err := new(mime.WordDecoder).DecodeHeader(strings.ReplaceAll(subject(title), "\r\n", ""))
		if err != nil || got != want {
			t.Errorf("%q is read as %q, %v", title, got, err)
		}
	}
}
