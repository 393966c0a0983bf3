package preflight

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// group is where this process stands in one cgroup hierarchy.
type group struct {
	v2    bool
	dir   string
	mount string // the top of what can be seen
}

// groups holds a group for each controller that limits are made with.
type groups map[string]group

var controllers = []string{"cpu", "memory", "pids"}

// findGroups joins the texts of /proc/self/cgroup and /proc/self/mountinfo. A controller belongs to its own version 1
// hierarchy where it is mounted, otherwise to the one of version 2 if that offers it.
func findGroups(cgroup, mountinfo string) groups {
	paths := map[string]string{} // by controller; "" is version 2
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for name := range strings.SplitSeq(f[1], ",") {
			paths[name] = f[2]
		}
	}
	out := groups{}
	var second group
	for line := range strings.Lines(mountinfo) {
		kind, options, root, mount, ok := parseMount(line)
		switch {
		case ok && kind == "cgroup2":
			second = group{true, below(mount, root, paths[""]), mount}
		case ok && kind == "cgroup":
			for _, c := range controllers {
				if path, in := paths[c]; in && slices.Contains(options, c) {
					out[c] = group{false, below(mount, root, path), mount}
				}
			}
		}
	}
	if second.dir == "" {
		return out
	}
	offered := strings.Fields(readText(filepath.Join(second.dir, "cgroup.controllers")))
	for _, c := range controllers {
		if _, first := out[c]; !first && slices.Contains(offered, c) {
			out[c] = second
		}
	}
	return out
}

// parseMount takes apart "36 35 98:0 /root /mnt opts [fields] - cgroup source memory,rw" (proc_pid_mountinfo(5)).
func parseMount(line string) (kind string, options []string, root, mount string, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 3 {
		return "", nil, "", "", false
	}
	return r[0], strings.Split(r[2], ","), l[3], l[4], true
}

// below is the folder of a cgroup path. Inside a container the path may be the host's, of which only the part under
// the mount's root can be seen.
func below(mount, root, path string) string {
	rel, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(rel) {
		return mount
	}
	return filepath.Join(mount, rel)
}

// up calls f for the group's folder and those above it: a limit on any of them holds.
func (g group) up(f func(dir string)) {
	for dir := g.dir; ; dir = filepath.Dir(dir) {
		f(dir)
		if dir == g.mount || dir == filepath.Dir(dir) {
			return
		}
	}
}

// memory returns the tightest limit and what is left; ok is false where there is no limit.
func (gs groups) memory() (total, free int64, ok bool) {
	g, there := gs["memory"]
	if !there {
		return 0, 0, false
	}
	limitFile, useFile, cacheKey := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
	if g.v2 {
		limitFile, useFile, cacheKey = "memory.max", "memory.current", "inactive_file"
	}
	g.up(func(dir string) {
		limit, limited := number(filepath.Join(dir, limitFile))
		used, known := number(filepath.Join(dir, useFile))
		if !limited || !known || limit >= 1<<60 { // version 1 writes "none" as a huge number
			return
		}
		// Cached files are given back when memory is asked for.
		left := max(limit-used+statField(filepath.Join(dir, "memory.stat"), cacheKey), 0)
		if !ok || limit < total {
			total = limit
		}
		if !ok || left < free {
			free = left
		}
		ok = true
	})
	return total, free, ok
}

// quota returns the tightest share of processor time in cores, 0 where there is none.
func (gs groups) quota() float64 {
	g, there := gs["cpu"]
	if !there {
		return 0
	}
	least := 0.0
	g.up(func(dir string) {
		var q, p string
		if g.v2 {
			q, p, _ = strings.Cut(strings.TrimSpace(readText(filepath.Join(dir, "cpu.max"))), " ")
		} else {
			q = strings.TrimSpace(readText(filepath.Join(dir, "cpu.cfs_quota_us")))
			p = strings.TrimSpace(readText(filepath.Join(dir, "cpu.cfs_period_us")))
		}
		quota, err1 := strconv.ParseFloat(q, 64)
		period, err2 := strconv.ParseFloat(p, 64)
		if err1 != nil || err2 != nil || quota <= 0 || period <= 0 {
			return // "max", -1, or no such file at the top
		}
		if least == 0 || quota/period < least {
			least = quota / period
		}
	})
	return least
}

// usable tells for each controller that is there whether this process may make groups, and why not.
func (gs groups) usable() map[string]string {
	out := map[string]string{}
	for c, g := range gs {
		out[c] = ""
		if err := unix.Access(g.dir, unix.W_OK|unix.X_OK); err != nil {
			out[c] = fmt.Sprintf("%s: %v", g.dir, err)
		}
	}
	return out
}

func number(path string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(readText(path)), 10, 64)
	return n, err == nil && n >= 0
}

func statField(path, key string) int64 {
	for line := range strings.Lines(readText(path)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}
