package remote

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// destination is what a person writes to name a machine, taken apart. Empty parts are the configuration's to fill in.
type destination struct {
	user string
	host string // without brackets
	port string
}

// parseDestination reads [USER@]HOST[:PORT], where an IPv6 address with a port stands in brackets, or ssh://[USER@]HOST[:PORT].
func parseDestination(s string) (destination, error) {
	rest, isURL := strings.CutPrefix(s, "ssh://")
	if isURL {
		rest = strings.TrimSuffix(rest, "/")
	}
	var d destination
	// The last @ counts, as for ssh(1): names of users may have one.
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		d.user, rest = rest[:i], rest[i+1:]
		if isURL {
			user, err := url.PathUnescape(d.user)
			if err != nil {
				return destination{}, fmt.Errorf("%q: the name of its user is not well encoded", s)
			}
			d.user = user
		}
		if err := checkUser(d.user); err != nil {
			return destination{}, fmt.Errorf("%q: %w", s, err)
		}
	}
	var err error
	if d.host, d.port, err = splitPort(rest); err == nil {
		err = checkHost(d.host)
	}
	if err != nil {
		return destination{}, fmt.Errorf("%q: %w", s, err)
	}
	return d, nil
}

// splitPort takes an address apart. A bare IPv6 address has colons and no port.
func splitPort(s string) (host, port string, err error) {
	switch {
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"):
		host = s[1 : len(s)-1]
		if !strings.Contains(host, ":") {
			return "", "", errors.New("brackets are for IPv6 addresses")
		}
		return host, "", nil
	case !strings.HasPrefix(s, "[") && strings.Count(s, ":") != 1:
		return s, "", nil
	}
	if host, port, err = net.SplitHostPort(s); err != nil {
		return "", "", errors.New("it is neither HOST, HOST:PORT nor [IPV6]:PORT")
	}
	if strings.HasPrefix(s, "[") && !strings.Contains(host, ":") {
		return "", "", errors.New("brackets are for IPv6 addresses")
	}
	return host, port, checkPort(port)
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return fmt.Errorf("the port %q is not a number between 1 and 65535", port)
	}
	return nil
}

// checkHost refuses what no name or address has. Names go into known_hosts and into sentences that a person copies to a
// shell, so what would be more than a name in either is refused too.
func checkHost(host string) error {
	switch {
	case host == "":
		return errors.New("it names no host")
	case len(host) > 255:
		return errors.New("the name of the host is longer than 255 characters")
	case host[0] == '-':
		return errors.New("the name of a host does not begin with -")
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return errors.New("a name with colons is no IPv6 address")
		}
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c == 0x7f || strings.IndexByte("'\"`$\\;&<>|(){}[]*?!,#@/^=~", c) >= 0 {
			return fmt.Errorf("the name of a host has no %q", c)
		}
	}
	return nil
}

func checkUser(user string) error {
	if user == "" || user[0] == '-' || len(user) > 255 || strings.HasSuffix(user, `\`) {
		return errors.New("the name of its user is empty, too long, begins with - or ends in a backslash")
	}
	for _, c := range []byte(user) { // a backslash stands between a domain and a name
		if c < ' ' || c == 0x7f || strings.IndexByte("'\"`$;&<>|(){}", c) >= 0 {
			return fmt.Errorf("the name of a user has no %q", c)
		}
	}
	return nil
}

// words are the destination as ssh(1) and its kin take it on a command line.
func (d destination) words() string {
	s := d.host
	if d.user != "" {
		s = d.user + "@" + s
	}
	if d.port != "" {
		s = "-p " + d.port + " " + s
	}
	return s
}

// String is the shortest form that is read back as d.
func (d destination) String() string {
	s := d.host
	if d.port != "" {
		s = net.JoinHostPort(d.host, d.port)
	}
	if d.user != "" {
		s = d.user + "@" + s
	}
	return s
}
