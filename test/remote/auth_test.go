//go:build unix

package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// agent starts an ssh-agent and gives it keys.
func agent(t *testing.T, keys ...string) (socket string, pid int) {
	t.Helper()
	socket = temp(t) + "/s"
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	rig.Eventually(t, 20*time.Second, "the agent listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	for _, k := range keys {
		add := exec.Command("ssh-add", "-q", k)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return socket, cmd.Process.Pid
}

func TestKeysOfFiles(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	for _, kind := range []string{"ecdsa", "rsa"} {
		m.keygen(t, kind, m.home+"/.ssh/id_"+kind)
		m.authorize(t, "root", m.home+"/.ssh/id_"+kind+".pub") // the others are shown first, and refused
		m.dial(t, m.options(), m.dest())
	}
	m.keygen(t, "ed25519", m.home+"/work key")
	m.authorize(t, "root", m.home+"/work key.pub")
	e := m.refused(t, m.options(), m.dest(), fail.Preflight, "none of the keys", "ssh-copy-id -p "+m.port+" root@127.0.0.1", "id_ed25519: ED25519 SHA256:", "id_rsa: RSA", "id_ecdsa: ECDSA")
	if len(e.Lines) != 3 {
		t.Errorf("%q", e.Lines)
	}
	m.config(t, "Host work\n HostName 127.0.0.1\n Port "+m.port+"\n User root\n IdentityFile %d/nowhere\n IdentityFile \"~/work key\"\n")
	h := m.dial(t, m.options(), "work")
	if h.Name != "work" || h.Address != "127.0.0.1:"+m.port {
		t.Errorf("%q %q", h.Name, h.Address)
	}
	os.Chmod(m.home+"/work key", 0o644)
	m.refused(t, m.options(), "work", fail.Preflight, "others can read it: chmod 600", "nowhere: not used")
	os.RemoveAll(m.home + "/.ssh/id_ed25519")
	os.RemoveAll(m.home + "/.ssh/id_ecdsa")
	os.RemoveAll(m.home + "/.ssh/id_rsa")
	os.RemoveAll(m.home + "/.ssh/id_ed25519.pub")
	os.RemoveAll(m.home + "/.ssh/id_ecdsa.pub")
	os.RemoveAll(m.home + "/.ssh/id_rsa.pub")
	m.refused(t, m.options(), m.dest(), fail.Preflight, "there is no key to show", "ssh-keygen")
}

func TestPassphraseIsAskedOnce(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	key := m.home + "/.ssh/id_ed25519"
	os.Remove(key)
	os.Remove(key + ".pub")
	newKey(t, key, "the secret of a test")
	m.authorize(t, "root")
	o := m.options()
	var mu sync.Mutex
	asked := 0
	o.Passphrase = func(prompt string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		if !strings.Contains(prompt, "passphrase of "+m.home) {
			t.Errorf("%q", prompt)
		}
		return []byte("the secret of a test"), nil
	}
	m.refused(t, o, m.dest(), fail.Preflight, "none of the keys")
	if asked != 0 {
		t.Fatal("asked for the passphrase of a key that the machine does not take")
	}
	m.write(t, m.dir+"/authorized_root", run(t, "ssh-keygen", "-y", "-P", "the secret of a test", "-f", key), 0o644)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "id_ed25519 could not be used", "nobody is there", "ssh-add")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { m.dial(t, o, m.dest()) })
	}
	wg.Wait()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}

	// A wrong one is not asked for again, and the next key is shown.
	second := m.home + "/second"
	newKey(t, second, "another secret")
	m.keygen(t, "ed25519", m.home+"/third")
	m.write(t, m.dir+"/authorized_root", run(t, "ssh-keygen", "-y", "-P", "another secret", "-f", second)+m.read(t, m.home+"/third.pub")+"\n", 0o644)
	m.config(t, "IdentityFile ~/second\n")
	e := m.refused(t, o, m.dest(), fail.Preflight, "passphrase is not right")
	for _, secret := range []string{"the secret of a test", "another secret"} {
		if strings.Contains(e.Error()+strings.Join(e.Lines, ""), secret) {
			t.Error("the error tells a secret")
		}
	}
	m.config(t, "IdentityFile ~/second\nIdentityFile ~/third\n")
	m.dial(t, o, m.dest())
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

