package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// linger is how long a closed connection may take to send what was written to it.
const linger = 5 * time.Second

// conn is a command's input and output. SSH channels know no deadlines, so each way leads through a pipe that does.
type conn struct {
	s         *session
	in, out   net.Conn // our ends: what the command wrote, and what it is to read
	closeOnce sync.Once
	closed    chan struct{}
}

// Conn runs a command and returns its input and output as a connection, with deadlines that work. ctx is for the start
// only. Where the command ends badly a Read returns the error that Run would; CloseWrite ends the command's input.
func (h *Host) Conn(ctx context.Context, c Command) (net.Conn, error) {
	if c.Stdin != nil || c.Stdout != nil {
		return nil, fail.New(fail.Usage, h.Name, "the input and output of a command that is a connection are the connection's")
	}
	s, err := h.start(ctx, c)
	if err != nil {
		return nil, err
	}
	in, inFar := net.Pipe()
	out, outFar := net.Pipe()
	k := &conn{s: s, in: in, out: out, closed: make(chan struct{})}
	go k.receive(inFar)
	go k.send(outFar)
	return k, nil
}

// receive brings what the command writes. Its end is told when the command's status is known.
func (c *conn) receive(to net.Conn) {
	copied := make(chan struct{})
	go func() {
		copyTo(to, c.s.ch)
		close(copied)
	}()
	select {
	case <-copied:
		<-c.s.done
	case <-c.s.l.lost:
	}
	to.Close()
}

// send brings the command what was written.
func (c *conn) send(from net.Conn) {
	sent := make(chan struct{})
	go func() {
		copyTo(c.s.ch, from)
		c.s.ch.CloseWrite() // fails when the command has ended
		close(sent)
	}()
	select {
	case <-sent:
	case <-c.s.done:
		from.Close()
	}
	<-c.closed
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-sent:
	case <-t.C:
	case <-c.s.done:
	}
	from.Close()
	go c.s.ch.Close() // on a stuck link this waits
}

// Read gives what the command wrote.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, io.EOF) {
		if err := c.ended(); err != nil {
			return n, err
		}
	}
	return n, c.told(err)
}

// Write gives the command something to read.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		if err := c.ended(); err != nil {
			return n, err
		}
	}
	return n, c.told(err)
}

// ended is how the command ended, nil where it ended well or has not.
func (c *conn) ended() error {
	select {
	case <-c.s.done:
		return c.s.err
	default:
	}
	if c.s.l.gone() {
		return c.s.l.err
	}
	return nil
}

// told makes the error of a closed connection the one that callers look for.
func (c *conn) told(err error) error {
	select {
	case <-c.closed:
		if errors.Is(err, io.ErrClosedPipe) {
			return net.ErrClosed
		}
	default:
	}
	return err
}

// CloseWrite ends the command's input.
func (c *conn) CloseWrite() error { return c.out.Close() }

// Close ends the command's input and output. What was written before is still sent.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		close(c.closed)
		err = errors.Join(c.out.Close(), c.in.Close())
	})
	return err
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *conn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *conn) LocalAddr() net.Addr                { return addr("fairlead") }
func (c *conn) RemoteAddr() net.Addr               { return addr(c.s.h.Name) }

// addr is the name of an end.
type addr string

func (addr) Network() string  { return "ssh" }
func (a addr) String() string { return string(a) }
