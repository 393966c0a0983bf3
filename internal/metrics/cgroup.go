package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// group is what the kernel counts for a control group (cgroups(7)); -1 for what it does not say here.
type group struct {
	memory      float64 // bytes, without file cache that nobody has touched for long
	memoryLimit float64 // bytes; 0: none
	cpu         float64 // seconds
	cpuLimit    float64 // processors; 0: none
	throttled   float64 // seconds
}

// cgroupMounts is where the hierarchies are mounted: "" for the unified one, else by version 1's controller. Other systems
// have none. proc is /proc, and own the groups that this process stands in: an instance in one of those has none of its own.
type cgroupMounts struct {
	proc string
	dirs map[string]mount
	own  map[string]string
}

type mount struct{ root, dir string } // the part of the hierarchy that is seen, and where

func readMounts() cgroupMounts {
	m := cgroupMounts{proc: "/proc", dirs: map[string]mount{}}
	b, err := os.ReadFile(filepath.Join(m.proc, "self/mountinfo"))
	if err != nil {
		return m
	}
	m.parse(string(b))
	m.own = m.groups("self")
	return m
}

// parse reads mountinfo (proc_pid_mountinfo(5)).
func (m *cgroupMounts) parse(info string) {
	for line := range strings.Lines(info) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		at := mount{root: l[3], dir: l[4]}
		switch r[0] {
		case "cgroup2":
			m.dirs[""] = at
		case "cgroup":
			for _, c := range strings.Split(r[2], ",") {
				m.dirs[c] = at
			}
		}
	}
}

// groups reads the path of a process in each hierarchy.
func (m *cgroupMounts) groups(pid string) map[string]string {
	out := map[string]string{}
	b, err := os.ReadFile(filepath.Join(m.proc, pid, "cgroup"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			out[c] = f[2]
		}
	}
	return out
}

// of reads the groups that pid has to itself.
func (m *cgroupMounts) of(pid int) group {
	g := group{memory: -1, cpu: -1}
	if len(m.dirs) == 0 {
		return g
	}
	in := m.groups(strconv.Itoa(pid))
	if dir, ok := m.dir(in, ""); ok {
		g.second(dir)
	}
	if dir, ok := m.dir(in, "memory"); ok && g.memory < 0 {
		g.firstMemory(dir)
	}
	if dir, ok := m.dir(in, "cpuacct"); ok && g.cpu < 0 {
		if ns := number(dir, "cpuacct.usage"); ns >= 0 {
			g.cpu = ns / 1e9
		}
	}
	if dir, ok := m.dir(in, "cpu"); ok && g.cpuLimit == 0 {
		if quota, period := number(dir, "cpu.cfs_quota_us"), number(dir, "cpu.cfs_period_us"); quota > 0 && period > 0 {
			g.cpuLimit, g.throttled = quota/period, max(0, field(dir, "cpu.stat", "throttled_time"))/1e9
		}
	}
	return g
}

// dir returns where a process's own group lies, and false when it shares the one of the agent or stands at the top.
func (m *cgroupMounts) dir(in map[string]string, controller string) (string, bool) {
	at, mounted := m.dirs[controller]
	path, there := in[controller]
	if !mounted || !there || path == "/" || path == at.root || path == m.own[controller] {
		return "", false
	}
	rel, err := filepath.Rel(at.root, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return "", false
	}
	return filepath.Join(at.dir, rel), true
}

// second reads a group of version 2, of which a hybrid machine has only cpu.stat.
func (g *group) second(dir string) {
	if used := number(dir, "memory.current"); used >= 0 {
		g.memory = max(0, used-max(0, field(dir, "memory.stat", "inactive_file")))
		g.memoryLimit = max(0, number(dir, "memory.max")) // "max" is none
	}
	if us := field(dir, "cpu.stat", "usage_usec"); us >= 0 {
		g.cpu = us / 1e6
	}
	var quota, period float64
	if n, _ := fmt.Sscan(text(dir, "cpu.max"), &quota, &period); n == 2 && period > 0 {
		g.cpuLimit, g.throttled = quota/period, max(0, field(dir, "cpu.stat", "throttled_usec"))/1e6
	}
}

// unlimited is where version 1 begins to mean that there is no limit: it then says the largest number of whole pages.
const unlimited = 1 << 60

func (g *group) firstMemory(dir string) {
	used := number(dir, "memory.usage_in_bytes")
	if used < 0 {
		return
	}
	g.memory = max(0, used-max(0, field(dir, "memory.stat", "total_inactive_file")))
	if l := number(dir, "memory.limit_in_bytes"); l > 0 && l < unlimited {
		g.memoryLimit = l
	}
}

func text(dir, file string) string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number reads a file of one number; -1 where it is not there or holds a word.
func number(dir, file string) float64 {
	n, err := strconv.ParseFloat(text(dir, file), 64)
	if err != nil {
		return -1
	}
	return n
}

// field reads one line of a file of names and numbers; -1 where it is not there.
func field(dir, file, name string) float64 {
	for line := range strings.Lines(text(dir, file)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			if n, err := strconv.ParseFloat(f[1], 64); err == nil {
				return n
			}
		}
	}
	return -1
}
