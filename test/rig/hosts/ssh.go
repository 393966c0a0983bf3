//go:build linux

package hosts

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// The users of every host that the fleet's key opens.
const (
	root   = "root"
	Deploy = "deploy" // may do everything through sudo, without a password
)

const (
	runWithin     = time.Minute
	connectWithin = 5 * time.Second
)

// keys are a fleet's own: that of its users and those of its hosts.
type keys struct {
	client ssh.Signer
	hosts  map[string]pair
}

type pair struct {
	private []byte // PEM
	public  ssh.PublicKey
}

func newPair(comment string) (pair, ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return pair{}, nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return pair{}, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return pair{}, nil, err
	}
	return pair{pem.EncodeToMemory(block), signer.PublicKey()}, signer, nil
}

// SSHConfig is the path of a configuration for ssh -F, and for what reads one: the hosts by name, the fleet's key, and
// strict checking against [Fleet.KnownHosts]. It names no user.
func (f *Fleet) SSHConfig() string { return filepath.Join(f.record.dir, "ssh_config") }

// KnownHosts is the path of a file with every host's key, by name and by address.
func (f *Fleet) KnownHosts() string { return filepath.Join(f.record.dir, "known_hosts") }

// Identity is the path of the private key that opens [Deploy] and root on every host.
func (f *Fleet) Identity() string { return filepath.Join(f.record.dir, "id_ed25519") }

func (f *Fleet) makeKeys() error {
	own, signer, err := newPair("client")
	if err != nil {
		return err
	}
	f.keys = keys{client: signer, hosts: map[string]pair{}}
	var known, config strings.Builder
	for _, h := range f.hosts {
		p, _, err := newPair(h.Name)
		if err != nil {
			return err
		}
		f.keys.hosts[h.Name] = p
		fmt.Fprintf(&known, "%s,%s %s", h.Name, h.Address, ssh.MarshalAuthorizedKey(p.public))
		fmt.Fprintf(&config, "Host %s\n\tHostName %s\n", h.Name, h.Address)
	}
	fmt.Fprintf(&config, "Host *\n\tIdentityFile %q\n\tIdentitiesOnly yes\n\tUserKnownHostsFile %q\n\tGlobalKnownHostsFile none\n"+
		"\tStrictHostKeyChecking yes\n\tBatchMode yes\n\tConnectTimeout 5\n", f.Identity(), f.KnownHosts())
	return errors.Join(
		os.WriteFile(f.Identity(), own.private, 0o600),
		os.WriteFile(f.Identity()+".pub", ssh.MarshalAuthorizedKey(own.public), 0o644),
		os.WriteFile(f.KnownHosts(), []byte(known.String()), 0o644),
		os.WriteFile(f.SSHConfig(), []byte(config.String()), 0o644),
	)
}

// sshFiles are what the host's SSH server needs. Keys of users lie where only root writes, so that no owner need be set.
func (h *Host) sshFiles() ([]file, error) {
	own, ok := h.fleet.keys.hosts[h.Name]
	if !ok {
		return nil, fmt.Errorf("%s has no key", h.Name)
	}
	authorized := string(ssh.MarshalAuthorizedKey(h.fleet.keys.client.PublicKey()))
	return []file{
		{"etc/ssh/ssh_host_ed25519_key", string(own.private), 0o600},
		{"etc/ssh/ssh_host_ed25519_key.pub", string(ssh.MarshalAuthorizedKey(own.public)), 0o644},
		{"etc/ssh/fleet_keys", authorized, 0o644},
		{"etc/ssh/sshd_config.d/50-fleet.conf", "HostKey /etc/ssh/ssh_host_ed25519_key\n" +
			"AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/fleet_keys\nPasswordAuthentication no\n" +
			// OpenSSH refuses for a while who broke off too many logins, as a client does on a network with faults. A test of
			// that has it by SSHD("PerSourcePenalties yes").
			"PerSourcePenalties no\n", 0o644},
	}, nil
}

