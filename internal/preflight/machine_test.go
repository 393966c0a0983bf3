package preflight

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

func limits(n int, l spec.Limits) *spec.Spec {
	return &spec.Spec{Run: spec.Run{Instances: n, Limits: l}}
}

func TestMemory(t *testing.T) {
	const gib = 1 << 30
	two := limits(2, spec.Limits{Memory: gib})
	expect(t, one(t, judgeMemory(facts{memTotal: 8 * gib, memFree: 4 * gib}, two)), OK, "4.0 GiB of 8.0 GiB")
	expect(t, one(t, judgeMemory(facts{memTotal: 8 * gib, memFree: 2 * gib}, two)), Warning, "2.2 GiB: 2 x 1GiB", "256 MiB for the build")
	expect(t, one(t, judgeMemory(facts{memTotal: 8 * gib, memFree: 100 << 20}, two)), Error, "100 MiB of 8.0 GiB")
	expect(t, one(t, judgeMemory(facts{memTotal: 8 * gib, memFree: 0}, two)), Error, "0 MiB")
	expect(t, one(t, judgeMemory(facts{memTotal: 8 * gib, memFree: -1}, two)), OK, "8.0 GiB of 8.0 GiB")
	expect(t, one(t, judgeMemory(facts{memTotal: gib, memFree: gib / 2}, &spec.Spec{})), OK)
	if fs := judgeMemory(facts{memFree: -1}, two); fs != nil {
		t.Errorf("unknown: %v", fs)
	}
}

func TestCPU(t *testing.T) {
	three := limits(2, spec.Limits{CPU: 1500})
	expect(t, one(t, judgeCPU(facts{cores: 4}, three)), OK, "4 cores")
	expect(t, one(t, judgeCPU(facts{cores: 2}, three)), Warning, "2 cores", "3 cores: 2 x 1.5")
	expect(t, one(t, judgeCPU(facts{cores: 8, quota: 1.5}, three)), Warning, "quota of 1.5 of 8 cores")
	expect(t, one(t, judgeCPU(facts{cores: 8, quota: 16}, three)), OK, "8 cores")
	expect(t, one(t, judgeCPU(facts{cores: 4, procs: "16"}, &spec.Spec{})), Warning, "GOMAXPROCS=16 on 4 cores")
	expect(t, one(t, judgeCPU(facts{cores: 4, quota: 1.5, procs: "2"}, &spec.Spec{})), OK)
	expect(t, one(t, judgeCPU(facts{cores: 4, procs: "many"}, &spec.Spec{})), OK)
}

func TestFiles(t *testing.T) {
	s := limits(1, spec.Limits{Files: 65536})
	expect(t, one(t, judgeFiles(facts{softFiles: 65536, hardFiles: math.MaxUint64}, s)), OK, "at most unlimited")
	expect(t, one(t, judgeFiles(facts{softFiles: 1024, hardFiles: 1 << 20}, s)), Warning, "limit 1024, at most 1048576", "ulimit -Sn")
	expect(t, one(t, judgeFiles(facts{softFiles: 1024, hardFiles: 4096}, s)), Error, "at most 4096", "8192")
	expect(t, one(t, judgeFiles(facts{softFiles: 20000, hardFiles: 20000}, s)), Warning, "65536")
	if !one(t, judgeFiles(facts{softFiles: 1024, hardFiles: 1 << 20}, s)).Fixable {
		t.Error("not fixable")
	}
	if fs := judgeFiles(facts{}, s); fs != nil {
		t.Errorf("unknown: %v", fs)
	}
}

func TestLimits(t *testing.T) {
	all := limits(1, spec.Limits{Memory: 1, CPU: 1, Pids: 1})
	good := map[string]string{"cpu": "", "memory": "", "pids": ""}
	if fs := judgeLimits(facts{goos: "linux"}, &spec.Spec{}); fs != nil {
		t.Errorf("none set: %v", fs)
	}
	expect(t, one(t, judgeLimits(facts{goos: "linux", groups: good}, all)), OK)
	denied := map[string]string{"cpu": "/g: permission denied", "memory": "/g: permission denied"}
	expect(t, one(t, judgeLimits(facts{goos: "linux", groups: denied}, all)), Warning,
		"run.limits.memory, run.limits.cpu, run.limits.pids", "/g: permission denied; no cgroup controller for pids")
	expect(t, one(t, judgeLimits(facts{goos: "darwin"}, limits(1, spec.Limits{CPU: 1}))), Warning, "darwin has no cgroups", "run.limits.cpu")
}

