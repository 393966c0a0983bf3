package preflight

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// What a machine must have. A Go build of a small service peaks near 256 MiB of memory and writes a few hundred MiB of
// cache the first time; under 64 MiB not even the binary and its journal entry are sure to fit.
const (
	buildMemory = 256 << 20
	wantDisk    = 512 << 20
	leastDisk   = 64 << 20
	wantInodes  = 10000
	leastInodes = 1000
	leastFiles  = 8192
)

// facts is what a machine says of itself. Zero stands for "not known" where nothing else is said.
type facts struct {
	goos      string
	cores     int
	quota     float64 // cores that the cgroup allows
	memTotal  int64   // of the machine, or of the cgroup where that is less
	memFree   int64   // that can be had now; -1 where nobody tells
	softFiles uint64
	hardFiles uint64
	procs     string            // GOMAXPROCS of the instances, or else of the caller
	groups    map[string]string // the controllers cpu, memory, pids: "" where we may make a group, else why not
}

func checkMachine(_ context.Context, r *run) []Finding {
	f := facts{goos: runtime.GOOS, cores: runtime.NumCPU(), procs: r.getenv("GOMAXPROCS")}
	if v, ok := r.Spec.Run.Env["GOMAXPROCS"]; ok {
		f.procs = v
	}
	measure(&f)
	return slices.Concat(judgeMemory(f, r.Spec), judgeCPU(f, r.Spec), judgeFiles(f, r.Spec), judgeLimits(f, r.Spec))
}

// Memory is how many bytes this machine has, or the cgroup that this process lives in where that is less; 0 when it is not
// known.
func Memory() int64 {
	var f facts
	measure(&f)
	return f.memTotal
}

func judgeMemory(f facts, s *spec.Spec) []Finding {
	free := f.memFree
	if f.memTotal == 0 {
		return nil
	}
	if free < 0 {
		free = f.memTotal
	}
	found := fmt.Sprintf("%s of %s memory available", size(free), size(f.memTotal))
	limit, n := s.Run.Limits.Memory, max(s.Run.Instances, 1)
	want := int64(limit)*int64(n) + buildMemory
	switch {
	case free < buildMemory:
		return []Finding{{ID: IDMemory, Severity: Error, Found: found, Need: size(buildMemory) + " for the build", Fix: "end other programs, or give the machine more memory"}}
	case free < want:
		return []Finding{{ID: IDMemory, Severity: Warning, Found: found,
			Need: fmt.Sprintf("%s: %d x %s for the instances and %s for the build", size(want), n, limit, size(buildMemory)),
			Fix:  "lower run.limits.memory or run.instances, or give the machine more memory"}}
	}
	return []Finding{{ID: IDMemory, Severity: OK, Found: found}}
}

func judgeCPU(f facts, s *spec.Spec) []Finding {
	cores, found := float64(f.cores), fmt.Sprintf("%d cores", f.cores)
	if f.quota > 0 && f.quota < cores {
		cores, found = f.quota, fmt.Sprintf("a cgroup quota of %.3g of %d cores", f.quota, f.cores)
	}
	var out []Finding
	n := max(s.Run.Instances, 1)
	if want := float64(s.Run.Limits.CPU) / 1000 * float64(n); want > cores {
		out = append(out, Finding{ID: IDCPU, Severity: Warning, Found: found, Need: fmt.Sprintf("%.3g cores: %d x %s", want, n, s.Run.Limits.CPU),
			Fix: "lower run.limits.cpu or run.instances"})
	}
	if procs, err := strconv.Atoi(f.procs); err == nil && procs > int(math.Ceil(cores)) {
		out = append(out, Finding{ID: IDCPU, Severity: Warning, Found: fmt.Sprintf("GOMAXPROCS=%d on %s", procs, found), Need: "no more threads than cores",
			Fix: "remove GOMAXPROCS: Go finds cores and quota by itself"})
	}
	if out == nil {
		out = []Finding{{ID: IDCPU, Severity: OK, Found: found}}
	}
	return out
}

