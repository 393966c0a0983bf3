package proc

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// DropText gives back the memory of this program's own file (machine code and constants) that only its start needed: about half of it,
// as every package of the program prepares itself then. What is needed again is mapped again out of the page cache. Pages
// that the process changed are left alone (madvise(2), MADV_DONTNEED). It returns how many bytes were given back.
func DropText() (int64, error) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	var all int64
	for _, m := range mappings(string(text)) {
		if m.path != self || m.changed || strings.Contains(m.perms, "w") {
			continue
		}
		if _, _, e := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); e != 0 {
			return all, e
		}
		all += m.resident
	}
	return all, nil
}

// mapping is a range of addresses in /proc/PID/smaps (proc_pid_smaps(5)).
type mapping struct {
	from, to    uintptr
	perms, path string
	resident    int64 // bytes
	changed     bool  // it holds pages that are not those of the file
}

func mappings(smaps string) (out []mapping) {
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if key, ok := strings.CutSuffix(f[0], ":"); ok {
			if len(out) == 0 {
				continue
			}
			m := &out[len(out)-1]
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			switch key {
			case "Rss":
				m.resident = kb << 10
			case "Anonymous":
				m.changed = kb > 0
			}
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		m := mapping{from: uintptr(a), to: uintptr(b), perms: f[1]}
		if len(f) > 5 {
			m.path = strings.Join(f[5:], " ")
		}
		out = append(out, m)
	}
	return out
}
