package remote

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// maxKeyFile bounds a key's file; the largest RSA keys have 13 KiB.
const maxKeyFile = 1 << 20

// login shows a host one key after the other: those of the agent, those of files, until one is taken.
type login struct {
	ctx    context.Context // of the handshake, whose callback takes none
	s      *settings
	ready  bool
	lock   *locksmith
	agent  net.Conn
	keys   []candidate
	next   int
	tried  []string // what was shown or passed over, and why
	failed []string // keys that the host would have taken
	more   bool     // a key was taken, and the host wants something else, too
}

// candidate is a key that may be shown. No private key is needed for that.
type candidate struct {
	name   string
	signer ssh.Signer
}

// gather looks for the keys. One that cannot be read is passed over and named if none is taken.
func (l *login) gather() {
	files := l.files()
	held := l.held(l.ctx)
	// Keys that both hold come first, since sshd listens to six keys and an agent may hold more.
	slices.SortStableFunc(held, func(a, b candidate) int { return position(files, a) - position(files, b) })
	for _, k := range held {
		if at := position(files, k); at == len(files) && l.s.only {
			continue
		}
		l.keys = append(l.keys, l.certified(k)...)
	}
	for _, f := range files {
		if f.signer == nil || position(held, f) < len(held) {
			continue
		}
		l.keys = append(l.keys, l.certified(f.candidate)...)
	}
}

// position is where in list the key of k stands, or the length of list.
func position[T interface{ public() ssh.PublicKey }](list []T, k interface{ public() ssh.PublicKey }) int {
	for i, f := range list {
		if p := f.public(); p != nil && same(p, k.public()) {
			return i
		}
	}
	return len(list)
}

func (c candidate) public() ssh.PublicKey {
	if c.signer == nil {
		return nil
	}
	return c.signer.PublicKey()
}

// keyFile is what lies under one IdentityFile: a private key, or only the public half of one that an agent holds.
type keyFile struct {
	candidate
	pub ssh.PublicKey
}

func (f keyFile) public() ssh.PublicKey { return f.pub }

// files reads the keys of IdentityFile, or the usual ones where none is named.
func (l *login) files() []keyFile {
	var out []keyFile
	for _, path := range l.s.identities {
		signer, pub, err := l.lock.load(path)
		if errors.Is(err, os.ErrNotExist) && !l.s.explicit {
			continue
		}
		if err != nil {
			l.tried = append(l.tried, fmt.Sprintf("%s: not used: %v", path, err))
		}
		if pub != nil {
			out = append(out, keyFile{candidate{path, signer}, pub})
		}
	}
	return out
}

// held asks the agent for its keys.
func (l *login) held(ctx context.Context) []candidate {
	if l.s.agent == "" {
		return nil
	}
	fail := func(err error) []candidate {
		l.tried = append(l.tried, fmt.Sprintf("the agent at %s: %v", l.s.agent, err))
		return nil
	}
	var err error
	if l.agent, err = new(net.Dialer).DialContext(ctx, "unix", l.s.agent); err != nil {
		return fail(err)
	}
	// An agent that does not answer is let go of when time is up: its calls take no context.
	context.AfterFunc(ctx, func() { l.agent.Close() })
	client := agent.NewClient(l.agent)
	signers, err := client.Signers()
	if err != nil {
		return fail(err)
	}
	var out []candidate
	for _, s := range signers {
		name := "a key of the agent"
		if k, ok := s.PublicKey().(*agent.Key); ok && k.Comment != "" {
			name = printable(k.Comment) + " of the agent"
		}
		out = append(out, candidate{name, plainKeys{s}})
	}
	return out
}

// plainKeys gives an agent's keys the types of ssh.ParsePublicKey: the agent's own type hides what is a certificate.
type plainKeys struct{ ssh.Signer }

func (p plainKeys) PublicKey() ssh.PublicKey {
	key, err := ssh.ParsePublicKey(p.Signer.PublicKey().Marshal())
	if err != nil {
		return p.Signer.PublicKey()
	}
	return key
}

