package alert

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"
)

// send holds one conversation with the server (RFC 5321). A recipient that the server refuses does not keep the mail from
// the others, and is not tried again; give each mailbox a Receiver where that matters. Replies that begin with 5 are final, all else is worth another attempt; once the server has taken the mail,
// nothing that follows is an error, or people would get it twice.
func (m Mail) send(ctx context.Context, _ *http.Client, msg message) error {
	e, err := m.addresses()
	if err != nil {
		return permanent(err)
	}
	text, err := compose(e, msg, time.Now())
	if err != nil {
		return permanent(err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	refused, err := m.converse(ctx, conn, e, text)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("mail server %s: %w", m.Server, ctx.Err())
	case err != nil:
		return m.judged(err)
	case len(refused) > 0:
		return &sendError{err: fmt.Errorf("mail server %s refuses %w", m.Server, errors.Join(refused...)), delivered: true}
	}
	return nil
}

// judged names the server, and finds the replies that are final.
func (m Mail) judged(err error) error {
	text := fmt.Errorf("mail server %s: %w", m.Server, err)
	reply, isReply := errors.AsType[*textproto.Error](err)
	own, isOwn := errors.AsType[*sendError](err)
	if isReply && reply.Code/100 == 5 || isOwn && own.permanent {
		return permanent(text)
	}
	return text
}

// converse hands one mail over. It returns the refusals of single recipients.
func (m Mail) converse(ctx context.Context, conn net.Conn, e envelope, text []byte) (refused []error, err error) {
	c, err := m.greet(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if m.User != "" {
		if err := m.logIn(c, conn); err != nil {
			return nil, err
		}
	}
	if err := c.Mail(e.from.Address); err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	for _, to := range e.to {
		err := c.Rcpt(to.Address)
		if reply, ok := errors.AsType[*textproto.Error](err); ok && reply.Code != 421 { // 421: it hangs up
			refused = append(refused, fmt.Errorf("%s: %w", to.Address, err))
		} else if err != nil {
			return nil, err
		}
	}
	if len(refused) == len(e.to) {
		return nil, soonest(refused)
	}
	w, err := c.Data()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	_ = c.Quit() // the mail is taken
	return refused, nil
}

// soonest picks the refusal that may pass by itself, where there is one: it is worth another attempt for all.
func soonest(refused []error) error {
	for _, err := range refused {
		if reply, ok := errors.AsType[*textproto.Error](err); ok && reply.Code/100 == 4 {
			return err
		}
	}
	return refused[0]
}

// greet says hello, and begins TLS as the port and the server want it.
func (m Mail) greet(ctx context.Context, conn net.Conn) (*smtp.Client, error) {
	host, port, err := net.SplitHostPort(m.Server)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{ServerName: host, RootCAs: m.CAs}
	if port == "465" { // RFC 8314, section 3.3
		t := tls.Client(conn, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return nil, err
	}
	if err := c.Hello(cmp.Or(m.Hello, "localhost")); err != nil { // left to Extension, its error would be lost
		return nil, err
	}
	if _, done := c.TLSConnectionState(); done {
		return c, nil
	}
	if ok, _ := c.Extension("STARTTLS"); ok {
		return c, c.StartTLS(conf)
	}
	if m.RequireTLS {
		return nil, permanent(errors.New("it offers no STARTTLS, and the mail may not go in the clear"))
	}
	return c, nil
}

// logIn sends user and password where nobody can read along: over TLS, or to this machine.
func (m Mail) logIn(c *smtp.Client, conn net.Conn) error {
	if _, ok := c.TLSConnectionState(); !ok && !toOurselves(conn) {
		return permanent(errors.New("it offers no STARTTLS, and a password does not go in the clear"))
	}
	ok, kinds := c.Extension("AUTH")
	if !ok || !strings.Contains(" "+strings.ToUpper(kinds)+" ", " PLAIN ") {
		return permanent(errors.New("it offers no AUTH PLAIN: leave user and password out if it takes mail without them"))
	}
	if err := c.Auth(plain(m)); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

// toOurselves goes by the address that the connection has, not by a name: names can be pointed elsewhere.
func toOurselves(conn net.Conn) bool {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// plain is AUTH PLAIN (RFC 4616). The one of net/smtp decides by the server's name whether the password may go; logIn has
// decided that already.
type plain Mail

func plainResponse(user string, password Secret) []byte {
	return []byte("\x00" + user + "\x00" + string(password))
}

// Start implements [smtp.Auth].
func (p plain) Start(*smtp.ServerInfo) (string, []byte, error) {
	return "PLAIN", plainResponse(p.User, p.Password), nil
}

// Next implements [smtp.Auth].
func (p plain) Next(_ []byte, more bool) ([]byte, error) {
	if more {
		return nil, errors.New("the server asks on after AUTH PLAIN")
	}
	return nil, nil
}
