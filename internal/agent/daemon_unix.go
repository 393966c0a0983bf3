//go:build unix

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/logs"
	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// edgeGrace is how long an edge that is being stopped serves what is under way.
const edgeGrace = 10 * time.Second

// runEdge serves until ctx is done, or another edge took over and the last connection has ended.
func (d Daemon) runEdge(ctx context.Context, lock *os.File) error {
	return d.serveEdge(ctx, d.edgeOptions(lock))
}

// edgeOptions are those of an edge that takes over from nobody.
func (d Daemon) edgeOptions(lock *os.File) edge.Options {
	return edge.Options{Dirs: d.Dirs, Version: d.Version, Log: d.Log, Lock: lock, Access: d.access}
}

// access opens a service's access log.
func (d Daemon) access(service, env string, size int64, age time.Duration) io.WriteCloser {
	return logs.NewLines(logs.AccessDir(d.Dirs.Logs(), service, env), size, age)
}

// replaceEdge is the life of an edge that begins by taking over from the living one.
func (d Daemon) replaceEdge(ctx context.Context) error {
	lock, given, ready, err := edge.TakeOver(d.Dirs)
	if err != nil {
		return err
	}
	d.watchOthers(ctx, home.Edge)
	o := d.edgeOptions(lock)
	o.Given, o.Ready = given, ready
	return d.serveEdge(ctx, o)
}

func (d Daemon) serveEdge(ctx context.Context, o edge.Options) error {
	s, err := edge.Start(ctx, o)
	if err != nil {
		return err
	}
	if _, err := proc.DropText(); err != nil {
		d.Log.Debug("the memory of the start is kept", "error", err)
	}
	select {
	case <-s.Done():
	case <-ctx.Done():
		s.Shut(edgeGrace)
	}
	return nil
}

func terminate(pid int) error {
	if pid <= 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// end asks a process to end and waits until it did. With role set, it must hold that role's lock: a number in a file may
// be somebody else's by now.
func end(ctx context.Context, d home.Dirs, role string, pid int) error {
	if role != "" && !keeper.Running(d, role) || pid <= 0 {
		return nil
	}
	id, err := proc.Identify(pid)
	if err != nil {
		return nil // it is gone
	}
	if err := terminate(pid); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return wait.Until(ctx, 10*time.Millisecond, func() bool { return !id.Alive() })
}

func lastLines(path string, n int) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return all[max(len(all)-n, 0):]
}