// SignWithAlgorithm keeps what agents can do: RSA keys sign with SHA-2.
func (p plainKeys) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if s, ok := p.Signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return p.Signer.Sign(rand, data)
}

// certified puts the certificates for a key before it: from CertificateFile, and KEY-cert.pub beside a file.
func (l *login) certified(k candidate) []candidate {
	var out []candidate
	paths := slices.Clone(l.s.certs)
	for _, path := range l.s.identities {
		paths = append(paths, strings.TrimSuffix(path, ".pub")+"-cert.pub")
	}
	for _, path := range paths {
		cert, err := readCertificate(path)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) || slices.Contains(l.s.certs, path) {
				l.note("%s: not used: %v", path, err)
			}
			continue
		}
		if !same(cert.Key, k.signer.PublicKey()) {
			continue
		}
		signer, err := ssh.NewCertSigner(cert, k.signer)
		if err != nil {
			l.note("%s: not used: %v", path, err)
			continue
		}
		out = append(out, candidate{path, signer})
	}
	return append(out, k)
}

func (l *login) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(l.tried, s) {
		l.tried = append(l.tried, s)
	}
}

func readCertificate(path string) (*ssh.Certificate, error) {
	b, err := readBounded(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, errors.New("it is not a public key")
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("it is not a certificate")
	}
	return cert, nil
}

// method is the callback of the handshake: the next key, as a method of its own, so that one whose agent or passphrase
// fails does not keep the others from being shown.
func (l *login) method(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	if !l.ready { // not before the host is trusted
		l.ready = true
		l.gather()
	}
	l.more = l.more || len(c.PartialSuccessMethods) > 0
	if l.next == len(l.keys) || !slices.Contains(c.AllowedMethods, "publickey") {
		return nil, nil
	}
	k := l.keys[l.next]
	l.next++
	l.tried = append(l.tried, fmt.Sprintf("%s: %s %s", k.name, kind(k.signer.PublicKey()), ssh.FingerprintSHA256(k.signer.PublicKey())))
	at := len(l.tried) - 1
	return ssh.PublicKeys(reporting{k.signer, func(err error) {
		l.tried[at] += ": " + err.Error()
		l.failed = append(l.failed, k.name)
	}}), nil
}

// reporting tells why a key that the host would take did not sign.
type reporting struct {
	ssh.Signer
	report func(error)
}

// SignWithAlgorithm signs, with the hash that was agreed on.
func (r reporting) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	if s, ok := r.Signer.(ssh.AlgorithmSigner); ok {
		sig, err = s.SignWithAlgorithm(rand, data, algorithm)
	} else {
		sig, err = r.Signer.Sign(rand, data)
	}
	if err != nil {
		r.report(err)
	}
	return sig, err
}

func (l *login) close() {
	if l.agent != nil {
		l.agent.Close()
	}
}

// denied is what to say where no key was taken.
func (l *login) denied(cause error) error {
	e := fail.New(fail.Preflight, "log in to "+l.s.written.host+" ("+l.s.address()+") as "+l.s.user, "")
	to := destination{user: l.s.user, host: l.s.host, port: l.s.port}.words()
	to = strings.TrimPrefix(to, "-p 22 ")
	e.Hint = "put a key of yours onto the machine: ssh-copy-id " + to
	switch {
	case l.more:
		e.Err = errors.New("the machine wants more than a key, such as a password or a code, and fairlead has only keys")
		e.Hint = "let this user log in with a key alone: AuthenticationMethods in the machine's sshd_config"
	case len(l.failed) > 0:
		e.Err = fmt.Errorf("%s could not be used", strings.Join(l.failed, ", "))
		e.Hint = "put the key into an agent, which asks for its passphrase: ssh-add"
	case l.next == 0:
		e.Err = errors.New("there is no key to show: neither an agent nor a file has one")
		e.Hint = "make one and put it onto the machine: ssh-keygen -t ed25519 && ssh-copy-id " + to
	case strings.Contains(cause.Error(), "Too many authentication failures"):
		e.Err = errors.New("the machine hung up after too many keys")
		e.Hint = "name the right one in the configuration of ssh: IdentityFile and IdentitiesOnly yes"
	default:
		e.Err = errors.New("the machine took none of the keys")
	}
	return e.WithLines(l.tried)
}