func judgeFiles(f facts, s *spec.Spec) []Finding {
	if f.hardFiles == 0 {
		return nil
	}
	found := fmt.Sprintf("open-file limit %s, at most %s", count(f.softFiles), count(f.hardFiles))
	switch {
	case f.hardFiles < leastFiles:
		return []Finding{{ID: IDFiles, Severity: Error, Found: found, Need: fmt.Sprintf("at most %d or more", leastFiles),
			Fix: "as root, type `ulimit -Hn 65536` before fairlead, or raise nofile in /etc/security/limits.conf and log in again"}}
	case f.softFiles < leastFiles:
		return []Finding{{ID: IDFiles, Severity: Warning, Found: found, Need: fmt.Sprint(leastFiles), Fix: "type `ulimit -Sn 65536` before fairlead", Fixable: true}}
	case uint64(max(s.Run.Limits.Files, 0)) > f.hardFiles:
		return []Finding{{ID: IDFiles, Severity: Warning, Found: found, Need: fmt.Sprintf("%d for run.limits.files; instances get less", s.Run.Limits.Files),
			Fix: "lower run.limits.files, or raise nofile in /etc/security/limits.conf"}}
	}
	return []Finding{{ID: IDFiles, Severity: OK, Found: found}}
}

func count(n uint64) string {
	if n > math.MaxInt64-1 {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// judgeLimits says which limits of the spec the kernel cannot be asked to hold here.
func judgeLimits(f facts, s *spec.Spec) []Finding {
	wanted := []struct {
		name, controller string
		set              bool
	}{
		{"run.limits.memory", "memory", s.Run.Limits.Memory > 0},
		{"run.limits.cpu", "cpu", s.Run.Limits.CPU > 0},
		{"run.limits.pids", "pids", s.Run.Limits.Pids > 0},
	}
	var names, why []string
	limited := false
	for _, w := range wanted {
		limited = limited || w.set
		reason, there := f.groups[w.controller]
		if !there {
			reason = "no cgroup controller for " + w.controller
		}
		if w.set && reason != "" {
			names, why = append(names, w.name), append(why, reason)
		}
	}
	switch {
	case !limited:
		return nil
	case names == nil:
		return []Finding{{ID: IDLimits, Severity: OK, Found: "the kernel can hold the limits of every instance"}}
	}
	out := Finding{ID: IDLimits, Severity: Warning, Found: strings.Join(names, ", ") + " cannot be held by the kernel: " + strings.Join(slices.Compact(why), "; "),
		Need: "a cgroup that this user may write to", Fix: "run fairlead as root, or remove the limit"}
	if f.goos != "linux" {
		out.Found = strings.Join(names, ", ") + " cannot be held: " + f.goos + " has no cgroups"
		out.Need, out.Fix = "Linux", "remove the limit, or run on Linux; a Go program keeps to GOMEMLIMIT by itself"
	}
	return []Finding{out}
}

// clock is what can be said of the machine's time.
type clock struct {
	now      time.Time
	jump     time.Duration // by how much the wall clock moved against the monotonic one during the checks
	unsynced bool          // the kernel says that nothing keeps the clock right
	maxError time.Duration // the kernel's own estimate
}

// readClock compares both clocks since start; subtracting Times that carry both uses the monotonic one.
func readClock(start time.Time) clock {
	now := time.Now()
	c := clock{now: now, jump: now.Round(0).Sub(start.Round(0)) - now.Sub(start)}
	c.unsynced, c.maxError = kernelClock()
	return c
}

func judgeClock(c clock) Finding {
	const (
		firstYear, lastYear = 2025, 2100 // this program is not older, and nobody's certificate is valid longer
		jump                = 200 * time.Millisecond
	)
	date := c.now.UTC().Format(time.DateTime) + " UTC"
	switch {
	case c.now.Year() < firstYear || c.now.Year() > lastYear:
		return Finding{ID: IDClock, Severity: Error, Found: "the clock says " + date, Need: "the real time: certificates, logs and history depend on it",
			Fix: "set it: `sudo date -s 'YYYY-MM-DD hh:mm:ss'`"}
	case c.jump.Abs() > jump:
		return Finding{ID: IDClock, Severity: Warning, Found: fmt.Sprintf("the clock moved by %s during the checks", c.jump.Round(time.Millisecond)),
			Need: "a steady clock", Fix: "let one time service keep it"}
	case c.unsynced:
		return Finding{ID: IDClock, Severity: Info, Found: fmt.Sprintf("the clock says %s; nothing keeps it right (error up to %s)", date, c.maxError.Round(time.Millisecond)),
			Fix: "start a time service, as chrony or systemd-timesyncd"}
	}
	return Finding{ID: IDClock, Severity: OK, Found: "the clock says " + date}
}
