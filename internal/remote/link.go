package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// link is one SSH connection, over TCP or through the connection to another machine.
type link struct {
	s      *settings
	wire   *wire
	client *ssh.Client
	key    ssh.PublicKey

	mu    sync.Mutex // for under and lost: nothing is begun on a link that is lost
	under sync.WaitGroup
	err   error         // why it was lost; written before lost is closed
	lost  chan struct{} // closed when nothing more will come

	// Of the host, under its lock.
	open   int  // sessions, and attempts at one
	opened int  // sessions that there have been
	full   bool // the machine refused one more
}

// meter counts bytes.
type meter struct{ out, in atomic.Int64 }

// wire is what a link runs over. It counts what it reads, as any byte shows that the machine is alive.
type wire struct {
	net.Conn
	total *meter // of the host; nil where another link carries this one
	got   atomic.Int64
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.got.Add(int64(n))
	if w.total != nil {
		w.total.in.Add(int64(n))
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if w.total != nil {
		w.total.out.Add(int64(n))
	}
	return n, err
}

var errSlow = errors.New("too slow")

// patience is the time that a host has to let us in. It stands still while a person thinks.
type patience struct {
	mu     sync.Mutex
	left   time.Duration
	since  time.Time
	timer  *time.Timer
	expire func()
}

func newPatience(d time.Duration, expire func()) *patience {
	return &patience{left: d, since: time.Now(), timer: time.AfterFunc(d, expire), expire: expire}
}

func (p *patience) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
	p.left -= time.Since(p.since)
}

func (p *patience) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since, p.timer = time.Now(), time.AfterFunc(max(p.left, 0), p.expire)
}

func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer.Stop()
}

// dialer is what it takes to make a link.
type dialer struct {
	o      Options
	s      *settings
	via    *link         // nil for TCP
	total  *meter        // nil unless over TCP
	pinned ssh.PublicKey // the key that the host showed before
}

// dial connects, checks the host and logs in, within the time that the settings give.
func (d dialer) dial(parent context.Context) (*link, error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	p := newPatience(d.s.timeout, func() { cancel(errSlow) })
	defer p.stop()
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, d.failed(ctx, err)
	}
	asking := func(f func(context.Context) error) error {
		p.pause()
		defer p.resume()
		return ask(ctx, f)
	}
	l, err := d.handshake(ctx, &wire{Conn: conn, total: d.total}, asking)
	if err != nil {
		return nil, err
	}
	l.run(func() { l.lose(l.client.Wait()) })
	l.run(l.watch)
	return l, nil
}

func (d dialer) connect(ctx context.Context) (net.Conn, error) {
	if d.via == nil {
		return new(net.Dialer).DialContext(ctx, d.s.network, d.s.address())
	}
	conn, err := d.via.client.DialContext(ctx, "tcp", d.s.address())
	if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		err = errors.New(d.via.s.written.host + " cannot connect to it: " + printable(refused.Message))
	}
	return conn, err
}

// handshake runs on its own, so that it can be left at once: closing a channel of a machine that froze does not end a Read.
func (d dialer) handshake(ctx context.Context, w *wire, asking asking) (*link, error) {
	t, err := newTrust(d.o, d.s)
	if err != nil {
		w.Close()
		return nil, err
	}
	t.asking, t.pinned = asking, d.pinned
	type result struct {
		l   *link
		err error
	}
	done := make(chan result, 1)
	go func() {
		login := &login{ctx: ctx, s: d.s, lock: &locksmith{passphrase: d.o.Passphrase, asking: asking}}
		defer login.close()
		c, chans, reqs, err := ssh.NewClientConn(w, d.s.address(), &ssh.ClientConfig{
			User: d.s.user, HostKeyAlgorithms: t.algorithms(), HostKeyCallback: t.check, AuthCallback: login.method,
			BannerCallback: func(string) error { return nil }, ClientVersion: "SSH-2.0-fairlead",
		})
		if err != nil {
			done <- result{nil, d.refused(ctx, t, login, err)}
			return
		}
		done <- result{&link{s: d.s, wire: w, client: ssh.NewClient(c, chans, reqs), key: t.taken, lost: make(chan struct{})}, nil}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			w.Close()
		}
		return r.l, r.err
	case <-ctx.Done():
		w.Close()
		go func() {
			if r := <-done; r.l != nil {
				r.l.client.Close()
			}
		}()
		return nil, d.failed(ctx, context.Cause(ctx))
	}
}

