package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// trust decides whether a host is the one it is said to be.
type trust struct {
	o       Options
	s       *settings
	asking  asking        // a person, while no time counts
	entries []entry       // the lines for this host
	loose   []entry       // those for its name without the port: ssh(1) takes a key that is known so, but calls none changed
	pinned  ssh.PublicKey // taken for an earlier connection of the same Host
	taken   ssh.PublicKey
}

func newTrust(o Options, s *settings) (*trust, error) {
	t := &trust{o: o, s: s}
	var err error
	if t.entries, err = readKnown(s.known, s.knownName()); err == nil && s.alias == "" && s.port != "22" {
		t.loose, err = readKnown(s.known, strings.ToLower(s.host))
	}
	return t, err
}

// algorithms are the kinds of key that the host may show. Where keys of it are known only their kinds are, so that a host
// whose ed25519 key we have is not asked for its RSA one, which we have never seen.
func (t *trust) algorithms() []string {
	ours := t.s.algorithms
	if ours == nil {
		ours = preferred(ssh.SupportedAlgorithms().HostKeys)
	}
	known := slices.ContainsFunc(t.entries, func(e entry) bool { return e.marker == "" })
	authorities := slices.ContainsFunc(t.all(), func(e entry) bool { return e.marker == "cert-authority" })
	var certs, keys []string
	for _, a := range ours {
		switch {
		case strings.Contains(a, "-cert-"):
			if authorities {
				certs = append(certs, a)
			}
		case !known || knows(t.entries, a):
			keys = append(keys, a)
		}
	}
	if !known {
		slices.SortStableFunc(keys, func(a, b string) int { return first(knows(t.loose, a)) - first(knows(t.loose, b)) })
	}
	return append(certs, keys...)
}

func first(yes bool) int {
	if yes {
		return 0
	}
	return 1
}

func (t *trust) all() []entry { return slices.Concat(t.entries, t.loose) }

func knows(entries []entry, algorithm string) bool {
	return slices.ContainsFunc(entries, func(e entry) bool {
		return e.marker == "" && (e.key.Type() == algorithm || e.key.Type() == ssh.KeyAlgoRSA && strings.HasPrefix(algorithm, "rsa-sha2-"))
	})
}

// preferred puts the algorithms that new hosts are asked for into the order of ssh(1): Ed25519, ECDSA, RSA.
func preferred(all []string) []string {
	rank := func(a string) int {
		for i, part := range []string{"ed25519", "ecdsa", "rsa"} {
			if strings.Contains(a, part) {
				return i
			}
		}
		return 9
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return all
}

// check is the callback of the handshake.
func (t *trust) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	if t.taken != nil && same(t.taken, key) {
		return nil // keys are exchanged again from time to time
	}
	if err := t.revoked(key); err != nil {
		return err
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		return t.certificate(cert)
	}
	if t.pinned != nil && same(t.pinned, key) {
		t.taken = key
		return nil
	}
	var old []entry
	for _, e := range t.entries {
		if e.marker == "" && same(e.key, key) {
			t.taken = key
			return nil
		}
		if e.marker == "" {
			old = append(old, e)
		}
	}
	if t.pinned != nil {
		return t.s.refuse("it shows another %s key than before, %s", kind(key), ssh.FingerprintSHA256(key))
	}
	if len(old) > 0 {
		return t.changed(key, old)
	}
	if slices.ContainsFunc(t.loose, func(e entry) bool { return e.marker == "" && same(e.key, key) }) {
		t.taken = key
		return nil
	}
	return t.fresh(key)
}

func same(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }

// kind is the short name of a kind of key.
func kind(key ssh.PublicKey) string {
	return strings.ToUpper(strings.TrimPrefix(strings.SplitN(strings.TrimSuffix(key.Type(), "-cert-v01@openssh.com"), "@", 2)[0], "ssh-"))
}

func (t *trust) revoked(key ssh.PublicKey) error {
	shown := []ssh.PublicKey{key}
	if cert, ok := key.(*ssh.Certificate); ok {
		shown = append(shown, cert.Key, cert.SignatureKey)
	}
	for _, e := range t.all() {
		for _, k := range shown {
			if e.marker == "revoked" && same(e.key, k) {
				err := t.s.refuse("its key %s is revoked", ssh.FingerprintSHA256(k))
				err.Place = e.place
				return err
			}
		}
	}
	return nil
}

// certificate checks one against the authorities that are known for this host.
func (t *trust) certificate(cert *ssh.Certificate) error {
	checker := ssh.CertChecker{IsHostAuthority: func(authority ssh.PublicKey, _ string) bool {
		return slices.ContainsFunc(t.all(), func(e entry) bool { return e.marker == "cert-authority" && same(e.key, authority) })
	}}
	name := t.s.alias
	if name == "" {
		name = strings.ToLower(t.s.host)
	}
	if len(cert.ValidPrincipals) == 0 {
		return t.s.refuse("its certificate names no host")
	}
	if err := checker.CheckHostKey(net.JoinHostPort(name, t.s.port), nil, cert); err != nil {
		return t.s.refuse("its certificate is not good: %s", strings.TrimPrefix(err.Error(), "ssh: "))
	}
	t.taken = cert
	return nil
}

