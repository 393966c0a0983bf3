package preflight

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func measure(f *facts) {
	measureFiles(f)
	f.memTotal, f.memFree = parseMeminfo(readText("/proc/meminfo"))
	g := findGroups(readText("/proc/self/cgroup"), readText("/proc/self/mountinfo"))
	f.quota = g.quota()
	if total, free, ok := g.memory(); ok {
		f.memTotal = min(f.memTotal, total)
		if f.memFree < 0 || free < f.memFree {
			f.memFree = free
		}
	}
	f.groups = g.usable()
}

// readText returns "" for what cannot be read: every reader of it copes with less than it hoped for.
func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// parseMeminfo returns total and available bytes; kernels before 3.14 do not tell what is available, which gives -1.
func parseMeminfo(text string) (total, free int64) {
	free = -1
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || n < 0 || n > 1<<50 {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			free = n << 10
		}
	}
	return total, free
}

func kernelClock() (unsynced bool, maxError time.Duration) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // no mode set: it only reads
	if err != nil {
		return false, 0
	}
	return state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0, time.Duration(t.Maxerror) * time.Microsecond
}

// firstOpenPort is the lowest port that a user without privilege may take.
func firstOpenPort() int {
	n, err := strconv.Atoi(strings.TrimSpace(readText("/proc/sys/net/ipv4/ip_unprivileged_port_start")))
	if err != nil {
		return 1024
	}
	return n
}
