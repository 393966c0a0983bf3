package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// ticksPerSecond is USER_HZ, which is 100 on every architecture Go runs on (proc(5)).
const ticksPerSecond = 100

// stat returns the fields of /proc/PID/stat behind the command, so that index 0 is the state (field 3 of proc(5)).
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 22 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return f, nil
}

func identify(pid int) (ID, error) {
	f, err := stat(pid)
	if err != nil {
		return ID{}, err
	}
	// The first thread may be gone while others still hold files: then the process is not (proc_pid_stat(5), num_threads).
	if (f[0] == "Z" || f[0] == "X") && (f[17] == "0" || f[17] == "1") {
		return ID{}, fmt.Errorf("process %d has ended", pid)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	return ID{PID: pid, Start: start, Boot: bootID()}, err
}

// Use reads what the process takes now.
func Use(pid int) (Usage, error) {
	f, err := stat(pid)
	if err != nil {
		return Usage{}, err
	}
	num := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	u := Usage{Memory: num(21) * int64(os.Getpagesize()), CPU: float64(num(11)+num(12)) / ticksPerSecond, Threads: int(num(17)), Files: -1}
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		u.Files = len(fds)
	}
	return u, nil
}