func (t *trust) changed(key ssh.PublicKey, old []entry) error {
	e := old[0]
	for _, o := range old {
		if o.key.Type() == key.Type() {
			e = o
			break
		}
	}
	err := t.s.refuse("its key CHANGED: it shows the %s key %s, and the one known for it is the %s key %s. Somebody may be listening in, or the machine was set up anew",
		kind(key), ssh.FingerprintSHA256(key), kind(e.key), ssh.FingerprintSHA256(e.key))
	err.Place = e.place
	err.Hint = fmt.Sprintf("ask who runs the machine; where the new key is right: ssh-keygen -R '%s' -f %s", t.s.knownName(), e.place[:strings.LastIndexByte(e.place, ':')])
	return err
}

// fresh is for a host of which nothing is known.
func (t *trust) fresh(key ssh.PublicKey) error {
	switch {
	case t.o.AcceptNew || t.s.strict == "accept-new":
		err := t.write(key)
		if err == nil {
			t.taken = key
		}
		return err
	case t.s.strict == "yes" || t.o.Ask == nil:
		return t.s.refuse("its %s key %s is not known", kind(key), ssh.FingerprintSHA256(key)).Hinted("%s", t.hint())
	}
	err := t.asking(func(ctx context.Context) error {
		if t.knownBy(key) {
			return nil
		}
		yes, err := t.o.Ask(fmt.Sprintf("The machine %s (%s) is not known yet. It shows the %s key %s. Is that its key, and shall it be written to %s?",
			t.s.written.host, t.s.address(), kind(key), ssh.FingerprintSHA256(key), t.file()))
		if err != nil {
			return t.s.refuse("whether its %s key %s is right could not be asked: %w", kind(key), ssh.FingerprintSHA256(key), err)
		}
		if !yes {
			return t.s.refuse("its %s key %s was not accepted", kind(key), ssh.FingerprintSHA256(key)).Hinted("%s", t.hint())
		}
		if ctx.Err() != nil {
			return context.Cause(ctx) // too late: nobody waits for the answer
		}
		return t.write(key)
	})
	if err == nil {
		t.taken = key
	}
	return err
}

// writing keeps those who dial the same new host at once from each writing its key.
var writing sync.Mutex

func (t *trust) write(key ssh.PublicKey) error {
	writing.Lock()
	defer writing.Unlock()
	if t.knownBy(key) {
		return nil
	}
	if err := t.s.writeKnown(key); err != nil {
		return t.s.refuse("its key cannot be written down: %w", err)
	}
	return nil
}

// knownBy looks again whether a key is known: ten machines behind one new host ask about it once.
func (t *trust) knownBy(key ssh.PublicKey) bool {
	entries, err := readKnown(t.s.known, t.s.knownName())
	return err == nil && slices.ContainsFunc(entries, func(e entry) bool { return e.marker == "" && same(e.key, key) })
}

func (t *trust) file() string {
	if len(t.s.known) == 0 {
		return "no file"
	}
	return t.s.known[0]
}

func (t *trust) hint() string {
	port := ""
	if t.s.port != "22" {
		port = "-p " + t.s.port + " "
	}
	return fmt.Sprintf("compare the key with the machine's own, then repeat with --accept-new, or: ssh-keyscan %s%s >> %s", port, t.s.host, t.file())
}

// refuse is a host whose key is not taken.
func (s *settings) refuse(format string, args ...any) *fail.Error {
	return fail.New(fail.Preflight, "trust "+s.written.host+" ("+s.address()+")", format, args...)
}

// other turns the error of a handshake in which host and we had no algorithm in common into what it means.
func (t *trust) other(err error) error {
	neg, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	if !ok || neg.What != "host key" {
		return nil
	}
	var lines []string
	for _, e := range t.entries {
		if e.marker == "" {
			lines = append(lines, fmt.Sprintf("%s: %s %s", e.place, kind(e.key), ssh.FingerprintSHA256(e.key)))
		}
	}
	if lines == nil {
		return t.s.refuse("it has none of the kinds of key that are asked for: it has %s", printable(strings.Join(neg.RequestedAlgorithms, ", ")))
	}
	return t.s.refuse("it no longer has the kind of key that is known for it: it has %s", printable(strings.Join(neg.RequestedAlgorithms, ", "))).
		WithLines(lines).Hinted("ask who runs the machine; where its keys are new: ssh-keygen -R '%s' -f %s", t.s.knownName(), t.file())
}

// asking runs a question to a person. What f does after ctx is done must change nothing.
type asking func(f func(ctx context.Context) error) error

// question lets one person be asked one thing at a time, however many machines are dialled at once.
var question = make(chan struct{}, 1)

// ask runs f until ctx is done. Nobody can take a question back: f may end later, unheard.
func ask(ctx context.Context, f func(ctx context.Context) error) error {
	select {
	case question <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-question }()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
