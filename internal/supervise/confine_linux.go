package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// cgroups confines with control groups, version 1 or 2 (cgroups(7)), one fresh group for each start.
type cgroups struct {
	top  string            // where the unified hierarchy is mounted, "" where it is not
	v2   string            // our own folder in it, "" where it has no controllers for us
	v1   map[string]string // controller -> our own folder in its hierarchy
	why  map[string]string // controller -> why it cannot be used
	seed string
	next atomic.Uint64
}

const cgroupName = "fairlead"

var controllers = []string{"memory", "cpu", "pids"}

// newConfiner finds the hierarchies this process may use.
func newConfiner() confiner {
	c := &cgroups{v1: map[string]string{}, why: map[string]string{}, seed: strconv.FormatInt(time.Now().UnixMilli(), 36)}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return without{"/proc/self/mountinfo: " + err.Error()}
	}
	v2mount, v1mounts := parseMounts(string(mounts))
	if c.top = v2mount; v2mount != "" {
		c.tryV2(v2mount)
	}
	if c.v2 != "" {
		return c
	}
	for _, ctl := range controllers {
		mount, ok := v1mounts[ctl]
		if !ok {
			if c.why[ctl] == "" {
				c.why[ctl] = "this kernel offers no " + ctl + " control group here"
			}
			continue
		}
		dir := filepath.Join(mount, cgroupName)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			c.why[ctl] = "no right to make control groups (" + err.Error() + "): run the agent as root"
			continue
		}
		c.v1[ctl] = dir
	}
	return c
}

// parseMounts finds the cgroup mounts in /proc/self/mountinfo (proc(5)): the unified one and the v1 one of each controller.
func parseMounts(info string) (v2 string, v1 map[string]string) {
	v1 = map[string]string{}
	for line := range strings.Lines(info) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			v2 = l[4]
		case "cgroup":
			for _, ctl := range strings.Split(r[2], ",") {
				v1[ctl] = l[4]
			}
		}
	}
	return v2, v1
}

// tryV2 makes our folder below the mount's root or, without root, below the group we were put in (systemd delegates it).
func (c *cgroups) tryV2(mount string) {
	have, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if err != nil || !strings.Contains(string(have), "memory") {
		return // a hybrid machine: its controllers are in version 1
	}
	base := mount
	if os.Geteuid() != 0 {
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return
		}
		_, path, _ := strings.Cut(strings.TrimSpace(string(own)), "0::")
		base = filepath.Dir(filepath.Join(mount, path))
	}
	dir := filepath.Join(base, cgroupName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		for _, ctl := range controllers {
			c.why[ctl] = "no right to make control groups (" + err.Error() + "): run the agent as root or under `systemd --user` with delegation"
		}
		return
	}
	for _, d := range []string{base, dir} {
		for _, ctl := range controllers {
			if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+ctl), 0); err != nil && d == dir {
				c.why[ctl] = "the " + ctl + " controller is not delegated to us: " + err.Error()
			}
		}
	}
	c.v2 = dir
}

func (c *cgroups) make(name string, l spec.Limits) (groups, missing []string) {
	name = fmt.Sprintf("%s-%s%d", name, c.seed, c.next.Add(1))
	period := 100 * time.Millisecond
	quota := strconv.FormatInt(int64(l.CPU)*period.Microseconds()/1000, 10)
	limits := []struct {
		ctl, v1, v2, value, valueV2 string
		set                         bool
	}{
		{"memory", "memory.limit_in_bytes", "memory.max", strconv.FormatInt(int64(l.Memory), 10), "", l.Memory > 0},
		{"cpu", "cpu.cfs_quota_us", "cpu.max", quota, quota + " " + strconv.FormatInt(period.Microseconds(), 10), l.CPU > 0},
		{"pids", "pids.max", "pids.max", strconv.Itoa(l.Pids), "", l.Pids > 0},
	}
	for _, x := range limits {
		if !x.set {
			continue
		}
		if why := c.why[x.ctl]; why != "" {
			missing = append(missing, x.ctl+": "+why)
			continue
		}
		dir, file, value := filepath.Join(c.v1[x.ctl], name), x.v1, x.value
		if c.v2 != "" {
			dir, file = filepath.Join(c.v2, name), x.v2
			if x.valueV2 != "" {
				value = x.valueV2
			}
		}
		if err := limit(dir, file, value); err != nil {
			missing = append(missing, x.ctl+": "+err.Error())
			continue
		}
		if !slices.Contains(groups, dir) {
			groups = append(groups, dir)
		}
	}
	return groups, missing
}

// unified implements [confiner]. A process is in one group of the unified hierarchy only, so where that limits it, it is this one.
func (c *cgroups) unified(groups []string) (string, error) {
	base := c.v2
	if base != "" {
		for _, g := range groups {
			if filepath.Dir(g) == base {
				return g, nil
			}
		}
	} else if base = filepath.Join(c.top, cgroupName); c.top == "" {
		return "", errors.New("no version 2 of the control groups is mounted")
	}
	dir := filepath.Join(base, fmt.Sprintf("port-%s%d", c.seed, c.next.Add(1)))
	return dir, os.MkdirAll(dir, 0o755)
}

// limit makes the group, writes the limit and reads back that it is in force.
func limit(dir, file, value string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return err
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// The kernel rounds memory down to whole pages.
	if g := strings.TrimSpace(string(got)); g != value {
		w, e1 := strconv.ParseInt(value, 10, 64)
		n, e2 := strconv.ParseInt(g, 10, 64)
		if e1 != nil || e2 != nil || n > w || w-n > int64(os.Getpagesize()) {
			return fmt.Errorf("%s reads %s after %s was written", path, g, value)
		}
	}
	if file == "memory.limit_in_bytes" {
		// Without this a process over its limit is swapped out and lives on, slow. Not every kernel counts swap.
		os.WriteFile(filepath.Join(dir, "memory.swappiness"), []byte("0"), 0)
	}
	if file == "memory.max" {
		os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0)
	}
	return nil
}

func joinGroup(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

func (c *cgroups) oomKilled(groups []string) bool {
	for _, g := range groups {
		for _, file := range []string{"memory.oom_control", "memory.events"} {
			b, err := os.ReadFile(filepath.Join(g, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if len(f) == 2 && f[0] == "oom_kill" && f[1] != "0" {
					return true
				}
			}
		}
	}
	return false
}

func (c *cgroups) killAll(groups []string) {
	for _, g := range groups {
		if os.WriteFile(filepath.Join(g, "cgroup.kill"), []byte("1"), 0) == nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(g, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// remove deletes groups; the kernel refuses while something still dies in them, which the next start tries again.
func (c *cgroups) remove(groups []string) {
	for _, g := range groups {
		for range 50 {
			if err := syscall.Rmdir(g); err == nil || !errors.Is(err, syscall.EBUSY) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}
