package preflight

import (
	"fmt"
	"path/filepath"
	"testing"
)

func TestParseMeminfo(t *testing.T) {
	for _, c := range []struct {
		text        string
		total, free int64
	}{
		{"MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n", 2 << 20, 1 << 20},
		{"MemTotal:  2048 kB\n", 2 << 20, -1},
		{"MemTotal: lots kB\nMemAvailable: -1 kB\nMemAvailable: 1 MB\n", 0, -1},
		{"\x00\xff", 0, -1},
		{"", 0, -1},
	} {
		if total, free := parseMeminfo(c.text); total != c.total || free != c.free {
			t.Errorf("%q: %d %d", c.text, total, free)
		}
	}
}

func mountLine(root, mount, kind, options string) string {
	return fmt.Sprintf("36 35 98:0 %s %s rw,nosuid shared:1 - %s cgroup %s\n", root, mount, kind, options)
}

func TestVersionTwo(t *testing.T) {
	top := write(t, map[string]string{
		"cgroup.controllers": "cpu memory", "app/cgroup.controllers": "cpu io memory\n",
		"app/cpu.max": "max 100000\n", "cpu.max": "150000 100000\n",
		"app/memory.max": "1000000\n", "app/memory.current": "700000\n", "app/memory.stat": "anon 5\ninactive_file 100000\n",
		"memory.max": "max\n",
	})
	g := findGroups("0::/app\n", mountLine("/", top, "cgroup2", "rw"))
	if q := g.quota(); q != 1.5 {
		t.Errorf("quota %v: the parent's holds too", q)
	}
	if total, free, ok := g.memory(); total != 1000000 || free != 400000 || !ok {
		t.Errorf("memory %d %d %v", total, free, ok)
	}
	if u := g.usable(); len(u) != 2 || u["cpu"] != "" || u["memory"] != "" {
		t.Errorf("%v", u)
	}
}

func TestVersionOne(t *testing.T) {
	top := write(t, map[string]string{
		"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
		"mem/memory.limit_in_bytes": "4096000\n", "mem/memory.usage_in_bytes": "5000000\n", "mem/memory.stat": "total_inactive_file 1\n",
		"two/cgroup.controllers": "pids cpu\n",
	})
	g := findGroups("4:memory:/docker/abc\n2:cpu,cpuacct:/x\n0::/\nrubbish\n",
		mountLine("/", filepath.Join(top, "cpu"), "cgroup", "rw,cpu,cpuacct")+
			mountLine("/docker/abc", filepath.Join(top, "mem"), "cgroup", "rw,memory")+
			mountLine("/", filepath.Join(top, "two"), "cgroup2", "rw")+"garbage\n1 2 - 3\n")
	if q := g.quota(); q != 2 {
		t.Errorf("quota %v", q)
	}
	if total, free, ok := g.memory(); total != 4096000 || free != 0 || !ok {
		t.Errorf("memory %d %d %v", total, free, ok)
	}
	if g["cpu"].v2 || !g["pids"].v2 {
		t.Errorf("%+v", g)
	}
}

func TestNoLimit(t *testing.T) {
	top := write(t, map[string]string{"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "5\n"})
	g := findGroups("4:memory:/\n", mountLine("/", top, "cgroup", "rw,memory"))
	if _, _, ok := g.memory(); ok {
		t.Error("version 1's huge number is no limit")
	}
	for _, g := range []groups{findGroups("", ""), findGroups("0::/gone\n", mountLine("/", filepath.Join(top, "gone"), "cgroup2", "rw"))} {
		if _, _, ok := g.memory(); ok || g.quota() != 0 || len(g.usable()) != 0 {
			t.Errorf("%+v", g)
		}
	}
	g = groups{"cpu": {true, filepath.Join(top, "gone"), top}}
	if g.usable()["cpu"] == "" {
		t.Error("a folder that is not there is usable")
	}
}

func TestBelow(t *testing.T) {
	for _, c := range [][4]string{
		{"/m", "/", "/a/b", "/m/a/b"}, {"/m", "/docker/x", "/docker/x", "/m"}, {"/m", "/docker/x", "/docker/x/y", "/m/y"},
		{"/m", "/docker/x", "/other", "/m"}, {"/m", "/..", "/", "/m"}, {"/m", "/", "", "/m"},
	} {
		if got := below(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%v: %s", c, got)
		}
	}
}
