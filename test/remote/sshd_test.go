//go:build unix

// Package remote_test works internal/remote against Debian's sshd, ssh-agent, ssh-keygen, sudo and login shells.
package remote_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/remote"
	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// machine is an sshd of a test's own, on a loopback port, and a home folder to reach it from.
type machine struct {
	dir, home string
	port      string
	hostKey   string // the public key's line
	process   *os.Process
	stop      func()
	bin       string
	log       *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// sshd starts one. extra are lines for its configuration; keys the kinds of its host keys, ed25519 where there are none.
func sshd(t *testing.T, extra string, keys ...string) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		rig.Missing(t, "sshd runs as root")
	}
	bin := sbin(t, "sshd", "openssh-server")
	// It is the folder that sshd puts its unprivileged part into, which a package's service makes.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{dir: temp(t), home: t.TempDir(), log: new(lockedBuffer)}
	if len(keys) == 0 {
		keys = []string{"ed25519"}
	}
	var conf strings.Builder
	// In sshd the first value of a keyword counts.
	fmt.Fprintf(&conf, "%s\n", extra)
	for i, kind := range keys {
		m.keygen(t, kind, m.dir+"/host_"+kind)
		fmt.Fprintf(&conf, "HostKey %s/host_%s\n", m.dir, kind)
		if i == 0 {
			m.hostKey = m.read(t, m.dir+"/host_"+kind+".pub")
		}
	}
	port := freePort(t)
	m.port = port
	fmt.Fprintf(&conf, "ListenAddress 127.0.0.1:%s\nAuthorizedKeysFile %s/authorized_%%u\nStrictModes no\nPidFile none\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nMaxStartups 100\n", port, m.dir)
	m.write(t, m.dir+"/sshd_config", conf.String(), 0o600)
	m.bin = bin
	m.start(t)
	if err := os.Mkdir(m.home+"/.ssh", 0o700); err != nil {
		t.Fatal(err)
	}
	m.keygen(t, "ed25519", m.home+"/.ssh/id_ed25519")
	m.authorize(t, "root", m.home+"/.ssh/id_ed25519.pub")
	return m
}

// restart starts sshd anew, with what its configuration says now.
func (m *machine) restart(t *testing.T) {
	t.Helper()
	m.stop()
	m.start(t)
}

func (m *machine) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(m.bin, "-D", "-e", "-f", m.dir+"/sshd_config")
	cmd.Stderr = m.log
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = cmd.Process
	m.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			s := m.log.String()
			t.Logf("sshd:\n%s", s[max(0, len(s)-4<<10):])
		}
	})
	rig.Eventually(t, 20*time.Second, "sshd listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+m.port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// sbin finds a program of the administrator's, whose folder is not in every PATH.
func sbin(t *testing.T, name, pkg string) string {
	t.Helper()
	path := "/usr/sbin/" + name
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := rig.Install(t, pkg); err != nil {
		rig.Missing(t, "no %s: %v", name, err)
	}
	return path
}

// temp is a folder that other users can get through: what is in it they may read.
func temp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl-ssh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (m *machine) keygen(t *testing.T, kind, path string, more ...string) {
	t.Helper()
	run(t, append([]string{"ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "key of a test", "-f", path}, more...)...)
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (m *machine) read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (m *machine) write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// authorize lets a key in; none takes all away.
func (m *machine) authorize(t *testing.T, user string, pubs ...string) {
	t.Helper()
	text := ""
	for _, p := range pubs {
		text += m.read(t, p) + "\n"
	}
	m.write(t, m.dir+"/authorized_"+user, text, 0o644)
}

// trust writes the host's key down.
func (m *machine) trust(t *testing.T) {
	t.Helper()
	m.write(t, m.home+"/.ssh/known_hosts", "[127.0.0.1]:"+m.port+" "+m.hostKey+"\n", 0o600)
}

func (m *machine) config(t *testing.T, text string) {
	t.Helper()
	m.write(t, m.home+"/.ssh/config", text, 0o600)
}

// options are those of a person whose home is the test's.
func (m *machine) options() remote.Options {
	return remote.Options{Getenv: m.getenv()}
}

func (m *machine) getenv(more ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(more); i += 2 {
			if more[i] == name {
				return more[i+1]
			}
		}
		if name == "HOME" {
			return m.home
		}
		return ""
	}
}

func (m *machine) dest() string { return "root@127.0.0.1:" + m.port }

func (m *machine) dial(t *testing.T, o remote.Options, dest string) *remote.Host {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h, err := remote.Dial(ctx, o, dest)
	if err != nil {
		t.Fatalf("%v\n%+v", err, err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// reached is a machine with its key known, and a connection to it.
func reached(t *testing.T, extra string) (*machine, *remote.Host) {
	t.Helper()
	m := sshd(t, extra)
	m.trust(t)
	return m, m.dial(t, m.options(), m.dest())
}

// account makes a user for the time of the test.
func account(t *testing.T, shell string) string {
	t.Helper()
	name := fmt.Sprintf("fl%d%d", os.Getpid()%10000, time.Now().UnixNano()%10000)
	run(t, "useradd", "-m", "-s", shell, "-p", "*", name)
	t.Cleanup(func() {
		// By force: the last of its processes may not be gone yet.
		if out, err := exec.Command("userdel", "-f", "-r", name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v\n%s", err, out)
		}
	})
	return name
}

// newKey is a private key's file and its public half.
func newKey(t *testing.T, path string, phrase string) ssh.PublicKey {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "a test's", []byte(phrase))
	if phrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "a test's")
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}
