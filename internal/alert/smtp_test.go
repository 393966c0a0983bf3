package alert

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// mailServer is a small SMTP server (RFC 5321) that keeps what it is told.
type mailServer struct {
	addr     string
	cert     *tls.Certificate  // nil: no STARTTLS
	first    bool              // TLS comes first, without STARTTLS
	auth     bool              // AUTH PLAIN is offered
	replies  map[string]string // for a verb, or for a verb and its argument, instead of 250
	hangUp   string            // at this verb
	mute     string            // from this verb on: no answer
	mu       sync.Mutex
	commands []string
	mails    []mailTaken
	l        net.Listener
	done     sync.WaitGroup
}

type mailTaken struct {
	from, user, password string
	to                   []string
	secure               bool
	text                 string
}

func (s *mailServer) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.l, s.addr = l, l.Addr().String()
	var open sync.Map
	s.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(conn, true)
			s.done.Go(func() { defer conn.Close(); s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		s.done.Wait()
	})
}

// reply sends what the test asked for, or the usual, and reports whether the usual goes on.
func (s *mailServer) reply(conn net.Conn, line, usual string) bool {
	verb, _, _ := strings.Cut(line, " ")
	for _, k := range []string{line, verb} {
		if r, ok := s.replies[k]; ok {
			fmt.Fprintf(conn, "%s\r\n", r)
			return r[0] == '2' || r[0] == '3'
		}
	}
	fmt.Fprintf(conn, "%s\r\n", usual)
	return true
}

func (s *mailServer) serve(conn net.Conn) {
	var m mailTaken
	if s.first {
		conn, m.secure = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*s.cert}}), true
	}
	r := bufio.NewReader(conn)
	if !s.reply(conn, "GREETING", "220 test.invalid ESMTP") {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		s.commands = append(s.commands, line)
		s.mu.Unlock()
		verb, arg, _ := strings.Cut(line, " ")
		switch verb {
		case s.hangUp:
			return
		case s.mute:
			_, _ = r.ReadString('\n')
			return
		}
		switch verb {
		case "EHLO":
			offers := []string{"test.invalid", "8BITMIME"}
			if s.cert != nil && !m.secure {
				offers = append(offers, "STARTTLS")
			}
			if s.auth {
				offers = append(offers, "AUTH LOGIN PLAIN")
			}
			for i, o := range offers {
				sep := "-"
				if i == len(offers)-1 {
					sep = " "
				}
				fmt.Fprintf(conn, "250%s%s\r\n", sep, o)
			}
		case "STARTTLS":
			if !s.reply(conn, line, "220 go ahead") {
				continue
			}
			t := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*s.cert}})
			if t.Handshake() != nil {
				return
			}
			conn, r, m.secure = t, bufio.NewReader(t), true
		case "AUTH":
			b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(arg, "PLAIN "))
			if parts := strings.Split(string(b), "\x00"); len(parts) == 3 {
				m.user, m.password = parts[1], parts[2]
			}
			s.reply(conn, "AUTH", "235 welcome")
		case "MAIL":
			m.from, m.to = arg, nil
			s.reply(conn, line, "250 ok")
		case "RCPT":
			if s.reply(conn, line, "250 ok") {
				m.to = append(m.to, arg)
			}
		case "DATA":
			if s.reply(conn, line, "354 go on") && !s.data(conn, r, &m) {
				return
			}
		case "QUIT":
			s.reply(conn, line, "221 bye")
			return
		default:
			fmt.Fprintf(conn, "502 what?\r\n")
		}
	}
}

// data takes a mail up to its dot, and undoes the doubling of dots.
func (s *mailServer) data(conn net.Conn, r *bufio.Reader, m *mailTaken) bool {
	m.text = ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		m.text += strings.TrimPrefix(line, ".")
	}
	if s.reply(conn, "DOT", "250 taken") {
		s.mu.Lock()
		s.mails = append(s.mails, *m)
		s.mu.Unlock()
	}
	return true
}

func (s *mailServer) taken() []mailTaken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mailTaken(nil), s.mails...)
}

func (s *mailServer) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.commands, "\n")
}

// certificate makes one for 127.0.0.1, and the pool that trusts it.
func certificate(t *testing.T) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
