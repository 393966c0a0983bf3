package benchedge

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ticks a second: what /proc counts CPU time in, on every architecture that Go knows.
const ticks = 100

// process is a line of /proc/PID/stat.
type process struct {
	parent    int
	own       float64 // seconds of CPU
	buried    float64 // of children that ended and were waited for
	stillHere bool
}

func readProcess(pid int) (p process) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(text), ')') // a program's name may have spaces
	if err != nil || i < 0 {
		return p
	}
	f := strings.Fields(string(text[i+1:]))
	if len(f) < 15 {
		return p
	}
	num := func(i int) float64 {
		n, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return 0
		}
		return n
	}
	return process{int(num(1)), (num(11) + num(12)) / ticks, (num(13) + num(14)) / ticks, true}
}

// family is a process with all its descendants.
func family(b *testing.B, pid int) []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.Fatal(err)
	}
	children := map[int][]int{}
	for _, d := range dirs {
		n, err := strconv.Atoi(filepath.Base(d))
		if p := readProcess(n); err == nil && p.stillHere {
			children[p.parent] = append(children[p.parent], n)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuSeconds is what a process and its descendants used so far; 0 for pid 0, which stands for no proxy.
func cpuSeconds(b *testing.B, pid int) float64 {
	if pid == 0 {
		return 0
	}
	sum := 0.0
	for _, n := range family(b, pid) {
		p := readProcess(n)
		sum += p.own + p.buried
	}
	return sum
}

// residentMB is the memory of a process and its descendants. Pages that several of them share, as the workers of nginx do, count
// once: each process has its share (Pss).
func residentMB(b *testing.B, pid int) float64 {
	if pid == 0 {
		return 0
	}
	sum := 0.0
	for _, n := range family(b, pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(text)) {
			if kb, ok := strings.CutPrefix(line, "Pss:"); ok {
				v, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
				if err != nil {
					b.Error(err)
				}
				sum += v / 1024
			}
		}
	}
	return sum
}

// meter finds how busy the machine was with work that is not ours.
type meter struct{ others, all float64 } // seconds of CPU: of others, and those that there were

// during measures while f runs. What f starts must be waited for or live on, or it would pass for somebody else's.
func (m *meter) during(b *testing.B, f func()) {
	begun, total, own := time.Now(), machineSeconds(b), cpuSeconds(b, os.Getpid())
	f()
	m.others += machineSeconds(b) - total - (cpuSeconds(b, os.Getpid()) - own)
	m.all += time.Since(begun).Seconds() * float64(runtime.NumCPU())
}

// share is the part of the machine that others had.
func (m *meter) share() float64 {
	if m.all == 0 {
		return 0
	}
	return max(0, m.others/m.all)
}

// machineSeconds is the CPU time that all cores spent on anything.
func machineSeconds(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	sum := 0.0
	for i, f := range strings.Fields(line)[1:] {
		if v, err := strconv.ParseFloat(f, 64); err == nil && i < 8 && i != 3 && i != 4 { // not idle, not waiting for a disk
			sum += v / ticks
		}
	}
	return sum
}

// machine says what the figures were measured on.
func machine() string {
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	kernel := "unknown"
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(text)), "-") // what follows names a build, not a version
	}
	return fmt.Sprintf("%d cores (%s), Linux %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}