func TestAgent(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	var keys []string
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		m.keygen(t, kind, m.home+"/held_"+kind)
		keys = append(keys, m.home+"/held_"+kind)
	}
	socket, pid := agent(t, keys...)
	o := m.options()
	o.Getenv = m.getenv("SSH_AUTH_SOCK", socket)
	for _, k := range keys {
		m.authorize(t, "root", k+".pub")
		m.dial(t, o, m.dest())
	}
	m.refused(t, m.options(), m.dest(), fail.Preflight)
	m.config(t, "IdentityAgent "+socket+"\n")
	m.dial(t, m.options(), m.dest())
	m.config(t, "IdentitiesOnly yes\n")
	e := m.refused(t, o, m.dest(), fail.Preflight, "id_ed25519")
	if strings.Contains(strings.Join(e.Lines, "\n"), "of the agent") {
		t.Errorf("IdentitiesOnly: %q", e.Lines)
	}
	// With only the public half in a file the agent signs.
	os.Remove(m.home + "/held_ed25519")
	m.config(t, "IdentitiesOnly yes\nIdentityFile ~/held_ed25519\n")
	m.dial(t, o, m.dest())

	// More keys than sshd listens to: a named one comes first.
	for i := range 7 {
		k := m.home + "/many" + string(rune('a'+i))
		m.keygen(t, "ed25519", k)
		keys = append(keys, k)
	}
	crowd, _ := agent(t, keys[3:]...)
	o.Getenv = m.getenv("SSH_AUTH_SOCK", crowd)
	m.config(t, "")
	m.authorize(t, "root", m.home+"/manyg.pub")
	m.refused(t, o, m.dest(), fail.Preflight, "too many keys", "IdentitiesOnly")
	m.config(t, "IdentityFile ~/manyg\n")
	m.dial(t, o, m.dest())

	// An agent that froze is given up with the machine's time.
	syscall.Kill(pid, syscall.SIGSTOP)
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	m.config(t, "ConnectTimeout 1\n")
	o.Getenv = m.getenv("SSH_AUTH_SOCK", socket)
	m.refused(t, o, m.dest(), fail.Unavailable, "no answer within 1s")
}

func TestUserCertificate(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	m.keygen(t, "ed25519", m.dir+"/ca")
	m.write(t, m.dir+"/sshd_config", m.read(t, m.dir+"/sshd_config")+"\nTrustedUserCAKeys "+m.dir+"/ca.pub\n", 0o600)
	m.restart(t)
	m.authorize(t, "root")
	key := m.home + "/.ssh/id_ed25519"
	m.refused(t, m.options(), m.dest(), fail.Preflight)
	run(t, "ssh-keygen", "-q", "-s", m.dir+"/ca", "-I", "test", "-n", "root", key+".pub")
	m.dial(t, m.options(), m.dest())
	if err := os.Rename(key+"-cert.pub", m.home+"/cert"); err != nil {
		t.Fatal(err)
	}
	m.refused(t, m.options(), m.dest(), fail.Preflight)
	m.config(t, "CertificateFile ~/cert\n")
	m.dial(t, m.options(), m.dest())
	socket, _ := agent(t, key)
	os.Remove(key)
	o := m.options()
	o.Getenv = m.getenv("SSH_AUTH_SOCK", socket)
	m.dial(t, o, m.dest())
}

func TestMoreThanAKey(t *testing.T) {
	m := sshd(t, "AuthenticationMethods publickey,password\nPasswordAuthentication yes\n")
	m.trust(t)
	m.refused(t, m.options(), m.dest(), fail.Preflight, "more than a key")
}

