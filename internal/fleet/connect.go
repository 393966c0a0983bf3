package fleet

import (
	"context"
	"net"
	"sync"

	"github.com/fairlead-dev/fairlead/internal/agent/api"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/remote"
)

// Options say which hosts, and how they are reached.
type Options struct {
	SSH    remote.Options
	Hosts  []string // as in target.ssh
	By     string
	Events event.Sink
}

// Open connects to all hosts at once. One that does not answer is in the fleet with its error. The caller closes it.
func Open(ctx context.Context, o Options) *Fleet {
	f := &Fleet{By: o.By, Events: o.Events}
	for _, name := range o.Hosts {
		f.Hosts = append(f.Hosts, &Host{Name: name, link: &link{ssh: o.SSH, dest: name}})
	}
	for i, err := range f.each(f.Hosts, func(h *Host) error { _, err := h.link.up(ctx); return err }) {
		h := f.Hosts[i]
		if err != nil {
			h.Err = unavailable(err)
		} else {
			h.Client = api.DialBy(h.Name, h.link.dial)
		}
	}
	return f
}

// unavailable makes any reason for which a host cannot be reached one: a key that it refuses keeps us from it as much as a cable that is out.
func unavailable(err error) error {
	e := *fail.As(err)
	e.Kind = fail.Unavailable
	return &e
}

// Close ends the connections.
func (f *Fleet) Close() {
	for _, h := range f.Hosts {
		if h.link != nil {
			h.link.close()
		}
	}
}

// link is an SSH connection that is made again when it was lost.
type link struct {
	ssh  remote.Options
	dest string

	mu   sync.Mutex
	host *remote.Host
}

// up is the connection. While one is being made, others wait for it.
func (l *link) up(ctx context.Context) (*remote.Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.host != nil {
		select {
		case <-l.host.Done():
			l.host.Close()
			l.host = nil
		default:
			return l.host, nil
		}
	}
	var err error
	l.host, err = remote.Dial(ctx, l.ssh, l.dest)
	return l.host, err
}

// dial connects to the host's agent: through its own command, as forwarding to sockets may be switched off there.
func (l *link) dial(ctx context.Context) (net.Conn, error) {
	h, err := l.up(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	return h.Conn(ctx, remote.Command{Args: []string{program, "agent", "connect"}, Root: true})
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.host != nil {
		l.host.Close()
		l.host = nil
	}
}

// run has a command run on the host.
func (h *Host) run(ctx context.Context, c remote.Command) ([]byte, error) {
	s, err := h.link.up(ctx)
	if err != nil {
		return nil, err
	}
	return s.Run(ctx, c)
}

// Exec runs a command on the host, with the user's own rights or root's.
func (h *Host) Exec(ctx context.Context, args []string, root bool) ([]byte, error) {
	return h.run(ctx, remote.Command{Args: args, Root: root})
}

// Sent is what went over the host's connection so far, in bytes.
func (h *Host) Sent() (out, in int64) {
	h.link.mu.Lock()
	defer h.link.mu.Unlock()
	if h.link.host == nil {
		return 0, 0
	}
	return h.link.host.Sent()
}

// Facts is what has to be known of a host before anything is put there.
type Facts struct {
	Platform platform.Platform `json:"platform"`
	Program  string            `json:"program,omitempty"` // the version of fairlead that is installed, by its content
	Runs     bool              `json:"runs"`              // its agent does
	Systemd  bool              `json:"systemd"`
}
