package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Command is a program and its arguments, not a line for a shell: for one, let Args be sh, -c and the line.
type Command struct {
	Args   []string // quoted for the shell by Run
	Root   bool     // with sudo -n where the user is not root
	Stdin  io.Reader
	Stdout io.Writer // nil: returned by Run (bounded at 16 MiB)
}

// maxOutput bounds what Run returns.
const maxOutput = 16 << 20

// Run runs a command to its end. Its error is a [fail.Error] with the last lines of the command's standard error, and in
// it an [ExitError] where the command ended badly. When ctx is done its input and output are closed, and it is killed
// where sshd lets us: not where we are root, or where sudo made it root.
// A Read of Stdin that is under way when the command has ended is not waited for.
func (h *Host) Run(ctx context.Context, c Command) ([]byte, error) {
	s, err := h.start(ctx, c)
	if err != nil {
		return nil, err
	}
	var buf bounded
	out := &gate{w: c.Stdout}
	if c.Stdout == nil {
		out.w = &buf
	}
	defer out.shut()
	wrote, read := make(chan error, 1), make(chan error, 1)
	go func() { wrote <- copyTo(out, s.ch) }()
	go func() { read <- s.feed(c.Stdin) }()
	ended := s.done
	for {
		select {
		case <-ctx.Done():
			s.kill()
			return nil, s.why(ctx, context.Cause(ctx))
		case err := <-read:
			if err != nil {
				s.kill()
				return nil, fail.New(fail.Internal, s.name, "its input: %w", err)
			}
			read = nil
		case err := <-wrote:
			if err != nil {
				s.kill()
				return nil, fail.New(fail.Internal, s.name, "its output: %w", err)
			}
			if wrote = nil; ended == nil {
				return buf.Bytes(), s.err
			}
		case <-ended:
			if s.l.gone() && s.err != nil {
				return nil, s.err
			}
			if ended = nil; wrote == nil {
				return buf.Bytes(), s.err
			}
		}
	}
}

// feed gives a command its input. Where reading it fails the command does not get an end, as half a file looks like a
// whole one.
func (s *session) feed(from io.Reader) error {
	if from != nil {
		r := &source{r: from}
		io.Copy(s.ch, r) // a write fails when the command ended, which its status tells better
		if r.err != nil {
			return r.err
		}
	}
	s.ch.CloseWrite() // likewise
	return nil
}

// source remembers the error of a reader, as io.Copy does not say whose error it was.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// copyTo returns the writer's errors only: a Read fails when the session is over, and how that came is known elsewhere.
func copyTo(w io.Writer, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for open := true; open; {
		n, err := r.Read(buf)
		open = err == nil
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// gate is a writer that can be shut: after Run has returned nothing writes to what it was given.
type gate struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done {
		return 0, io.ErrClosedPipe
	}
	return g.w.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
}

// bounded is a buffer that refuses more than it may hold.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("more than %d MiB", maxOutput>>20)
	}
	return b.Buffer.Write(p)
}