func TestSudo(t *testing.T) {
	m := sshd(t, "")
	m.trust(t)
	root := m.dial(t, m.options(), m.dest())
	id := remote.Command{Args: []string{"id", "-u"}, Root: true}
	if out, err := root.Run(t.Context(), id); err != nil || string(out) != "0\n" {
		t.Fatalf("%q %v", out, err)
	}
	user := account(t, "/bin/sh")
	m.authorize(t, user, m.home+"/.ssh/id_ed25519.pub")
	h := m.dial(t, m.options(), user+"@127.0.0.1:"+m.port)
	if _, err := exec.LookPath("sudo"); err != nil {
		_, err := h.Run(t.Context(), id)
		if fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), "no sudo") {
			t.Errorf("%v", err)
		}
	}
	rig.Tool(t, "sudo", "sudo")
	_, err := h.Run(t.Context(), id)
	if fail.KindOf(err) != fail.Preflight || !strings.Contains(fail.As(err).Hint, user+" ALL=(root) NOPASSWD: ALL") {
		t.Fatalf("%v\n%s", err, fail.As(err).Hint)
	}
	rule := "/etc/sudoers.d/" + user
	t.Cleanup(func() { os.Remove(rule) })
	m.write(t, rule, user+" ALL=(root) NOPASSWD: /usr/bin/id, /bin/sh\n", 0o440)
	if out, err := h.Run(t.Context(), id); err != nil || string(out) != "0\n" {
		t.Errorf("%q %v", out, err)
	}
	_, err = h.Run(t.Context(), remote.Command{Args: []string{"sh", "-c", "echo mine >&2; exit 1"}, Root: true})
	if exit, ok := errors.AsType[*remote.ExitError](err); !ok || exit.Status != 1 || fail.KindOf(err) == fail.Preflight {
		t.Errorf("%v", err)
	}
	if _, err := h.Run(t.Context(), remote.Command{Args: []string{"cat", "/etc/shadow"}, Root: true}); fail.KindOf(err) != fail.Preflight {
		t.Errorf("what sudo does not allow: %v", err)
	}
}

func TestProxyJump(t *testing.T) {
	target, one, two := sshd(t, ""), sshd(t, ""), sshd(t, "")
	m := target
	user := account(t, "/bin/sh")
	m.keygen(t, "ed25519", m.home+"/jump")
	one.authorize(t, user, m.home+"/jump.pub")
	two.authorize(t, user, m.home+"/jump.pub")
	var known string
	for _, x := range []*machine{target, one, two} {
		known += "[127.0.0.1]:" + x.port + " " + x.hostKey + "\n"
	}
	m.write(t, m.home+"/.ssh/known_hosts", known, 0o600)
	hosts := "Host target\n HostName 127.0.0.1\n Port " + target.port + "\n User root\nHost one\n HostName 127.0.0.1\n Port " + one.port +
		"\n User " + user + "\n IdentityFile ~/jump\nHost two\n HostName localhost\n HostKeyAlias [127.0.0.1]:" + two.port + "\n Port " + two.port + "\n IdentityFile ~/jump\n"
	for _, jump := range []string{"one", "one," + user + "@two", user + "@127.0.0.1:" + one.port + ",ssh://" + user + "@two:" + two.port} {
		m.config(t, "Host target\n ProxyJump "+jump+"\nHost 127.0.0.1\n IdentityFile ~/jump\n"+hosts)
		h := m.dial(t, m.options(), "target")
		out, err := h.Run(t.Context(), sh("echo $SSH_CONNECTION"))
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), " "+target.port) {
			t.Errorf("%s: %q %v", jump, out, err)
		}
		if sent, got := h.Sent(); sent < 3000 || got < 3000 {
			t.Errorf("%s: %d and %d bytes are less than two handshakes", jump, sent, got)
		}
		h.Close()
	}
	m.config(t, "Host *\n ProxyJump one\n"+hosts)
	m.refused(t, m.options(), "target", fail.Usage, "circle", "Host * !")
	m.config(t, "Host one\n ProxyJump none\nHost *\n ProxyJump one\n"+hosts)
	m.dial(t, m.options(), "target")

	// The machine on the way is checked, too, and named.
	m.config(t, "Host target\n ProxyJump one\n"+hosts)
	m.write(t, m.home+"/.ssh/known_hosts", "[127.0.0.1]:"+target.port+" "+target.hostKey+"\n", 0o600)
	m.refused(t, m.options(), "target", fail.Preflight, "reach target through one", "not known")
	m.write(t, m.home+"/.ssh/known_hosts", known, 0o600)
	one.authorize(t, user)
	m.refused(t, m.options(), "target", fail.Preflight, "reach target through one", "none of the keys")
	one.authorize(t, user, m.home+"/jump.pub")
	target.stop()
	m.refused(t, m.options(), "target", fail.Unavailable, "connect to target", "one cannot connect to it")
}

