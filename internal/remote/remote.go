// Package remote runs commands on other machines over SSH, and makes connections of their input and output. Nothing but
// sshd and a POSIX shell is needed there. It finds machines as ssh(1) does, by the same configuration, keys and agent,
// and trusts only those whose key is known.
//
// It reads ssh_config itself. The library for that was tried and misreads what is common: it splits Host lines at spaces
// only, takes "Match host A user B" for three patterns and ignores that Match host means HostName, lets ? stand for no
// character, does not split quoted words, fails on any other Match even in a block for others, and loses the names of
// included files. Each of these would reach another machine, or none, without a word.
package remote

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Options say how hosts are reached. The zero value of each field means what ssh(1) does.
type Options struct {
	Config     string                              // an ssh_config file; "" for ~/.ssh/config, then /etc/ssh/ssh_config
	KnownHosts string                              // "" for what the config says, else ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
	AcceptNew  bool                                // take and write down the key of a host that is not known yet; a changed key is always refused
	Ask        func(question string) (bool, error) // asks a person about a new host's key; nil: nobody is there
	Passphrase func(prompt string) ([]byte, error) // of a private key; nil: nobody is there
	Getenv     func(string) string                 // SSH_AUTH_SOCK, HOME
}

// Host is a machine that we are logged in to. It is safe for use by several goroutines.
type Host struct {
	Name    string // as it was written, without the user
	Address string // as dialled, host:port

	o     Options
	s     *settings
	hops  []*link // the machines on the way
	first *link
	total meter

	mu      sync.Mutex
	links   []*link       // the first one, and those made since a machine lets only so many sessions into one
	linking bool          // one more is being made
	again   time.Time     // not before then is one more tried
	changed chan struct{} // closed when a session ended or a link came
	closed  bool

	uidLock chan struct{}
	uid     string
}

// Dial connects to dest: [USER@]HOST[:PORT], ssh://..., or a Host of the config.
func Dial(ctx context.Context, o Options, dest string) (*Host, error) {
	d, err := parseDestination(dest)
	if err != nil {
		return nil, fail.New(fail.Usage, "the machine", "%w", err).Hinted("write [USER@]HOST[:PORT], or a Host of the configuration of ssh")
	}
	way, err := route(o, d, nil)
	if err != nil {
		return nil, err
	}
	s := way[len(way)-1]
	h := &Host{Name: destination{host: d.host, port: d.port}.String(), Address: s.address(), o: o, s: s,
		changed: make(chan struct{}), uidLock: make(chan struct{}, 1)}
	for _, hop := range way[:len(way)-1] {
		l, err := h.dialer(hop).dial(ctx)
		if err != nil {
			h.Close()
			return nil, onTheWay(err, h.Name, hop)
		}
		h.hops = append(h.hops, l)
	}
	if h.first, err = h.dialer(s).dial(ctx); err != nil {
		h.Close()
		return nil, err
	}
	h.links = []*link{h.first}
	return h, nil
}

// dialer connects through the machine that was reached last.
func (h *Host) dialer(s *settings) dialer {
	d := dialer{o: h.o, s: s}
	if n := len(h.hops); n > 0 {
		d.via = h.hops[n-1]
	} else {
		d.total = &h.total
	}
	return d
}

// onTheWay names the machine that was asked for where another one failed.
func onTheWay(err error, name string, hop *settings) error {
	e := *fail.As(err)
	e.Op = fmt.Sprintf("reach %s through %s: %s", name, hop.written.host, e.Op)
	return &e
}

// route is the way to d: the machines of ProxyJump, each with a configuration of its own, and d. Of several machines in
// one ProxyJump only the first one's own ProxyJump counts, as for ssh(1).
func route(o Options, d destination, seen []string) ([]*settings, error) {
	s, err := settle(o, d)
	if err != nil {
		return nil, err
	}
	me := s.user + "@" + s.address()
	for _, other := range seen {
		if other == me {
			return nil, fail.New(fail.Usage, "", "ProxyJump leads in a circle: %s", strings.Join(append(seen, me), " through ")).
				Hinted("leave the machine on the way out: Host * !%s", s.written.host)
		}
	}
	if len(s.jumps) == 0 {
		return []*settings{s}, nil
	}
	if len(seen)+len(s.jumps) > maxInclude {
		return nil, fail.New(fail.Usage, "", "ProxyJump leads through more than %d machines", maxInclude)
	}
	way, err := route(o, s.jumps[0], append(seen, me))
	if err != nil {
		return nil, err
	}
	for _, j := range s.jumps[1:] {
		hop, err := settle(o, j)
		if err != nil {
			return nil, err
		}
		way = append(way, hop)
	}
	return append(way, s), nil
}

// Sent says how many bytes went over the wire so far, both ways: of this machine's own connections, with all that they
// carry, or of the one to the first machine on the way.
func (h *Host) Sent() (out, in int64) { return h.total.out.Load(), h.total.in.Load() }

// Done is closed when the connection is lost, or was closed. Then nothing more can be run.
func (h *Host) Done() <-chan struct{} { return h.first.lost }

// Close ends everything that is under way, and the connection.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	links := append(append([]*link(nil), h.hops...), h.links...)
	h.mu.Unlock()
	for i := len(links) - 1; i >= 0; i-- {
		links[i].lose(errClosed)
	}
	for _, l := range links {
		l.under.Wait()
	}
	return nil
}