// SSHD adds lines to the configuration of the host's SSH server and puts them into force, as for a server that forbids
// something. They go before everything else, so they win; a second call replaces them, and none takes them back.
func (h *Host) SSHD(lines ...string) error {
	text := strings.Join(append(lines, ""), "\n")
	if err := h.Put("/etc/ssh/sshd_config.d/10-test.conf", []byte(text), 0o644); err != nil {
		return err
	}
	// A reload returns while the server is away for a moment to start itself again; a restart returns when it listens.
	_, err := h.Run("sshd -t && systemctl restart ssh")
	h.disconnect() // the rules hold for new connections
	return err
}

// Run runs a shell command on the host as root and returns its standard output. An exit status other than 0 is an error,
// in which the standard error is; [ssh.ExitError] is in its chain.
func (h *Host) Run(command string) (stdout string, err error) { return h.RunAs(root, command) }

// RunAs is [Host.Run] as another user.
func (h *Host) RunAs(user, command string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), runWithin)
	defer cancel()
	return h.run(ctx, user, command, nil)
}

// Put writes a file on the host, as root and all at once.
func (h *Host) Put(path string, content []byte, mode os.FileMode) error {
	ctx, cancel := context.WithTimeout(context.Background(), runWithin)
	defer cancel()
	to := quote(path)
	temp := quote(path + ".put")
	script := fmt.Sprintf("set -e; mkdir -p \"$(dirname %s)\"; cat >%s; chmod %o %s; mv %s %s", to, temp, mode.Perm(), temp, temp, to)
	_, err := h.run(ctx, root, script, bytes.NewReader(content))
	return err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// run runs a command over the user's connection, which is kept: a login costs a host more than most commands do, since
// systemd starts a manager for the user. A connection that a command did not end on in time is given up.
func (h *Host) run(ctx context.Context, user, command string, stdin io.Reader) (string, error) {
	session, err := h.session(ctx, user)
	if err != nil {
		return "", fmt.Errorf("ssh %s@%s: %w", user, h.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { h.disconnect(user) })
	defer stop()
	defer session.Close()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	if err := session.Run(command); err != nil {
		return stdout.String(), fmt.Errorf("%s@%s: %s: %w\n%s", user, h.Name, command, errors.Join(err, ctx.Err()), stderr.String())
	}
	return stdout.String(), nil
}

// session opens a session over the connection there is, or over a new one.
func (h *Host) session(ctx context.Context, user string) (*ssh.Session, error) {
	h.mu.Lock()
	client := h.logins[user]
	h.mu.Unlock()
	if client != nil {
		stop := context.AfterFunc(ctx, func() { client.Close() })
		session, err := client.NewSession()
		if stop() && err == nil {
			return session, nil
		}
		h.disconnect(user)
	}
	client, err := h.connect(ctx, user)
	if err != nil {
		return nil, err
	}
	session, err := client.NewSession()
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.logins[user] != nil { // another was as fast
		h.logins[user].Close()
	}
	h.logins[user] = client
	return session, nil
}

// disconnect ends the connections of these users, or of all; what runs over them fails.
func (h *Host) disconnect(users ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for user, client := range h.logins {
		if len(users) == 0 || slices.Contains(users, user) {
			client.Close()
			delete(h.logins, user)
		}
	}
}

func (h *Host) connect(ctx context.Context, user string) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	conn, err := h.fleet.Dial(ctx, "tcp", net.JoinHostPort(h.Address, "22"))
	if err != nil {
		return nil, err
	}
	// A frozen host takes the connection and then says nothing.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, h.Name, &ssh.ClientConfig{
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(h.fleet.keys.client)},
		HostKeyCallback: ssh.FixedHostKey(h.fleet.keys.hosts[h.Name].public),
	})
	if err != nil {
		return nil, errors.Join(err, ctx.Err(), conn.Close())
	}
	return ssh.NewClient(c, channels, requests), nil
}
