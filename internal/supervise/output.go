package supervise

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

var streams = []string{"stdout", "stderr"}

// output takes what an instance prints, over all of its restarts.
//
// Each stream is a named pipe that the child holds open for reading and writing. So it is its own reader: when the
// supervisor dies, a print does not end the child with SIGPIPE, and what it printed waits in the pipe for the next
// supervisor, which opens the same name.
type output struct {
	rec   Recorder
	pipes []*os.File
	idle  chan struct{} // a pipe was found empty
	ended atomic.Bool
	wg    sync.WaitGroup
}

func (in *instance) fifo(stream string) string {
	return filepath.Join(in.sup.opt.Dirs.Fifos(), in.key()+"."+stream)
}

func (in *instance) openOutput() error {
	secrets, err := in.secrets()
	if err != nil {
		return err
	}
	hide := make([]string, 0, len(secrets))
	for _, v := range secrets {
		hide = append(hide, v)
	}
	rec, err := in.sup.opt.Record(in.snapshot(), in.prog, hide)
	if err != nil {
		return err
	}
	o := &output{rec: rec, idle: make(chan struct{}, len(streams))}
	in.mu.Lock()
	in.out = o
	in.mu.Unlock()
	uid, gid, err := in.user()
	if err != nil {
		return err
	}
	for _, s := range streams {
		if err := mkfifo(in.fifo(s), uid, gid); err != nil {
			return err
		}
		f, err := openPipe(in.fifo(s))
		if err != nil {
			return err
		}
		o.pipes = append(o.pipes, f)
		o.wg.Add(1)
		go func() {
			defer o.wg.Done()
			o.copy(s, f)
		}()
	}
	return nil
}

// copy hands every chunk to the recorder. A deadline that passes means that the pipe is empty: that is told, and is the
// end once the output has ended.
func (o *output) copy(stream string, f *os.File) {
	buf := make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			o.rec.Write(stream, buf[:n])
		}
		switch {
		case err == nil, errors.Is(err, io.EOF):
		case errors.Is(err, os.ErrDeadlineExceeded) && !o.ended.Load():
			if f.SetReadDeadline(time.Time{}) != nil {
				return
			}
			o.idle <- struct{}{}
		default:
			return
		}
	}
}

// settle waits until what was printed so far is with the recorder: what is said about a process's end comes behind its
// last words.
func (o *output) settle() {
	for _, f := range o.pipes {
		if f.SetReadDeadline(time.Now().Add(500*time.Microsecond)) != nil {
			return
		}
	}
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	for range o.pipes {
		select {
		case <-o.idle:
		case <-t.C:
			return
		}
	}
}

// closeOutput takes what is still in the pipes and closes them.
func (in *instance) closeOutput() {
	in.mu.Lock()
	o := in.out
	in.out = nil
	in.mu.Unlock()
	if o == nil {
		return
	}
	o.ended.Store(true)
	for _, f := range o.pipes {
		f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	}
	o.wg.Wait()
	for _, f := range o.pipes {
		f.Close()
	}
	if err := o.rec.Close(); err != nil {
		in.sup.opt.Log.Error("cannot close the log", "instance", in.key(), "error", err)
	}
}

func (in *instance) removeFifos() {
	for _, s := range streams {
		os.Remove(in.fifo(s))
	}
}

// note puts a remark of ours into the instance's log, behind what the instance printed before.
func (in *instance) note(level, text string) {
	in.mu.Lock()
	o := in.out
	in.mu.Unlock()
	if o != nil {
		o.settle()
		o.rec.Note(level, text)
	}
}

// childFiles opens the child's ends. Without pipes it prints into nothing rather than not run.
func (in *instance) childFiles(uid, gid int) (stdout, stderr *os.File, err error) {
	open := func(stream string) (*os.File, error) {
		f, err := os.OpenFile(in.fifo(stream), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			if err = mkfifo(in.fifo(stream), uid, gid); err == nil {
				f, err = os.OpenFile(in.fifo(stream), os.O_RDWR, 0)
			}
		}
		return f, err
	}
	if stdout, err = open(streams[0]); err != nil {
		return nil, nil, err
	}
	if stderr, err = open(streams[1]); err != nil {
		stdout.Close()
		return nil, nil, err
	}
	return stdout, stderr, nil
}
