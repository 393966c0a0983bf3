//go:build unix

package remote_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/remote"
)

// refused dials and wants a refusal whose text has all of the words.
func (m *machine) refused(t *testing.T, o remote.Options, dest string, kind fail.Kind, words ...string) *fail.Error {
	t.Helper()
	h, err := remote.Dial(t.Context(), o, dest)
	if err == nil {
		h.Close()
		t.Fatal("it was let pass")
	}
	e := fail.As(err)
	text := err.Error() + "\n" + e.Hint + "\n" + strings.Join(e.Lines, "\n")
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in: %s", w, text)
		}
	}
	if e.Kind != kind {
		t.Errorf("kind %s, not %s: %v", e.Kind, kind, err)
	}
	return e
}

func fingerprint(t *testing.T, line string) string {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(k)
}

func TestNewHost(t *testing.T) {
	m := sshd(t, "")
	known := m.home + "/.ssh/known_hosts"
	shown := fingerprint(t, m.hostKey)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "not known", shown, "--accept-new", "ssh-keyscan -p "+m.port+" 127.0.0.1 >> "+known)
	if _, err := os.Stat(known); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a refusal wrote a file: %v", err)
	}

	var asked string
	o := m.options()
	o.Ask = func(q string) (bool, error) { asked = q; return false, nil }
	m.refused(t, o, m.dest(), fail.Preflight, "not accepted")
	if !strings.Contains(asked, shown) || !strings.Contains(asked, known) || !strings.Contains(asked, "127.0.0.1:"+m.port) {
		t.Errorf("asked %q", asked)
	}
	m.config(t, "StrictHostKeyChecking yes\n")
	o.Ask = func(string) (bool, error) { t.Error("asked, though the configuration says not to"); return true, nil }
	m.refused(t, o, m.dest(), fail.Preflight, "not known")

	// With HashKnownHosts what is written names nobody, and ssh-keygen finds it.
	m.config(t, "HashKnownHosts yes\n")
	os.RemoveAll(m.home + "/.ssh/known_hosts")
	o.Ask = func(string) (bool, error) { return true, nil }
	m.dial(t, o, m.dest())
	if text := m.read(t, known); !strings.HasPrefix(text, "|1|") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%q", text)
	}
	if out := run(t, "ssh-keygen", "-l", "-F", "[127.0.0.1]:"+m.port, "-f", known); !strings.Contains(out, shown) {
		t.Errorf("ssh-keygen: %s", out)
	}
	if fi, err := os.Stat(known); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	o.Ask = nil
	m.dial(t, o, m.dest())
}

// Twenty who dial one new host at once ask one question, and write one whole line.
func TestNewHostAtOnce(t *testing.T) {
	m := sshd(t, "")
	m.config(t, "HashKnownHosts no\n") // Debian says yes in /etc/ssh/ssh_config
	known := m.home + "/some/where/known"
	o := m.options()
	o.KnownHosts = known
	asked := 0
	o.Ask = func(string) (bool, error) { asked++; return true, nil }
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { m.dial(t, o, m.dest()) })
	}
	wg.Wait()
	if text := m.read(t, known); asked != 1 || text != "[127.0.0.1]:"+m.port+" "+strings.Join(strings.Fields(m.hostKey)[:2], " ") {
		t.Errorf("asked %d times: %q", asked, text)
	}
	if fi, err := os.Stat(m.home + "/some/where"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestChangedHost(t *testing.T) {
	m := sshd(t, "")
	m.keygen(t, "ed25519", m.dir+"/other")
	other := m.read(t, m.dir+"/other.pub")
	known := m.home + "/.ssh/known_hosts"
	m.write(t, known, "# a comment\n\n[127.0.0.1]:"+m.port+" "+other+"\n", 0o600)
	m.config(t, "StrictHostKeyChecking no\n")
	o := m.options()
	o.AcceptNew = true
	o.Ask = func(string) (bool, error) { t.Error("asked about a changed key"); return true, nil }
	e := m.refused(t, o, m.dest(), fail.Preflight, "CHANGED", fingerprint(t, m.hostKey), fingerprint(t, other), "ssh-keygen -R '[127.0.0.1]:"+m.port+"' -f "+known)
	if e.Place != known+":3" {
		t.Errorf("%q", e.Place)
	}
	// A second, right line makes it good.
	m.write(t, known, "[127.0.0.1]:"+m.port+" "+other+"\n[127.0.0.1]:"+m.port+" "+m.hostKey, 0o600)
	m.dial(t, m.options(), m.dest())

	m.write(t, known, "@revoked * "+m.hostKey+"\n[127.0.0.1]:"+m.port+" "+m.hostKey+"\n", 0o600)
	if e := m.refused(t, o, m.dest(), fail.Preflight, "revoked"); e.Place != known+":1" {
		t.Errorf("%q", e.Place)
	}
	m.write(t, known, "\n[127.0.0.1]:"+m.port+" ssh-ed25519 AAAA\n", 0o600)
	if e := m.refused(t, o, m.dest(), fail.Preflight, "damaged"); e.Place != known+":2" {
		t.Errorf("%q", e.Place)
	}
}

// A key that is known without the port is taken, as ssh(1) does; another one there is no change.
func TestKnownWithoutItsPort(t *testing.T) {
	m := sshd(t, "", "rsa", "ed25519")
	known := m.home + "/.ssh/known_hosts"
	m.write(t, known, "127.0.0.1 "+m.hostKey+"\n", 0o600) // the RSA one, which would not be asked for first
	m.dial(t, m.options(), m.dest())
	m.keygen(t, "ed25519", m.dir+"/other")
	m.write(t, known, "127.0.0.1 "+m.read(t, m.dir+"/other.pub")+"\n", 0o600)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "not known")
	m.write(t, known, "@revoked 127.0.0.1 "+m.read(t, m.dir+"/host_ed25519.pub")+"\n", 0o600)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "revoked")
}

