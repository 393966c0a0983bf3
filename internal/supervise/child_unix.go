//go:build unix

package supervise

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// defaultFiles is the open-file limit of a service that names none, where the machine allows as many.
const defaultFiles = 65536

// launch is everything a start needs. uid is -1 where the process keeps ours.
type launch struct {
	path           string
	argv, env      []string
	dir            string
	uid, gid       int
	stdout, stderr *os.File
	groups         []string
	files          int
}

// child is a running process, ours or adopted.
type child struct {
	id      proc.ID
	proc    *os.Process // nil when adopted
	foreign func()      // waits for an adopted one
}

func adoptChild(id proc.ID) (*child, error) {
	if !id.Alive() {
		return nil, os.ErrProcessDone
	}
	wait, err := awaitForeign(id.PID)
	if err != nil {
		return nil, err
	}
	if !id.Alive() { // the number was given to another process between the two calls
		return nil, os.ErrProcessDone
	}
	return &child{id: id, foreign: wait}, nil
}

// wait blocks until the process ended. The exit code of an adopted one is not known: only a parent is told.
func (c *child) wait() Exit {
	if c.proc == nil {
		c.foreign()
		return Exit{At: time.Now(), Code: -1, Reason: "ended (its code is not known: the supervisor was replaced while it ran)"}
	}
	st, err := c.proc.Wait()
	e := Exit{At: time.Now(), Code: -1}
	switch {
	case err != nil:
		e.Reason = "ended: " + err.Error()
	case st.Exited():
		e.Code = st.ExitCode()
		e.Reason = fmt.Sprintf("ended with code %d", e.Code)
	default:
		if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.Signal = unix.SignalName(ws.Signal())
			e.Reason = "was ended by signal " + e.Signal
		}
	}
	return e
}

func (c *child) signal(s os.Signal) error {
	sig, ok := s.(syscall.Signal)
	if !ok || !c.id.Alive() {
		return nil
	}
	return syscall.Kill(c.id.PID, sig)
}

// kill ends the process and its whole group.
func (c *child) kill() {
	if c.id.Alive() {
		syscall.Kill(c.id.PID, syscall.SIGKILL)
		killGroup(c.id.PID)
	}
}

// killGroup ends what is left of the process group that pid led.
func killGroup(pid int) {
	syscall.Kill(-pid, syscall.SIGKILL)
}

// ParseSignal reads a signal's name, with or without SIG.
func ParseSignal(name string) (os.Signal, error) {
	n := strings.ToUpper(name)
	if !strings.HasPrefix(n, "SIG") {
		n = "SIG" + n
	}
	s := unix.SignalNum(n)
	if s == 0 {
		return nil, fmt.Errorf("%q is not a signal: write TERM, INT, QUIT, HUP or USR1", name)
	}
	return s, nil
}

func owner(path string) (uid, gid int, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, errors.New("no owner in " + path)
	}
	return int(st.Uid), int(st.Gid), nil
}
