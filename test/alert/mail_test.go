package alert_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/alert"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestRuleMailsThroughARealServer sends through Debian's aiosmtpd with STARTTLS, and reads the mailbox it writes.
func TestRuleMailsThroughARealServer(t *testing.T) {
	program := rig.Tool(t, "aiosmtpd", "python3-aiosmtpd")
	cert, key, pool := certificate(t)
	addr, box := rig.Free(t), filepath.Join(t.TempDir(), "box")
	var log strings.Builder
	cmd := exec.Command(program, "-n", "-l", addr, "--tlscert", cert, "--tlskey", key, "-c", "aiosmtpd.handlers.Mailbox", box)
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
	rig.Eventually(t, 30*time.Second, "the mail server answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	to := alert.Mail{Server: addr, From: "Fairlead <fairlead@example.com>", To: []string{"Zoë <ops@example.org>", "two@example.net"}, RequireTLS: true}
	s := open(t, alert.Options{GroupWait: 50 * time.Millisecond, Receivers: []alert.Receiver{{Name: "ops", To: to}}})
	if err := s.d.Test(t.Context(), "ops"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody vouches for was taken: %v", err)
	}
	to.CAs = pool
	s = open(t, alert.Options{GroupWait: 50 * time.Millisecond, Receivers: []alert.Receiver{{Name: "ops", To: to}}})
	s.length.Store(12)
	var files []string
	rig.Eventually(t, 30*time.Second, "the mail is in the box", func() bool {
		var err error
		files, err = filepath.Glob(filepath.Join(box, "new", "*"))
		return err == nil && len(files) > 0
	})
	f, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mail.ReadMessage(f)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || len(files) != 1 || subject != "FIRING: QueueLong (shop)" || m.Header.Get("X-RcptTo") != "ops@example.org, two@example.net" ||
		!strings.Contains(string(body), "shop has 12 waiting\n") {
		t.Errorf("%d mails, %q, %v, %v\n%s", len(files), subject, err, m.Header, body)
	}
}

// certificate writes one for 127.0.0.1, and returns the pool that trusts it.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
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
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(leaf)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private), pool
}
