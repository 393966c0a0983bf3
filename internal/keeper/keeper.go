// Package keeper makes the three processes of a machine hold each other up.
//
// Each living role holds the lock of its own file ([flock(2)], which belongs to the open file and so passes to a child
// that inherits it). The other roles wait for that lock: whoever gets it knows that the role died, starts it again and
// gives the lock to the child, so there are never two of a role and never a moment without an owner.
//
// [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html
package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// lockEnv tells a child which inherited file is its lock.
const lockEnv = "FAIRLEAD_LOCK_FD"

// lockFD is the number of the first of exec.Cmd's ExtraFiles in the child.
const lockFD = 3

// status stands in a lock file, for whoever finds it free.
type status struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Fails   int       `json:"fails"` // quick deaths in a row
}

// A role that dies quickly is started again after a delay that doubles from firstDelay to maxDelay: the machine without
// it is worth more than the little work of trying.
const (
	firstDelay = 50 * time.Millisecond
	maxDelay   = 2 * time.Second
)

// quick is the life under which a death counts against the role.
const quick = 5 * time.Second

// Hold takes the role's lock, or adopts the one inherited from the parent. The caller keeps the file open for life.
// When another process of the role lives, it returns [ErrHeld].
func Hold(d home.Dirs, role string) (*os.File, error) {
	f, err := inherited()
	if err != nil {
		return nil, err
	}
	if f == nil {
		if f, err = open(d, role); err != nil {
			return nil, err
		}
		if err := tryLock(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, Sign(f)
}

// Sign writes into a lock that this process holds it now; Hold does that by itself.
func Sign(lock *os.File) error {
	s := read(lock)
	s.PID, s.Started = os.Getpid(), time.Now()
	return write(lock, s)
}

// SignOff notes that the holder ends because it was asked to, so that its end does not count as a crash.
func SignOff(lock *os.File) error { return write(lock, status{PID: os.Getpid()}) }

// ErrHeld means that a living process of the role holds the lock.
var ErrHeld = errors.New("already running")

// PID returns the process number in the role's lock file, 0 where none was ever started.
func PID(d home.Dirs, role string) int {
	f, err := os.Open(d.Lock(role))
	if err != nil {
		return 0
	}
	defer f.Close()
	return read(f).PID
}

// Running reports whether a process of the role lives.
func Running(d home.Dirs, role string) bool {
	f, err := open(d, role)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(tryLock(f), ErrHeld)
}

// Watch starts role again whenever it dies, until the machine is being stopped. It blocks one thread; run it in a
// goroutine for each of the other roles. It returns when ctx is done at the next death, or at once when stopping.
func Watch(ctx context.Context, d home.Dirs, role string, log *slog.Logger) {
	for ctx.Err() == nil {
		f, err := open(d, role)
		if err == nil {
			err = waitLock(f)
		}
		if err != nil {
			log.Error("cannot watch", "role", role, "error", err)
			if f != nil {
				f.Close()
			}
			if wait.For(ctx, time.Second) != nil {
				return
			}
			continue
		}
		if Stopping(d) {
			f.Close()
			return
		}
		if err := revive(ctx, d, role, f); err != nil {
			log.Error("cannot start", "role", role, "error", err)
			wait.For(ctx, time.Second) // the loop looks at ctx
		} else {
			log.Warn("started again after it died", "role", role)
		}
		f.Close()
	}
}

// revive starts role with the lock in f. A role that dies quickly is started with a growing delay, during which the lock
// stays held so that the other watchers wait too.
func revive(ctx context.Context, d home.Dirs, role string, f *os.File) error {
	s := read(f)
	if !s.Started.IsZero() && time.Since(s.Started) < quick {
		s.Fails++
	} else {
		s.Fails = 0
	}
	if s.Fails > 1 {
		if err := wait.For(ctx, min(firstDelay<<min(s.Fails, 10), maxDelay)); err != nil {
			return err
		}
	}
	if err := write(f, s); err != nil {
		return err
	}
	return spawn(d, role, f)
}

// Start starts every role that does not run. It returns when they are started, not when they answer.
func Start(d home.Dirs) error {
	if err := os.Remove(d.Stopping()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, role := range home.Roles {
		f, err := open(d, role)
		if err != nil {
			return err
		}
		// Somebody who only looks whether the role runs holds its lock for an instant, too.
		for try := 0; try < 5; try++ {
			if err = tryLock(f); !errors.Is(err, ErrHeld) || wait.For(context.Background(), time.Millisecond) != nil {
				break
			}
		}
		if err == nil {
			err = spawn(d, role, f)
		}
		f.Close()
		if err != nil && !errors.Is(err, ErrHeld) {
			return fmt.Errorf("start %s: %w", role, err)
		}
	}
	return nil
}

// Stopping reports whether the machine is being stopped by its user.
func Stopping(d home.Dirs) bool {
	_, err := os.Stat(d.Stopping())
	return err == nil
}

// SetStopping tells every watcher to let the dead rest.
func SetStopping(d home.Dirs) error { return os.WriteFile(d.Stopping(), nil, 0o600) }

// Spawn starts another process of role beside the living one, which will be asked to hand its lock and its sockets on.
func Spawn(d home.Dirs, role string, args ...string) error { return spawn(d, role, nil, args...) }

func spawn(d home.Dirs, role string, lock *os.File, args ...string) error {
	out, err := openLog(d.DaemonLog(role))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(d.Program(), append([]string{"daemon", role}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.Env = daemonEnv(os.Environ())
	if lock != nil {
		cmd.ExtraFiles = []*os.File{lock}
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", lockEnv, lockFD))
	}
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // reaps it if it dies before us; its lock tells the rest
	return nil
}

// daemonEnv keeps what a daemon needs and drops what a user's shell happened to hold.
func daemonEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		switch k {
		case "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "FAIRLEAD_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
			"XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME":
			out = append(out, kv)
		}
	}
	return out
}

// maxDaemonLog is where a daemon's own log is moved aside; two files are kept.
const maxDaemonLog = 8 << 20

func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxDaemonLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

func open(d home.Dirs, role string) (*os.File, error) {
	return os.OpenFile(d.Lock(role), os.O_CREATE|os.O_RDWR, 0o600)
}

// readTries bounds how often a status is looked at that is being written, a millisecond apart.
const readTries = 50

// read returns the status in a lock; who reads holds up nobody who writes, so it looks until it sees the same twice.
func read(f *os.File) (s status) {
	var last []byte
	for range readTries {
		b := make([]byte, statusSize)
		n, _ := f.ReadAt(b, 0)
		if n == 0 {
			return status{}
		}
		var now status
		if same := bytes.Equal(b[:n], last); json.Unmarshal(b[:n], &now) == nil && same {
			return now
		} else if same && wait.For(context.Background(), time.Millisecond) != nil {
			break
		}
		last = b[:n]
	}
	return status{} // a torn write counts as no history
}

// statusSize is the length of a status in its file, filled up with spaces.
const statusSize = 512

// write replaces the status by one write of the whole: a file that was emptied first would say for a moment that nobody lives.
func write(f *os.File, s status) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, bytes.Repeat([]byte(" "), max(0, statusSize-len(b)))...), 0)
	return err
}