func TestClock(t *testing.T) {
	day := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	expect(t, judgeClock(clock{now: day}), OK, "2027-03-01 12:00:00 UTC")
	expect(t, judgeClock(clock{now: time.Unix(0, 0)}), Error, "1970-01-01")
	expect(t, judgeClock(clock{now: day.AddDate(200, 0, 0)}), Error, "2227")
	expect(t, judgeClock(clock{now: day, jump: -3 * time.Second}), Warning, "moved by -3s")
	expect(t, judgeClock(clock{now: day, unsynced: true, maxError: 16 * time.Second}), Info, "up to 16s")
	if c := readClock(time.Now()); c.jump.Abs() > time.Second || time.Since(c.now) > time.Minute {
		t.Errorf("%+v", c)
	}
}

func TestDisk(t *testing.T) {
	expect(t, judgeDisk("state /s", volume{free: 1 << 40, inodes: -1}), OK, "1024 GiB free for state /s")
	expect(t, judgeDisk("state /s", volume{free: 100 << 20, inodes: 1 << 20}), Warning, "100 MiB free", "512 MiB")
	expect(t, judgeDisk("state /s", volume{free: 63 << 20, inodes: 1 << 20}), Error, "63 MiB free", "64 MiB")
	expect(t, judgeDisk("state /s", volume{free: 1 << 40, inodes: 9999}), Warning, "9999 inodes")
	expect(t, judgeDisk("state /s", volume{free: 100 << 20, inodes: 3}), Error, "3 inodes", "1000")
	if runtime.GOOS == "windows" {
		return
	}
	dir := t.TempDir()
	f := one(t, checkDisk([]place{{"state", filepath.Join(dir, "a", "b")}, {"build cache", dir}, {"none", ""}}))
	if want := "state " + filepath.Join(dir, "a", "b") + ", build cache " + dir; f.Found[len(f.Found)-len(want):] != want {
		t.Errorf("one file system, one finding: %+v", f)
	}
}

func TestTemp(t *testing.T) {
	dir := t.TempDir()
	expect(t, checkTemp(dir), OK, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	expect(t, checkTemp(filepath.Join(dir, "none")), Error, filepath.Join(dir, "none"), "TMPDIR")
	r := &run{Params: Params{Environ: []string{"TMPDIR=/a", "TMPDIR=/b"}}}
	if got := r.tempDir(); got != "/b" {
		t.Errorf("%q: the last one wins, as for a child process", got)
	}
}

func TestState(t *testing.T) {
	dir := write(t, map[string]string{"file": ""})
	at := func(state, sock string) *run {
		return &run{Params: Params{Dirs: home.Dirs{State: filepath.Join(dir, state), Run: filepath.Join(dir, sock)}}}
	}
	f := checkState(at("a/state", "a/run"))
	expect(t, f, Info, filepath.Join(dir, "a", "state"))
	if !f.Fixable {
		t.Error("not fixable")
	}
	expect(t, checkState(at("", "")), OK)
	expect(t, checkState(at("file/state", "")), Error, "file is not a folder", "FAIRLEAD_DIR")
	if os.Geteuid() > 0 {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir, 0o700)
		expect(t, checkState(at("x", "y")), Error, "may not write")
	}
}

// What this machine measures has to make sense.
func TestMeasure(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("services run on Linux and macOS")
	}
	var f facts
	measure(&f)
	if f.memTotal < 64<<20 || f.memFree > f.memTotal || f.hardFiles < f.softFiles || f.softFiles == 0 || f.quota < 0 {
		t.Errorf("%+v", f)
	}
}

func TestStateBehindAClosedFolder(t *testing.T) {
	base := t.TempDir()
	shut := filepath.Join(base, "shut")
	if err := os.Mkdir(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := closed(filepath.Join(shut, "not", "there")); got != shut {
		t.Fatalf("%q", got)
	}
	if got := closed("/"); got != "" {
		t.Fatalf("%q", got)
	}
}