// refused says what the error of a handshake means.
func (d dialer) refused(ctx context.Context, t *trust, l *login, err error) error {
	if e, ok := errors.AsType[*fail.Error](err); ok {
		return e
	}
	if e := t.other(err); e != nil {
		return e
	}
	_, network := errors.AsType[net.Error](err)
	if t.taken == nil || network || errors.Is(err, io.EOF) || ctx.Err() != nil {
		return d.failed(ctx, err)
	}
	return l.denied(err)
}

// failed is for a machine that did not answer, or not as an SSH server does.
func (d dialer) failed(ctx context.Context, err error) error {
	op := "connect to " + d.s.written.host + " (" + d.s.address() + ")"
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errSlow):
		return fail.New(fail.Unavailable, op, "no answer within %s", d.s.timeout).
			Hinted("see whether the machine is up and its sshd answers: ssh -v %s", d.s.written.words())
	case cause != nil:
		return &fail.Error{Kind: stopped(cause), Op: op, Err: cause}
	case d.via != nil && d.via.gone():
		return d.via.err
	case errors.Is(err, io.EOF):
		err = errors.New("the machine hung up")
	}
	return fail.New(fail.Unavailable, op, "%w", err).Hinted("see whether an SSH server listens there: ssh -v %s", d.s.written.words())
}

// stopped is the kind of an error that came of a context.
func stopped(cause error) fail.Kind {
	if e, ok := errors.AsType[*fail.Error](cause); ok && e.Kind != "" {
		return e.Kind
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return fail.Unavailable
	}
	return fail.Interrupted
}

// watch asks a machine that is silent whether it is alive. One that was stopped keeps its TCP connections, and no write
// to it fails for a quarter of an hour.
func (l *link) watch() {
	tick := time.NewTicker(l.s.interval)
	defer tick.Stop()
	var seen int64
	missed := 0
	for {
		select {
		case <-l.lost:
			return
		case <-tick.C:
		}
		if got := l.wire.got.Load(); got != seen {
			seen, missed = got, 0
			continue
		}
		switch missed {
		case l.s.missed:
			l.lose(errSilent)
			return
		case 0: // one question is enough: TCP does not lose it
			l.run(func() { l.client.SendRequest("keepalive@openssh.com", true, nil) }) // its error is the link's, which Wait has
		}
		missed++
	}
}

var (
	errSilent = errors.New("silent")
	errClosed = errors.New("closed")
)

// lose ends the link: everything under way fails now, even if the way to the machine is stuck.
func (l *link) lose(err error) {
	l.mu.Lock()
	if !l.gone() {
		e := fail.New(fail.Unavailable, "the connection to "+l.s.written.host+" ("+l.s.address()+")", "")
		switch {
		case errors.Is(err, errSilent):
			e.Err = errors.New("the machine did not answer for " + (l.s.interval * time.Duration(l.s.missed)).String())
			e.Hint = "see whether the machine is up: ssh " + l.s.written.words()
		case errors.Is(err, errClosed):
			e.Err = net.ErrClosed
		case err == nil || errors.Is(err, io.EOF):
			e.Err = errors.New("it was closed by the machine")
		default:
			e.Err = err
		}
		l.err = e
		close(l.lost)
	}
	l.mu.Unlock()
	l.wire.Close()
}

// run runs f, which ends when the link is lost.
func (l *link) run(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone() {
		go f() // nobody waits any more
		return
	}
	l.under.Go(f)
}

// broken says how the link was lost, after an error that may come of it; nil where the machine still answers on it.
func (l *link) broken(ctx context.Context) error {
	_, err := await(ctx, l, func() (bool, error) {
		ok, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
		return ok, err
	}, nil)
	if err != nil && ctx.Err() == nil {
		<-l.lost
		return l.err
	}
	return nil // an ended context tells nothing of the machine
}

func (l *link) gone() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// await runs a call of the SSH library, which takes no context. What comes of one that is left is given to late.
func await[T any](ctx context.Context, l *link, call func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	var err error
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		err = &fail.Error{Kind: stopped(context.Cause(ctx)), Err: context.Cause(ctx)}
	case <-l.lost:
		err = l.err
	}
	go func() {
		if r := <-done; r.err == nil && late != nil {
			late(r.v)
		}
	}()
	var none T
	return none, err
}
