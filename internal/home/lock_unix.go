//go:build unix

package home

import (
	"os"

	"golang.org/x/sys/unix"
)

// Lock waits until no other open file has the lock of f's file (flock(2)), and takes it. Unlock gives it back, and so does closing f.
func Lock(f *os.File) error { return flock(f, unix.LOCK_EX) }

// TryLock is [Lock] for who does not wait: the error is [unix.EWOULDBLOCK] where another open file has it.
func TryLock(f *os.File) error { return flock(f, unix.LOCK_EX|unix.LOCK_NB) }

// Unlock gives the lock back.
func Unlock(f *os.File) {
	_ = flock(f, unix.LOCK_UN) // of an open file this cannot fail, and of a closed one it is given back
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR { //nolint:errorlint // a raw errno
			return err
		}
	}
}