// locksmith opens private keys. Each file's passphrase is asked for once by a process, whatever comes of it.
type locksmith struct {
	passphrase func(prompt string) ([]byte, error)
	asking     asking
}

// opened are the keys whose passphrase was asked for.
var opened = struct {
	sync.Mutex
	files map[string]*opening
}{files: map[string]*opening{}}

type opening struct {
	done   bool
	signer ssh.Signer
	err    error
}

// load reads the key at path without its passphrase. The signer is nil where only the public half is there.
func (k *locksmith) load(path string) (ssh.Signer, ssh.PublicKey, error) {
	pub := readPublic(path)
	b, err := readBounded(path, maxKeyFile)
	if errors.Is(err, os.ErrNotExist) && pub != nil {
		return nil, pub, nil // an agent has the other half
	}
	if err != nil {
		return nil, pub, err
	}
	if p, _, _, _, err := ssh.ParseAuthorizedKey(b); err == nil {
		return nil, p, nil
	}
	if fi, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return nil, pub, fmt.Errorf("others can read it: chmod 600 %s", path)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if missing, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		if missing.PublicKey != nil {
			pub = missing.PublicKey
		}
		if pub == nil {
			return nil, nil, fmt.Errorf("it is encrypted, and %s.pub is not there to tell the machine which key it is", path)
		}
		return &locked{path: path, pub: pub, smith: k, data: b}, pub, nil
	}
	if err != nil {
		return nil, pub, errors.New("it is not a private key that can be read")
	}
	return signer, signer.PublicKey(), nil
}

func readPublic(path string) ssh.PublicKey {
	b, err := readBounded(path+".pub", maxKeyFile)
	if err != nil {
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil
	}
	return pub
}

// locked is a key that is opened when it has to sign: only then would the host take it.
type locked struct {
	path  string
	pub   ssh.PublicKey
	smith *locksmith
	data  []byte
}

// PublicKey is known without the passphrase.
func (l *locked) PublicKey() ssh.PublicKey { return l.pub }

// Sign opens the key and signs.
func (l *locked) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	signer, err := l.smith.open(l)
	if err != nil {
		return nil, err
	}
	return signer.Sign(rand, data)
}

// SignWithAlgorithm opens the key and signs.
func (l *locked) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := l.smith.open(l)
	if err != nil {
		return nil, err
	}
	if s, ok := signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return signer.Sign(rand, data)
}

func (k *locksmith) open(l *locked) (ssh.Signer, error) {
	if k.passphrase == nil {
		return nil, errors.New("it is encrypted, and nobody is there to type its passphrase")
	}
	opened.Lock()
	o := opened.files[l.path]
	if o == nil {
		o = new(opening)
		opened.files[l.path] = o
	}
	opened.Unlock()
	err := k.asking(func(context.Context) error {
		if !o.done { // questions come one at a time: nobody else is here
			o.signer, o.err = k.decrypt(l)
			o.done = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o.signer, o.err
}

func (k *locksmith) decrypt(l *locked) (ssh.Signer, error) {
	phrase, err := k.passphrase("passphrase of " + l.path)
	if err != nil {
		return nil, fmt.Errorf("its passphrase was not given: %w", err)
	}
	defer clear(phrase)
	signer, err := ssh.ParsePrivateKeyWithPassphrase(l.data, phrase)
	switch {
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, errors.New("the passphrase is not right")
	case err != nil:
		return nil, errors.New("it cannot be opened")
	case !same(signer.PublicKey(), l.pub):
		return nil, errors.New("its public half beside it is of another key")
	}
	return signer, nil
}
