// Package bench measures fairlead beside its peers, in the same run and as ratios of medians: absolute times depend on the
// machine, ratios hold. It asserts nothing; `make bench` prints it.
package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const rounds = 7

// server is the smallest service: what is measured is the supervisor, not the service.
const server = `package main

import (
	"net"
	"net/http"
	"os"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		os.Exit(1)
	}
	http.Serve(l, nil)
}
`

// service writes the server with its module and its spec.
func service(b *testing.B) (dir, bin string) {
	b.Helper()
	dir = b.TempDir()
	for name, text := range map[string]string{
		"main.go": server, "go.mod": "module server\n\ngo 1.26\n",
		"fairlead.yaml": "service: server\nrun:\n  probes:\n    ready: {tcp: true, interval: 1s}\nrelease: {watch: 0s}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	bin = filepath.Join(dir, "server")
	if _, err := rig.Command(b, dir, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "."); err != nil {
		b.Fatal(err)
	}
	return dir, bin
}

// outage kills the process that listens on addr and returns how long nobody took a connection there.
func outage(b *testing.B, addr string, pid int) time.Duration {
	b.Helper()
	begun := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	for down := false; ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			if down {
				return time.Since(begun)
			}
		}
		down = down || err != nil // until then it is the dying process's socket that takes the connection
		if time.Since(begun) > 20*time.Second {
			b.Fatalf("%s did not go and come back", addr)
		}
	}
}

// listener returns the process that listens on addr, 0 while there is none.
func listener(b *testing.B, addr string) int {
	b.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command("ss", "-Hltnp", "sport = :"+port).Output()
	if err != nil {
		b.Fatalf("ss of Debian's iproute2 is needed: %v", err)
	}
	_, rest, ok := strings.Cut(string(out), "pid=")
	if !ok {
		return 0
	}
	num, _, _ := strings.Cut(rest, ",")
	pid, err := strconv.Atoi(num)
	if err != nil {
		b.Fatal(err)
	}
	return pid
}

func await(b *testing.B, addr string) int {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if pid := listener(b, addr); pid != 0 {
			return pid
		}
	}
	b.Fatalf("nothing listens on %s", addr)
	return 0
}

// median of the outages over the rounds. Between two kills the service lives long enough that each is a first restart.
func median(b *testing.B, addr string, pause time.Duration) time.Duration {
	b.Helper()
	var all []time.Duration
	for range rounds {
		pid := await(b, addr)
		t := time.NewTimer(pause)
		<-t.C
		all = append(all, outage(b, addr, pid))
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all[len(all)/2]
}

// rss returns a process's resident memory in megabytes.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if kb, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return n / 1024
		}
	}
	b.Fatalf("no memory in the status of %d", pid)
	return 0
}

// spawn starts a peer in a group of its own, which is ended whole.
func spawn(b *testing.B, env []string, name string, args ...string) int {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// stable is longer than fairlead's memory for deaths in a row, so that every kill is a first one.
const stable = 10500 * time.Millisecond

// BenchmarkRestart measures the time from kill -9 of an instance to its port answering again, beside a bare shell loop,
// which is the limit (fork, exec, listen), and supervisord.
func BenchmarkRestart(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("it reads /proc")
	}
	dir, bin := service(b)
	m := rig.NewMachine(b)
	m.Up(b, dir)
	for range b.N {
		port := fairleadPort(b, m)
		ours := median(b, "127.0.0.1:"+port, stable)
		b.ReportMetric(ours.Seconds()*1e3, "fairlead-ms")
		b.ReportMetric(rss(b, m.PID(b, "supervisor")), "fairlead-supervisor-MB")

		spawn(b, []string{"PORT=28911"}, "/bin/sh", "-c", "while :; do "+bin+"; done")
		loop := median(b, "127.0.0.1:28911", 200*time.Millisecond)
		b.ReportMetric(loop.Seconds()*1e3, "shell-loop-ms")
		b.ReportMetric(float64(ours)/float64(loop), "ratio-to-shell-loop")

		if _, err := exec.LookPath("supervisord"); err != nil {
			b.Log("supervisord is not installed (Debian's package supervisor): left out")
			continue
		}
		pid := spawn(b, nil, "supervisord", "-n", "-c", supervisordConf(b, bin))
		theirs := median(b, "127.0.0.1:28912", 1500*time.Millisecond)
		b.ReportMetric(theirs.Seconds()*1e3, "supervisord-ms")
		b.ReportMetric(rss(b, pid), "supervisord-MB")
	}
}

func supervisordConf(b *testing.B, bin string) string {
	b.Helper()
	dir := b.TempDir()
	text := fmt.Sprintf("[supervisord]\nlogfile=%[1]s/log\npidfile=%[1]s/pid\nchildlogdir=%[1]s\nminfds=1024\n[program:server]\ncommand=%[2]s\nenvironment=PORT=\"28912\"\nautorestart=true\nstartsecs=0\n", dir, bin)
	path := filepath.Join(dir, "conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	return path
}
