package remote

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// What holds where neither the options nor the configuration say otherwise.
const (
	connectTimeout = 10 * time.Second
	aliveInterval  = 5 * time.Second
	aliveCount     = 3
)

// identity is the user who runs this program.
type identity struct {
	home, user, uid string
	getenv          func(string) string
}

func whoAmI(getenv func(string) string) (identity, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	who := identity{home: getenv("HOME"), getenv: getenv}
	u, err := user.Current()
	if err == nil {
		// Windows puts the domain before the name.
		who.user, who.uid = u.Username[strings.LastIndexByte(u.Username, '\\')+1:], u.Uid
		if who.home == "" {
			who.home = u.HomeDir
		}
	}
	if who.user == "" || who.home == "" {
		return who, fail.New(fail.Usage, "", "the name or the home folder of the user is not known").Hinted("set HOME")
	}
	return who, nil
}

// expand replaces ~ at the beginning and ${NAME} anywhere.
func (w identity) expand(s string) (string, error) {
	if s == "~" || strings.HasPrefix(s, "~/") {
		s = w.home + s[1:]
	} else if strings.HasPrefix(s, "~") {
		return "", fmt.Errorf("%s: the home of another user is not looked up: write the whole path", s)
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "${")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name, rest, ok := strings.Cut(after, "}")
		if !ok {
			return "", errors.New("${ is not closed")
		}
		v := w.getenv(name)
		if v == "" {
			return "", fmt.Errorf("the variable %s is not set", name)
		}
		b.WriteString(v)
		s = rest
	}
}

// settings are what is known of one host before anything is dialled.
type settings struct {
	who        identity
	written    destination // as the person wrote it
	host       string      // the name or address to dial
	port       string
	user       string
	network    string // tcp, tcp4 or tcp6
	alias      string // HostKeyAlias
	identities []string
	certs      []string
	explicit   bool // identities were named
	only       bool // IdentitiesOnly
	agent      string
	jumps      []destination
	known      []string // the files of host keys; the first one is written to
	strict     string   // ask, yes or accept-new
	hashed     bool
	algorithms []string // HostKeyAlgorithms, nil for all
	timeout    time.Duration
	interval   time.Duration
	missed     int
}

func (s *settings) address() string { return net.JoinHostPort(s.host, s.port) }

// settle reads the configuration for one destination.
func settle(o Options, d destination) (*settings, error) {
	who, err := whoAmI(o.Getenv)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(o, who, d)
	if err != nil {
		return nil, err
	}
	if err := c.refused(); err != nil {
		return nil, err
	}
	s := &settings{who: who, written: d, host: d.host, port: d.port, user: d.user}
	for _, step := range []func(*config) error{s.endpoint, s.trust, s.login, s.times} {
		if err := step(c); err != nil {
			return nil, err
		}
	}
	if o.KnownHosts != "" {
		s.known = []string{o.KnownHosts}
	}
	return s, nil
}

// refused are the keywords that would change whom we speak to or whom we trust, and are not done here.
func (c *config) refused() error {
	for _, r := range []struct{ key, name, off, hint string }{
		{"proxycommand", "ProxyCommand", "none", "use ProxyJump, or set ProxyCommand none for this host"},
		{"canonicalizehostname", "CanonicalizeHostname", "no", "write the whole name of the host"},
		{"knownhostscommand", "KnownHostsCommand", "none", "put the keys of hosts into a file of UserKnownHostsFile"},
		{"revokedhostkeys", "RevokedHostKeys", "none", "put the keys into known_hosts, with @revoked before them"},
	} {
		v := c.get(r.key)
		if w := v.word(); w == "" || strings.EqualFold(w, r.off) {
			continue
		}
		// Of the two kinds of proxy the one that stands first counts, as for ssh(1).
		if jump := c.get("proxyjump"); r.key == "proxycommand" && jump.word() != "" && before(jump.place, v.place) {
			continue
		}
		e := fail.New(fail.Usage, "", "%s is set for %s, and fairlead does not do it", r.name, c.host).Hinted("%s", r.hint)
		e.Place = v.place
		return e
	}
	return nil
}

// before compares two places of one file; those of different files are not ordered.
func before(a, b string) bool {
	i, j := strings.LastIndexByte(a, ':'), strings.LastIndexByte(b, ':')
	m, errA := strconv.Atoi(a[i+1:])
	n, errB := strconv.Atoi(b[j+1:])
	return a[:i] == b[:j] && errA == nil && errB == nil && m < n
}