// A host with several keys is asked for the one that is known.
func TestKnownKindOfKey(t *testing.T) {
	m := sshd(t, "", "ed25519", "ecdsa", "rsa")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		m.write(t, m.home+"/.ssh/known_hosts", "[127.0.0.1]:"+m.port+" "+m.read(t, m.dir+"/host_"+kind+".pub")+"\n", 0o600)
		m.dial(t, m.options(), m.dest())
	}
	only := sshd(t, "", "rsa")
	only.write(t, only.home+"/.ssh/known_hosts", "[127.0.0.1]:"+only.port+" "+m.hostKey+"\n", 0o600)
	only.refused(t, only.options(), only.dest(), fail.Preflight, "no longer has the kind of key", "rsa-sha2-512", fingerprint(t, m.hostKey), "known_hosts:1")
	m.config(t, "HostKeyAlgorithms ssh-dss\n")
	if e := m.refused(t, m.options(), m.dest(), fail.Usage, "ssh-dss"); e.Place != m.home+"/.ssh/config:1" {
		t.Errorf("%q", e.Place)
	}
}

func TestHostCertificate(t *testing.T) {
	m := sshd(t, "")
	m.keygen(t, "ed25519", m.dir+"/ca")
	run(t, "ssh-keygen", "-q", "-s", m.dir+"/ca", "-I", "test", "-h", "-n", "127.0.0.1", m.dir+"/host_ed25519.pub")
	m.write(t, m.dir+"/sshd_config", m.read(t, m.dir+"/sshd_config")+"\nHostCertificate "+m.dir+"/host_ed25519-cert.pub\n", 0o600)
	m.restart(t)
	ca := m.read(t, m.dir+"/ca.pub")
	known := m.home + "/.ssh/known_hosts"
	m.write(t, known, "@cert-authority * "+ca+"\n", 0o600)
	m.dial(t, m.options(), m.dest())

	m.write(t, known, "@cert-authority *.example.com "+ca+"\n", 0o600)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "not known")
	m.write(t, known, "@cert-authority * "+ca+"\n@revoked * "+ca+"\n", 0o600)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "revoked")
	m.write(t, known, "@cert-authority * "+m.hostKey+"\n", 0o600)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "certificate is not good")
	m.write(t, known, "@cert-authority * "+ca+"\n", 0o600)
	m.config(t, "HostKeyAlias elsewhere\n")
	m.refused(t, m.options(), m.dest(), fail.Preflight, "principal")
}

func TestCancelledQuestionWritesNothing(t *testing.T) {
	m := sshd(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	answer, asked := make(chan bool), make(chan struct{})
	over := make(chan struct{})
	o := m.options()
	o.Ask = func(string) (bool, error) {
		close(asked)
		defer close(over)
		return <-answer, nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := remote.Dial(ctx, o, m.dest())
		done <- err
	}()
	<-asked
	cancel()
	if err := <-done; fail.KindOf(err) != fail.Interrupted || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	answer <- true
	<-over
	m.refused(t, m.options(), m.dest(), fail.Preflight, "not known") // a later question waits until the first one is answered
	if _, err := os.Stat(m.home + "/.ssh/known_hosts"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
