package edge

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve makes the file so long, with its blocks on the disk: in a file with holes the first touch of a page on a full
// disk would end the process with SIGBUS (mmap(2)).
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}
