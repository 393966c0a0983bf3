package supervise

import (
	"os"

	"golang.org/x/sys/unix"
)

// growPipe is best effort: pipe-max-size may be smaller (pipe(7)).
func growPipe(f *os.File, size int) {
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
	}
}
