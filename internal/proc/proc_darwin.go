package proc

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const zombie = 5 // SZOMB of <sys/proc.h>

func identify(pid int) (ID, error) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return ID{}, err
	}
	if k.Proc.P_pid == 0 || k.Proc.P_stat == zombie {
		return ID{}, fmt.Errorf("process %d has ended", pid)
	}
	t := k.Proc.P_starttime
	return ID{PID: pid, Start: uint64(t.Sec)*1e9 + uint64(t.Usec)*1e3}, nil
}

// Use asks ps(1): the kernel's own call needs cgo.
func Use(pid int) (Usage, error) {
	out, err := exec.Command("ps", "-o", "rss=,time=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return Usage{}, err
	}
	f := strings.Fields(string(out))
	if len(f) < 2 {
		return Usage{}, fmt.Errorf("ps: %q", out)
	}
	kb, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Memory: kb << 10, Files: -1}
	for _, part := range strings.Split(f[1], ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return Usage{}, err
		}
		u.CPU = u.CPU*60 + n
	}
	return u, nil
}
