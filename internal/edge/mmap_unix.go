//go:build unix

package edge

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func unmap(b []byte) error { return unix.Munmap(b) }

// lockFile keeps two processes from adding to the file at once.
func lockFile(f *os.File) (unlock func(), err error) {
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR { //nolint:errorlint // a raw errno
			break
		}
	}
	return func() { unix.Flock(int(f.Fd()), unix.LOCK_UN) }, err
}
