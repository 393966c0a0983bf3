//go:build unix

package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-dev/fairlead/internal/home"
)

func tryLock(f *os.File) error {
	err := home.TryLock(f)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

func waitLock(f *os.File) error { return home.Lock(f) }

func inherited() (*os.File, error) {
	v := os.Getenv(lockEnv)
	if v == "" {
		return nil, nil
	}
	if err := os.Unsetenv(lockEnv); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(v)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: %w", lockEnv, v, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "lock"), nil
}

// detach gives the daemon a session of its own, so that the terminal's end and its Ctrl-C do not reach it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
