//go:build linux

package hosts

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchies is where this machine's cgroups are mounted.
type hierarchies struct {
	v1 []string // none on a machine with cgroup v2 alone
	v2 string   // its folder also where v1 has all the controllers: freezing and finding processes go through it
}

// wanted are the controllers of cgroup v2 that limits inside a host need; those of more that are there are passed on as well.
var wanted = []string{"cpu", "memory", "pids"}

// findHierarchies reads what is mounted. Its error says what a machine lacks.
func findHierarchies() (hierarchies, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return hierarchies{}, err
	}
	defer f.Close()
	var h hierarchies
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		place, kind, ok := strings.Cut(sc.Text(), " - ")
		words := strings.Fields(place)
		if !ok || len(words) < 5 || !strings.HasPrefix(words[4], "/sys/fs/cgroup") {
			continue
		}
		switch kind, _, _ := strings.Cut(kind, " "); kind {
		case "cgroup":
			h.v1 = append(h.v1, words[4])
		case "cgroup2":
			h.v2 = words[4]
		}
	}
	switch {
	case sc.Err() != nil:
		return h, sc.Err()
	case h.v2 == "":
		return h, errors.New("no cgroup v2 is mounted under /sys/fs/cgroup, not even beside v1: a host could not be frozen, nor its processes found")
	case len(h.v1) == 0:
		return h, h.enable(h.v2, wanted)
	}
	for _, need := range []string{"cpu", "memory", "pids", "systemd"} {
		if !slices.ContainsFunc(h.v1, func(path string) bool { return slices.Contains(strings.Split(filepath.Base(path), ","), need) }) {
			return h, fmt.Errorf("cgroup v1 has no hierarchy %q under /sys/fs/cgroup: limits inside a host would be void without a word", need)
		}
	}
	return h, nil
}

// enable passes the controllers of a v2 group on to its children: those that must be, and the others that can.
func (h hierarchies) enable(group string, must []string) error {
	b, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	there := strings.Fields(string(b))
	for _, c := range must {
		if !slices.Contains(there, c) {
			return fmt.Errorf("the cgroup v2 at %s does not have the controller %q (it has %q): limits inside a host would be void without a word", group, c, there)
		}
	}
	for _, c := range there {
		err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+c), 0)
		if err != nil && slices.Contains(must, c) {
			return fmt.Errorf("pass the controller %q of %s on to a host (EBUSY: this is a container whose own processes are in its top group): %w", c, group, err)
		}
	}
	return nil
}

// each calls f for a group of that name in every hierarchy.
func (h hierarchies) each(group string, f func(path string) error) error {
	var errs []error
	for _, root := range append(slices.Clone(h.v1), h.v2) {
		errs = append(errs, f(filepath.Join(root, group)))
	}
	return errors.Join(errs...)
}

// paths are the folders of a group in every hierarchy.
func (h hierarchies) paths(group string) (out []string) {
	_ = h.each(group, func(path string) error { out = append(out, path); return nil })
	return out
}

// make makes a group in every hierarchy, below one that was made before, and makes it fit to hold processes.
func (h hierarchies) make(group string) error {
	return h.each(group, func(path string) error {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if len(h.v1) == 0 {
			return nil
		}
		// A v1 cpuset begins with no processor and no memory, and then takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			above, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
			if errors.Is(err, fs.ErrNotExist) {
				break // another hierarchy
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(path, file), above, 0)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// remove removes a group in every hierarchy, with what the systemd of a host made in it. Processes on their way out hold a
// group for a moment. No such group is no error.
func (h hierarchies) remove(group string) error {
	late := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := h.each(group, removeTree)
		if err == nil || !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		}
	}
}

func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("rmdir %s: %w", path, err)
	}
	return nil
}

// freeze stops every process of a group where it stands, or lets them go on, and returns when that is so.
func (h hierarchies) freeze(group string, frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	dir := filepath.Join(h.v2, group)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
		return err
	}
	return until(10*time.Second, "the group's processes are as frozen as asked", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		return strings.Contains(string(b), "frozen "+value+"\n"), err
	})
}

// pids are the processes of a group and those below it, as this process sees them.
func (h hierarchies) pids(group string) (pids []int, err error) {
	err = filepath.WalkDir(filepath.Join(h.v2, group), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // the group went away under us
			return nil
		}
		for _, word := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// init is the first process of the host that runs in a group: it is number 1 in the innermost PID namespace, and so was
// systemd-nspawn not. Zero means that there is none.
func (h hierarchies) init(group string) (int, error) {
	pids, err := h.pids(group)
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // gone
		}
		for line := range strings.Lines(string(b)) {
			if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok && strings.HasSuffix(strings.TrimSpace(numbers), "\t1") {
				return pid, nil
			}
		}
	}
	return 0, err
}

// until asks f until it says yes.
func until(within time.Duration, what string, f func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(within)
	for {
		yes, err := f()
		if yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("after %s still not: %s", within, what)
		}
	}
}