// A machine whose sshd froze is noticed, and all that was under way with it ends.
func TestFrozenMachine(t *testing.T) {
	for _, way := range []string{"target", "jump", "on the way"} {
		t.Run(way, func(t *testing.T) {
			m, hop := sshd(t, ""), sshd(t, "")
			hop.authorize(t, "root", m.home+"/.ssh/id_ed25519.pub")
			m.write(t, m.home+"/.ssh/known_hosts", "[127.0.0.1]:"+m.port+" "+m.hostKey+"\n[127.0.0.1]:"+hop.port+" "+hop.hostKey+"\n", 0o600)
			text := "ServerAliveInterval 1\nServerAliveCountMax 2\nUser root\n"
			if way != "target" {
				text = "Host jump\n HostName 127.0.0.1\n Port " + hop.port + "\nHost target\n ProxyJump jump\nHost *\n" + text
			}
			m.config(t, "Host target\n HostName 127.0.0.1\n Port "+m.port+"\nHost *\n"+text)
			h := m.dial(t, m.options(), "target")
			c, err := h.Conn(t.Context(), remote.Command{Args: []string{"cat"}})
			if err != nil {
				t.Fatal(err)
			}
			out, err := h.Run(t.Context(), sh("echo $PPID"))
			if err != nil {
				t.Fatal(err)
			}
			serving := number(t, strings.TrimSpace(string(out)))
			if way == "on the way" {
				serving = number(t, m.read(t, fmt.Sprintf("/proc/%d/task/%[1]d/children", hop.process.Pid)))
			}
			begun := time.Now()
			syscall.Kill(serving, syscall.SIGSTOP)
			t.Cleanup(func() { syscall.Kill(serving, syscall.SIGKILL) })
			errs := make(chan error, 2)
			go func() {
				_, err := c.Read(make([]byte, 1))
				errs <- err
			}()
			go func() {
				_, err := h.Run(context.Background(), remote.Command{Args: []string{"true"}})
				errs <- err
			}()
			for range 2 {
				if err := <-errs; fail.KindOf(err) != fail.Unavailable || !strings.Contains(err.Error(), "target") {
					t.Errorf("%v", err)
				}
			}
			select {
			case <-h.Done():
			default:
				t.Error("Done is not closed")
			}
			if took := time.Since(begun); took > 20*time.Second || took < time.Second {
				t.Errorf("it took %v", took)
			}
			if _, err := h.Run(t.Context(), remote.Command{Args: []string{"true"}}); fail.KindOf(err) != fail.Unavailable {
				t.Errorf("after that: %v", err)
			}
		})
	}
}

func number(t *testing.T, s string) (n int) {
	t.Helper()
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	if n < 2 {
		t.Fatalf("%q is not the number of a process", s)
	}
	return n
}

func TestClosedByTheMachine(t *testing.T) {
	_, h := reached(t, "")
	if _, err := h.Run(t.Context(), sh("kill -KILL $PPID; sleep 60")); fail.KindOf(err) != fail.Unavailable || !strings.Contains(err.Error(), "closed by the machine") && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%v", err)
	}
	<-h.Done()
	m, h := reached(t, "")
	c, err := h.Conn(t.Context(), remote.Command{Args: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := c.Write(make([]byte, 1)); err == nil {
		t.Error("a Write after Close of the host")
	}
	m.stop()
	m.refused(t, m.options(), m.dest(), fail.Unavailable, "connect to 127.0.0.1", "ssh -v")
}
