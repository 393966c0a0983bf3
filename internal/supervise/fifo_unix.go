//go:build unix

package supervise

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// mkfifo makes the pipe for the service's user, so that it may also open /dev/stdout by name.
func mkfifo(path string, uid, gid int) error {
	err := unix.Mkfifo(path, 0o600)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if uid >= 0 {
		return os.Lchown(path, uid, gid)
	}
	return nil
}

// openPipe opens our end so that it never sees an end of file between two starts, and makes the pipe as large as
// an ordinary user may: what is printed while a supervisor is being replaced waits there.
func openPipe(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	growPipe(f, 1<<20)
	return f, nil
}
