//go:build unix && (!linux || race)

package edge

import (
	"errors"
	"syscall"
)

func sysRead(fd uintptr, b []byte) (int, syscall.Errno) { return number(syscall.Read(int(fd), b)) }

func sysWrite(fd uintptr, b []byte) (int, syscall.Errno) { return number(syscall.Write(int(fd), b)) }

func number(n int, err error) (int, syscall.Errno) {
	var no syscall.Errno
	if err != nil && !errors.As(err, &no) {
		no = syscall.EIO
	}
	return n, no
}
