package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// What holds where a machine refuses one more session on a connection: sshd lets ten into one (MaxSessions). Waiting for
// one of them to end would be for ever where they are streams, so another connection is made; sessions wait only where
// that does not work either.
const (
	maxLinks   = 8
	relinkWait = 30 * time.Second // after a connection that was not to be had: agents may ask their user each time
	retryWait  = time.Second      // a machine counts a session until its program has ended, of which nobody tells
)

// ExitError is a command that ended with another status than 0, or by a signal.
type ExitError struct {
	Status int    // 128 + the signal's number is the shell's affair: where Signal is set, this is 0
	Signal string // its name without SIG
}

// Error says the status or the signal.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "killed by signal " + e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Status)
}

// session is a command that runs.
type session struct {
	h    *Host
	l    *link
	ch   ssh.Channel
	name string // for errors
	sudo bool
	errs tail

	once sync.Once
	err  error         // how it ended; written before done is closed
	done chan struct{} // closed when it ended, or its link was lost
}

// raw is a session without a command.
type raw struct {
	ch   ssh.Channel
	reqs <-chan *ssh.Request
}

// channel opens a session on a link that lets it in.
func (h *Host) channel(ctx context.Context) (*link, raw, error) {
	for {
		l, changed := h.pick()
		if l == nil {
			if err := h.more(ctx, changed); err != nil {
				return nil, raw{}, err
			}
			continue
		}
		r, err := await(ctx, l, func() (raw, error) { return h.open(l) }, func(r raw) {
			r.ch.Close()
			for q := range r.reqs {
				q.Reply(false, nil)
			}
			h.release(l)
		})
		switch {
		case err == nil:
			return l, r, nil
		case errors.Is(err, errFull), l != h.first && l.broken(ctx) != nil:
			continue
		}
		return nil, raw{}, h.why(ctx, l, h.Name+": open a session", err)
	}
}

var errFull = errors.New("the machine lets no more sessions into this connection")

// open asks for a session, and keeps count whoever still waits for the answer.
func (h *Host) open(l *link) (raw, error) {
	ch, reqs, err := l.client.OpenChannel("session", nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		l.opened++
		return raw{ch, reqs}, nil
	}
	l.open--
	refused, ok := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case !ok:
		return raw{}, err
	case l == h.first && l.open == 0 && l.opened == 0:
		return raw{}, fail.New(fail.Preflight, h.Name, "the machine lets nobody run commands: %s", printable(refused.Message)).
			Hinted("see MaxSessions and the user's Match block in the machine's sshd_config")
	}
	l.full = true
	return raw{}, errFull
}

// pick takes a link that may let one more session in.
func (h *Host) pick() (*link, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.links {
		if !l.full && (l == h.first || !l.gone()) {
			l.open++
			return l, nil
		}
	}
	return nil, h.changed
}

// release counts a session that ended.
func (h *Host) release(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.open--
	l.full = false
	h.tell()
}

// tell wakes those who wait; h.mu is held.
func (h *Host) tell() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// more makes one more link, or waits until something changed.
func (h *Host) more(ctx context.Context, changed <-chan struct{}) error {
	h.mu.Lock()
	h.links = slices.DeleteFunc(h.links, func(l *link) bool { return l != h.first && l.gone() })
	dial := !h.linking && !h.closed && len(h.links) < maxLinks && !time.Now().Before(h.again) && !h.first.gone()
	h.linking = h.linking || dial
	h.mu.Unlock()
	if dial && h.relink(ctx) == nil {
		return nil
	}
	t := time.NewTimer(retryWait)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
		h.mu.Lock()
		for _, l := range h.links {
			l.full = false
		}
		h.mu.Unlock()
	case <-h.first.lost:
		return h.first.err
	case <-ctx.Done():
		return fail.New(stopped(context.Cause(ctx)), h.Name, "wait until the machine lets one more session in: %w", context.Cause(ctx))
	}
	return nil
}

func (h *Host) relink(ctx context.Context) error {
	d := h.dialer(h.s)
	d.pinned = h.first.key
	d.o.Ask, d.o.AcceptNew = nil, false
	l, err := d.dial(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.linking = false
	switch {
	case err != nil && ctx.Err() == nil:
		h.again = time.Now().Add(relinkWait)
	case err != nil:
	case h.closed:
		l.lose(errClosed)
		err = l.err
	default:
		h.links = append(h.links, l)
	}
	h.tell()
	return err
}

// start runs a command.
func (h *Host) start(ctx context.Context, c Command) (*session, error) {
	args, sudo := c.Args, false
	if c.Root {
		uid, err := h.who(ctx)
		if err != nil {
			return nil, err
		}
		if sudo = uid != "0"; sudo {
			args = append([]string{"sudo", "-n", "--"}, args...)
		}
	}
	line, err := commandLine(args)
	if err != nil {
		return nil, fail.New(fail.Usage, h.Name, "%w", err)
	}
	l, r, err := h.channel(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{h: h, l: l, ch: r.ch, name: h.Name + ": " + short(c.Args), sudo: sudo, done: make(chan struct{})}
	stderr := make(chan struct{})
	l.run(func() {
		copyTo(&s.errs, r.ch.Stderr())
		close(stderr)
	})
	l.run(func() { s.follow(r.reqs, stderr) })
	l.run(func() {
		select {
		case <-l.lost:
			s.end(l.err)
		case <-s.done:
		}
	})
	ok, err := await(ctx, l, func() (bool, error) {
		return r.ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{line}))
	}, nil)
	if err == nil && !ok {
		err = fail.New(fail.Preflight, s.name, "the machine refuses to run commands")
	}
	if err != nil {
		s.kill()
		return nil, s.why(ctx, err)
	}
	return s, nil
}