// wrong is a value that makes no sense, with its place.
func (v value) wrong(format string, args ...any) error {
	e := fail.New(fail.Usage, "", format, args...)
	e.Place = v.place
	return e
}

// endpoint decides where to dial, and by which way.
func (s *settings) endpoint(c *config) error {
	if v := c.get("hostname"); v.word() != "" {
		s.host = strings.NewReplacer("%%", "%", "%h", s.written.host).Replace(v.word())
		if err := checkHost(s.host); err != nil {
			return v.wrong("HostName: %w", err)
		}
	}
	if v := c.get("port"); s.port == "" && v.word() != "" {
		if err := checkPort(v.word()); err != nil {
			return v.wrong("Port: %w", err)
		}
		s.port = v.word()
	}
	if s.port == "" {
		s.port = "22"
	}
	if v := c.get("user"); s.user == "" && v.word() != "" {
		if err := checkUser(v.word()); err != nil {
			return v.wrong("User: %w", err)
		}
		s.user = v.word()
	}
	if s.user == "" {
		s.user = s.who.user
	}
	family, err := c.choice("addressfamily", "any", "inet", "inet6")
	s.network = map[string]string{"any": "tcp", "inet": "tcp4", "inet6": "tcp6"}[family]
	if err != nil {
		return err
	}
	return s.proxy(c.get("proxyjump"))
}

func (s *settings) proxy(v value) error {
	if v.word() == "" || strings.EqualFold(v.word(), "none") {
		return nil
	}
	for _, hop := range strings.Split(v.word(), ",") {
		hop, err := s.tokens(hop)
		if err != nil {
			return v.wrong("ProxyJump: %w", err)
		}
		d, err := parseDestination(hop)
		if err != nil {
			return v.wrong("ProxyJump: %w", err)
		}
		s.jumps = append(s.jumps, d)
	}
	return nil
}

// trust decides what is asked of the host's key.
func (s *settings) trust(c *config) error {
	s.alias = strings.ToLower(c.get("hostkeyalias").word())
	var err error
	if s.strict, err = c.choice("stricthostkeychecking", "ask", "yes", "accept-new", "no", "off", "true", "false"); err != nil {
		return err
	}
	switch s.strict {
	case "no", "off", "false": // a changed key is never taken, whatever anybody wrote
		s.strict = "accept-new"
	case "true":
		s.strict = "yes"
	}
	if s.hashed, err = c.yes("hashknownhosts"); err != nil {
		return err
	}
	for _, f := range []struct {
		key  string
		none []string
	}{
		{"userknownhostsfile", []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"}},
		{"globalknownhostsfile", []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}},
	} {
		v := c.get(f.key)
		words := v.words
		if len(words) == 0 {
			words = f.none
		} else if len(words) == 1 && strings.EqualFold(words[0], "none") {
			words = nil
		}
		for _, w := range words {
			path, err := s.path(w)
			if err != nil {
				return v.wrong("%s: %w", f.key, err)
			}
			s.known = append(s.known, path)
		}
	}
	v := c.get("hostkeyalgorithms")
	if s.algorithms, err = hostKeyAlgorithms(v.word()); err != nil {
		return v.wrong("HostKeyAlgorithms: %w", err)
	}
	return nil
}

// login decides which keys are shown.
func (s *settings) login(c *config) error {
	var err error
	if s.only, err = c.yes("identitiesonly"); err != nil {
		return err
	}
	if s.identities, err = s.paths(c.values["identityfile"]); err != nil {
		return err
	}
	if s.certs, err = s.paths(c.values["certificatefile"]); err != nil {
		return err
	}
	if s.explicit = len(c.values["identityfile"]) > 0; !s.explicit {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			s.identities = append(s.identities, filepath.Join(s.who.home, ".ssh", name))
		}
	}
	v := c.get("identityagent")
	switch w := v.word(); {
	case w == "" || w == "SSH_AUTH_SOCK":
		s.agent = s.who.getenv("SSH_AUTH_SOCK")
	case strings.EqualFold(w, "none"):
	case strings.HasPrefix(w, "$") && !strings.HasPrefix(w, "${"):
		s.agent = s.who.getenv(w[1:])
	default:
		if s.agent, err = s.path(w); err != nil {
			return v.wrong("IdentityAgent: %w", err)
		}
	}
	return nil
}

