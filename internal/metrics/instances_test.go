package metrics

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestInstances(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a machine that runs services is Linux or macOS")
	}
	db := open(t, Options{})
	stop := db.Source("instances", time.Hour, Instances(func(context.Context) ([]Instance, error) {
		return []Instance{
			{Service: "me", Environment: "test", Release: 3, Instance: 1, PID: os.Getpid(), Ready: true, Restarts: 2},
			{Service: "gone", Environment: "test", Release: 3, Instance: 1},
		}, nil
	}))
	defer stop()
	eventually(t, "the first round", func() bool { return len(now(t, db, InstanceUp, "service")) == 2 })
	up, restarts := now(t, db, InstanceUp, "service"), now(t, db, InstanceRestarts+`{release="3",instance="1",environment="test"}`, "service")
	if up["me"] != 1 || up["gone"] != 0 || restarts["me"] != 2 {
		t.Errorf("up %v, restarts %v", up, restarts)
	}
	for name, least := range map[string]float64{InstanceMemory: 1 << 20, InstanceThreads: 2} {
		if got := now(t, db, name, "service"); got["me"] < least || len(got) != 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
	if runtime.GOOS == "linux" {
		if got := now(t, db, InstanceFiles, "service"); got["me"] < 3 {
			t.Errorf("open files: %v", got)
		}
	}
}

// TestCgroups reads a tree of files as the kernel writes them.
func TestCgroups(t *testing.T) {
	top := t.TempDir()
	file := func(path, content string) {
		t.Helper()
		path = filepath.Join(top, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, path, content)
	}
	m := cgroupMounts{proc: filepath.Join(top, "proc"), dirs: map[string]mount{}}
	m.parse("30 1 0:1 / " + top + "/mem rw - cgroup cgroup rw,memory\n" +
		"31 1 0:1 /box " + top + "/cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 1 0:1 / " + top + "/two rw - cgroup2 cgroup2 rw\n")
	file("proc/self/cgroup", "3:memory:/agent\n2:cpu,cpuacct:/box\n0::/agent\n")
	file("proc/1/cgroup", "3:memory:/fairlead/shop-1\n2:cpu,cpuacct:/box/fairlead/shop-1\n0::/agent\n")
	file("proc/2/cgroup", "3:memory:/agent\n2:cpu,cpuacct:/box\n0::/fairlead/shop-2\n")
	file("proc/3/cgroup", "3:memory:/agent\n2:cpu,cpuacct:/elsewhere/x\n0::/\n")
	file("mem/fairlead/shop-1/memory.usage_in_bytes", "1000\n")
	file("mem/fairlead/shop-1/memory.limit_in_bytes", "4096\n")
	file("mem/fairlead/shop-1/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n")
	file("mem/agent/memory.usage_in_bytes", "77\n")
	file("cpu/fairlead/shop-1/cpuacct.usage", "2500000000\n")
	file("cpu/fairlead/shop-1/cpu.cfs_quota_us", "150000\n")
	file("cpu/fairlead/shop-1/cpu.cfs_period_us", "100000\n")
	file("cpu/fairlead/shop-1/cpu.stat", "nr_periods 5\nthrottled_time 500000000\n")
	file("two/fairlead/shop-2/memory.current", "2000\n")
	file("two/fairlead/shop-2/memory.max", "max\n")
	file("two/fairlead/shop-2/memory.stat", "anon 5\ninactive_file 500\n")
	file("two/fairlead/shop-2/cpu.stat", "usage_usec 3000000\nthrottled_usec 250000\n")
	file("two/fairlead/shop-2/cpu.max", "50000 100000\n")
	m.own = m.groups("self")
	for pid, want := range map[int]group{
		1: {memory: 700, memoryLimit: 4096, cpu: 2.5, cpuLimit: 1.5, throttled: 0.5},
		2: {memory: 1500, cpu: 3, cpuLimit: 0.5, throttled: 0.25},
		3: {memory: -1, cpu: -1}, // the agent's group, one outside of what is mounted, and the top
		4: {memory: -1, cpu: -1}, // ended
	} {
		if got := m.of(pid); got != want {
			t.Errorf("process %d: %+v, want %+v", pid, got, want)
		}
	}
	file("mem/fairlead/shop-1/memory.limit_in_bytes", "9223372036854771712\n")
	if got := m.of(1); got.memoryLimit != 0 {
		t.Errorf("no limit reads as %v", got.memoryLimit)
	}
}

func TestDisks(t *testing.T) {
	db := open(t, Options{})
	dir := t.TempDir()
	s := &source{db: db, series: map[string]*series{}}
	if err := s.once(t.Context(), time.Second, Disks(dir, filepath.Join(dir, "none"))); err != nil {
		t.Fatal(err)
	}
	used, free := now(t, db, DiskUsed, "path"), now(t, db, DiskFree, "path")
	if len(used) != 1 || used[dir] <= 0 || used[dir] > 1 || free[dir] <= 0 {
		t.Errorf("used %v, free %v", used, free)
	}
	if err := s.once(t.Context(), time.Second, Disks(filepath.Join(dir, "none"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing that can be asked: %v", err)
	}
}