func (s *session) why(ctx context.Context, err error) error { return s.h.why(ctx, s.l, s.name, err) }

// why is what err means: an ended context and a lost link explain every other error.
func (h *Host) why(ctx context.Context, l *link, op string, err error) error {
	if ctx.Err() == nil {
		if e, ok := errors.AsType[*fail.Error](err); ok {
			return e
		}
		if lost := l.broken(ctx); lost != nil {
			return lost
		}
	}
	if ctx.Err() != nil {
		return fail.New(stopped(context.Cause(ctx)), op, "%w", context.Cause(ctx))
	}
	return fail.New(fail.Unavailable, op, "%w", err)
}

// follow waits for the end of the command.
func (s *session) follow(reqs <-chan *ssh.Request, stderr <-chan struct{}) {
	var exit *ExitError
	for r := range reqs {
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				exit = &ExitError{Status: int(m.Status)}
			}
		case "exit-signal":
			var m struct {
				Signal  string
				Dumped  bool
				Message string
				Lang    string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				exit = &ExitError{Signal: printable(m.Signal)}
			}
		}
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
	s.h.release(s.l)
	<-stderr
	s.end(s.outcome(exit))
}

func (s *session) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
	})
}

// outcome is the error of a command that ended.
func (s *session) outcome(exit *ExitError) error {
	switch {
	case exit == nil:
		// Either the link broke or the machine's side of the session did: that is asked for.
		if err := s.l.broken(context.Background()); err != nil {
			return err
		}
		return fail.New(fail.Unavailable, s.name, "the machine ended the session without saying how the command ended").WithLines(s.errs.lines())
	case exit.Status == 0 && exit.Signal == "":
		return nil
	}
	lines := s.errs.lines()
	if e := s.sudoers(exit, lines); e != nil {
		return e
	}
	return (&fail.Error{Kind: fail.Internal, Op: s.name, Err: exit}).WithLines(lines)
}

// sudoers explains a sudo that did not start the command.
func (s *session) sudoers(exit *ExitError, lines []string) error {
	if !s.sudo {
		return nil
	}
	user := s.l.s.user
	for _, line := range lines {
		switch {
		case exit.Status == 1 && (strings.HasPrefix(line, "sudo: ") || strings.HasPrefix(line, "Sorry, user ")):
			return fail.New(fail.Preflight, s.name, "%s may not do this as root without a password: %w", user, exit).WithLines(lines).
				Hinted("put this line into /etc/sudoers.d/fairlead on %s, with visudo: %s ALL=(root) NOPASSWD: ALL", s.h.Name, user)
		case exit.Status == 127 && strings.Contains(line, "sudo"):
			return fail.New(fail.Preflight, s.name, "%s is not root, and there is no sudo: %w", user, exit).WithLines(lines).
				Hinted("install sudo on %s, or log in as root", s.h.Name)
		}
	}
	return nil
}

// kill ends the command as far as the machine lets us: sshd signals what the user may signal, and closes its input and output.
func (s *session) kill() {
	go func() { // on a stuck link these writes wait
		s.ch.SendRequest("signal", false, ssh.Marshal(struct{ Signal string }{"KILL"}))
		s.ch.Close()
	}()
}

// who is the user id that we are logged in as. It is asked for once.
func (h *Host) who(ctx context.Context) (string, error) {
	select {
	case h.uidLock <- struct{}{}:
		defer func() { <-h.uidLock }()
	case <-ctx.Done():
		return "", fail.New(stopped(context.Cause(ctx)), h.Name, "%w", context.Cause(ctx))
	}
	if h.uid != "" {
		return h.uid, nil
	}
	out, err := h.Run(ctx, Command{Args: []string{"id", "-u"}})
	if err != nil {
		return "", err
	}
	uid := strings.TrimSpace(string(out))
	if uid == "" || strings.Trim(uid, "0123456789") != "" {
		return "", fail.New(fail.Preflight, h.Name+": id -u", "it says %q, which is not the number of a user", printable(uid[:min(len(uid), 80)])).
			Hinted("a shell that prints something when it starts does that: keep ~/.bashrc and its like silent for commands")
	}
	h.uid = uid
	return uid, nil
}

// short is a command for an error: as much of it as a line takes.
func short(args []string) string {
	const most = 100
	s := strings.Join(args, " ")
	if len(s) > most {
		s = s[:most] + "..."
	}
	return printable(s)
}