func (s *settings) paths(values []value) ([]string, error) {
	var out []string
	for _, v := range values {
		if strings.EqualFold(v.word(), "none") {
			continue
		}
		path, err := s.path(v.word())
		if err != nil {
			return nil, v.wrong("%w", err)
		}
		if !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out, nil
}

// times reads how long a host may be silent. 0 turns nothing off: a host that froze must be noticed.
func (s *settings) times(c *config) error {
	s.timeout, s.interval, s.missed = connectTimeout, aliveInterval, aliveCount
	for _, t := range []struct {
		key string
		to  *time.Duration
	}{{"connecttimeout", &s.timeout}, {"serveraliveinterval", &s.interval}} {
		v := c.get(t.key)
		if v.word() == "" || strings.EqualFold(v.word(), "none") {
			continue
		}
		d, err := seconds(v.word())
		if err != nil {
			return v.wrong("%s: %w", t.key, err)
		}
		if d > 0 {
			*t.to = d
		}
	}
	if v := c.get("serveralivecountmax"); v.word() != "" {
		n, err := strconv.Atoi(v.word())
		if err != nil || n < 0 || n > 1000 {
			return v.wrong("ServerAliveCountMax: %q is not a number between 0 and 1000", v.word())
		}
		s.missed = max(n, 1)
	}
	return nil
}

// seconds reads a time as ssh(1) writes it: 90, 90s, 1m30s, 2h.
func seconds(s string) (time.Duration, error) {
	const most = 24 * time.Hour
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && time.Duration(n) <= most/time.Second {
		return time.Duration(n) * time.Second, nil
	}
	if d, err := time.ParseDuration(strings.ToLower(s)); err == nil && d >= 0 && d <= most && d%time.Second == 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%q is not a time of whole seconds up to a day, such as 10 or 1m30s", s)
}

// choice is the value of a keyword that has a few; the first one is the default.
func (c *config) choice(key string, values ...string) (string, error) {
	v := c.get(key)
	w := strings.ToLower(v.word())
	if w == "" {
		return values[0], nil
	}
	if !slices.Contains(values, w) {
		return "", v.wrong("%s: %q is none of %s", key, v.word(), strings.Join(values, ", "))
	}
	return w, nil
}

func (c *config) yes(key string) (bool, error) {
	w, err := c.choice(key, "no", "yes", "true", "false")
	return w == "yes" || w == "true", err
}

// path expands the name of a file: ~, ${NAME} and the %-tokens.
func (s *settings) path(p string) (string, error) {
	p, err := s.who.expand(p)
	if err != nil {
		return "", err
	}
	return s.tokens(p)
}

func (s *settings) tokens(p string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] != '%' {
			b.WriteByte(p[i])
			continue
		}
		if i++; i == len(p) {
			return "", fmt.Errorf("%q ends in %%", p)
		}
		switch p[i] {
		case '%':
			b.WriteByte('%')
		case 'h':
			b.WriteString(s.host)
		case 'n':
			b.WriteString(s.written.host)
		case 'p':
			b.WriteString(s.port)
		case 'r':
			b.WriteString(s.user)
		case 'u':
			b.WriteString(s.who.user)
		case 'd':
			b.WriteString(s.who.home)
		case 'i':
			b.WriteString(s.who.uid)
		case 'k':
			if s.alias != "" {
				b.WriteString(s.alias)
			} else {
				b.WriteString(s.written.host)
			}
		default:
			return "", fmt.Errorf("%%%c is not known here: %%h, %%n, %%p, %%r, %%u, %%d, %%i and %%k are", p[i])
		}
	}
	return b.String(), nil
}

// hostKeyAlgorithms reads a list of names and patterns. With + before it, it is added to ours, with - taken away, with ^
// put first. Names that x/crypto does not do are passed over; nil is "all of ours".
func hostKeyAlgorithms(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	ours := preferred(ssh.SupportedAlgorithms().HostKeys)
	op := list[0]
	if strings.IndexByte("+-^", op) >= 0 {
		list = list[1:]
	}
	var named []string
	for _, p := range strings.Split(list, ",") {
		for _, a := range ours {
			if wildcard(p, a) && !slices.Contains(named, a) {
				named = append(named, a)
			}
		}
	}
	rest := slices.DeleteFunc(slices.Clone(ours), func(a string) bool { return slices.Contains(named, a) })
	switch op {
	case '+':
		named = ours
	case '-':
		named = rest
	case '^':
		named = append(named, rest...)
	}
	if len(named) == 0 {
		return nil, fmt.Errorf("none of %s is done here", list)
	}
	return named, nil
}
