//go:build unix

package edge

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// burst is how long bytes are moved before somebody looks whether there still are some. While they are moved between two TCP
	// connections the kernel does it, through a pipe, which a connection that is silent shall not keep: with one for each direction
	// it would have six file descriptors and not two.
	burst = 100 * time.Millisecond
	// beginTime is how long an instance may take to take in the first bytes, which fit in its socket's buffer.
	beginTime = 10 * time.Second
)

// joined is a client's connection and an instance's whose bytes go over to each other.
type joined struct {
	c        *stream
	instance *net.TCPConn
	idle     time.Duration
	start    time.Time
	last     atomic.Int64 // when something last went over, after start

	once  sync.Once
	ended how
}

// how is in what way two connections came apart.
type how int

const (
	inOrder how = iota
	byClient
	byInstance
	bySilence
)

var errSilence = errors.New("nothing went over the connection for longer than route.timeouts.idle")

// sideError says at which of two connections something went wrong.
type sideError struct {
	at  net.Conn
	err error
}

func (e *sideError) Error() string { return e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

// join passes everything on until both sides have ended. The end of one is passed on, too: the other may go on.
func (c *stream) join(ex *exchange, instance *net.TCPConn) (broken, gone bool) {
	j := &joined{c: c, instance: instance, start: time.Now()}
	first := c.before
	if s := ex.route.Stream; s != nil {
		j.idle = s.Idle
		if s.Introduce > 0 {
			first = append(c.who.append(nil, s.Introduce), first...)
		}
	}
	c.received.Store(int64(len(c.before)))
	c.before = nil
	var down sync.WaitGroup
	down.Go(func() { j.finish(c.client, instance, j.flow(c.client, instance, &c.sent)) })
	err := j.begin(first)
	if err == nil {
		err = j.flow(instance, c.client, &c.received)
	}
	j.finish(instance, c.client, err)
	down.Wait()
	switch {
	case j.ended == bySilence:
		ex.why = "idle_timeout"
	case j.ended == byClient:
		// One that had said all it had to say, and did not wait for what the instance says to that, is through.
		return err != nil, err != nil
	case j.ended == byInstance && c.sent.Load() == 0:
		ex.why = "no_answer"
		return true, false
	case j.ended == byInstance: // whether it was the end that it meant only those two know
		ex.why = "broken_off"
	}
	return false, false
}

// begin sends what an instance gets before all that follows.
func (j *joined) begin(first []byte) error {
	if len(first) == 0 {
		return nil
	}
	j.instance.SetWriteDeadline(time.Now().Add(beginTime))
	_, err := j.instance.Write(first)
	j.instance.SetWriteDeadline(time.Time{})
	if err != nil {
		return &sideError{j.instance, err}
	}
	return nil
}

// finish ends one direction: at its end in order, or both directions for an error.
func (j *joined) finish(dst, src net.Conn, err error) {
	if err == nil {
		if w, ok := dst.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
		return
	}
	j.once.Do(func() {
		j.ended = j.blame(dst, src, err)
		if j.ended != bySilence { // who is told of no end must not take what came for all there was
			j.c.wire.SetLinger(0)
			j.instance.SetLinger(0)
		}
		j.c.wire.Close()
		j.instance.Close()
	})
}

// blame finds out who ended the connection in disorder.
func (j *joined) blame(dst, src net.Conn, err error) how {
	if errors.Is(err, errSilence) || errors.Is(err, os.ErrDeadlineExceeded) {
		return bySilence
	}
	at := src
	var side *sideError
	switch {
	case errors.As(err, &side):
		at = side.at
	case isReset(j.under(dst)): // the kernel moved the bytes, and does not say where it could not
		at = dst
	}
	if at == net.Conn(j.instance) {
		return byInstance
	}
	return byClient
}

// under is the TCP connection below one of the two.
func (j *joined) under(c net.Conn) *net.TCPConn {
	if c == net.Conn(j.instance) {
		return j.instance
	}
	return j.c.wire
}

// flow moves bytes from src to dst up to the end of src.
func (j *joined) flow(dst, src net.Conn, moved *atomic.Int64) error {
	to, ok := dst.(*net.TCPConn)
	from, both := src.(*net.TCPConn)
	if ok && both {
		return j.splice(to, from, moved)
	}
	return j.copy(dst, src, moved)
}

// splice has the kernel move them.
func (j *joined) splice(dst, src *net.TCPConn, moved *atomic.Int64) error {
	look, err := newLook(src)
	if err != nil {
		return &sideError{src, err}
	}
	for {
		if err := j.await(look, src); err != nil {
			return err
		}
		now := j.touch()
		src.SetReadDeadline(now.Add(burst))
		if j.idle > 0 {
			dst.SetWriteDeadline(now.Add(burst + j.idle))
		}
		n, err := dst.ReadFrom(src)
		moved.Add(n)
		switch end := j.touch(); {
		case err == nil:
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case j.idle > 0 && end.Sub(now) >= burst+j.idle:
			return errSilence // dst did not take what it was sent
		}
	}
}

// touch notes that something goes over.
func (j *joined) touch() time.Time {
	now := time.Now()
	j.last.Store(int64(now.Sub(j.start)))
	return now
}

// silence bounds the next read from src; it is an error when there was nothing for too long, in either direction.
func (j *joined) silence(src net.Conn) error {
	if j.idle == 0 {
		return src.SetReadDeadline(time.Time{})
	}
	left := time.Duration(j.last.Load()) + j.idle - time.Since(j.start)
	if left <= 0 {
		return errSilence
	}
	return src.SetReadDeadline(time.Now().Add(left))
}

// await waits until there is something to read, or the end.
func (j *joined) await(l *look, src net.Conn) error {
	for {
		if err := j.silence(src); err != nil {
			return err
		}
		_, err := l.wait()
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return &sideError{src, err}
		}
	}
}

// copy moves bytes through this process, which encrypts or decrypts them.
func (j *joined) copy(dst, src net.Conn, moved *atomic.Int64) error {
	buf := copyBuffers{}.Get()
	defer copyBuffers{}.Put(buf)
	for {
		if err := j.silence(src); err != nil {
			return err
		}
		n, err := src.Read(buf)
		if n > 0 {
			if now := j.touch(); j.idle > 0 {
				dst.SetWriteDeadline(now.Add(j.idle))
			}
			n, err := dst.Write(buf[:n])
			moved.Add(int64(n))
			if err != nil {
				return &sideError{dst, err}
			}
			j.touch()
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return &sideError{src, err}
		}
	}
}
