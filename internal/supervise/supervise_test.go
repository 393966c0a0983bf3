//go:build unix

package supervise_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// The test binary is the service, too: with MODE set it is one.
func TestMain(m *testing.M) {
	switch os.Getenv("MODE") {
	case "":
		os.Exit(m.Run())
	case "supervisor":
		superviseForever()
	default:
		serve(os.Getenv("MODE"))
	}
}

// hoard keeps what a hungry service eats.
var hoard [][]byte

// serve is a service that behaves as its mode says.
func serve(mode string) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	switch mode {
	case "exit":
		fmt.Println("no database")
		os.Exit(7)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "hungry":
		for i := 0; ; i++ {
			b := make([]byte, 1<<20)
			for j := range b {
				b[j] = byte(i)
			}
			hoard = append(hoard, b)
		}
	}
	unready := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-unready:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
		}
	})
	mux.HandleFunc("/break", func(http.ResponseWriter, *http.Request) { close(unready) })
	mux.HandleFunc("/who", func(w http.ResponseWriter, _ *http.Request) {
		st, _ := os.ReadFile("/proc/self/status")
		var lim syscall.Rlimit
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim)
		json.NewEncoder(w).Encode(who{UID: os.Getuid(), Env: os.Environ(), Args: os.Args, Status: string(st), Files: lim.Cur, PGID: syscall.Getpgrp(), PID: os.Getpid()})
	})
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("serving")
	go http.Serve(l, mux)
	if mode == "child" {
		exec.Command("/bin/sh", "-c", "exec sleep 300").Start()
	}
	<-sig
	fmt.Println("bye")
	os.Exit(0)
}

type who struct {
	UID    int
	Env    []string
	Args   []string
	Status string
	Files  uint64
	PGID   int
	PID    int
}

// superviseForever is a supervisor in a process of its own, to be killed.
func superviseForever() {
	d := home.Dirs{State: os.Getenv("STATE"), Run: os.Getenv("RUN")}
	s, err := supervise.New(supervise.Options{Dirs: d, Log: slog.New(slog.DiscardHandler), Record: fileRecorder(d)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	l, err := home.Listen(d.Sock(home.Supervisor))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	http.Serve(l, s.Handler())
}

// fileRecorder keeps what instances print in a file each, over several supervisors.
func fileRecorder(d home.Dirs) func(supervise.Instance, supervise.Program, []string) (supervise.Recorder, error) {
	return func(i supervise.Instance, _ supervise.Program, _ []string) (supervise.Recorder, error) {
		f, err := os.OpenFile(filepath.Join(d.Logs(), fmt.Sprintf("%d.%d", i.Release, i.Number)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		return &recorder{f: f}, err
	}
}

type recorder struct {
	mu sync.Mutex
	f  *os.File
}

func (r *recorder) Write(_ string, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.f.Write(p)
}

func (r *recorder) Note(level, text string) { r.Write("", []byte(level+" "+text+"\n")) }
func (r *recorder) Close() error            { return r.f.Close() }

// machine makes folders that a service's own user can walk through.
func machine(t *testing.T) (home.Dirs, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(d.State, "services", "program")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, b, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(d.State, "services", "data")
	if err := os.MkdirAll(filepath.Join(data, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		for _, p := range []string{data, filepath.Join(data, "tmp")} {
			if err := os.Chown(p, 71234, 71234); err != nil {
				t.Fatal(err)
			}
		}
	}
	return d, bin
}

func program(d home.Dirs, bin, mode string) supervise.Program {
	second := spec.Duration(time.Second)
	return supervise.Program{Service: "svc", Environment: "default", Release: 1, Path: bin, Dir: filepath.Join(d.State, "services", "data"),
		Args: []string{"-at={{.Port}}", "{{.Instance}}"}, Env: map[string]string{"MODE": mode}, StartupTimeout: 30 * second,
		Probes: spec.Probes{Ready: &spec.Probe{HTTP: "/ready", Interval: second / 20, Timeout: second, Failures: 1, Successes: 1}},
		Stop:   spec.Stop{Signal: "TERM", Timeout: second}}
}

func start(t *testing.T, d home.Dirs) *supervise.Supervisor {
	t.Helper()
	s, err := supervise.New(supervise.Options{Dirs: d, Log: slog.New(slog.DiscardHandler), Record: fileRecorder(d)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for a snapshot that f likes.
func until(t *testing.T, s *supervise.Supervisor, what string, f func([]supervise.Instance) bool) []supervise.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	snap := s.Snapshot(false)
	for !f(snap.Instances) {
		if ctx.Err() != nil {
			t.Fatalf("it did not come about: %s; there is %+v", what, snap.Instances)
		}
		snap = s.Wait(ctx, snap.Revision)
	}
	return snap.Instances
}

func ready(n int) func([]supervise.Instance) bool {
	return func(all []supervise.Instance) bool {
		for _, i := range all {
			if i.State != supervise.Ready {
				return false
			}
		}
		return len(all) == n
	}
}

func ask(t *testing.T, i supervise.Instance, path string) who {
	t.Helper()
	res, err := http.Get("http://" + i.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var w who
	if b, _ := io.ReadAll(res.Body); len(b) > 0 {
		if err := json.Unmarshal(b, &w); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func output(t *testing.T, d home.Dirs) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Logs(), "1.1"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestInstancesAreConfined(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	p := program(d, bin, "serve")
	p.Limits.Files = 777
	if err := s.Set(supervise.Group{Program: p, Want: 2}); err != nil {
		t.Fatal(err)
	}
	all := until(t, s, "two ready", ready(2))
	if all[0].Port == all[1].Port {
		t.Fatal("two instances share a port")
	}
	w := ask(t, all[0], "/who")
	if os.Geteuid() == 0 {
		if w.UID != 71234 {
			t.Errorf("it runs as %d", w.UID)
		}
		for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"} {
			if !strings.Contains(w.Status, want) {
				t.Errorf("no %q in its status", want)
			}
		}
	}
	if _, err := os.Stat("/proc/self/status"); err == nil && !strings.Contains(w.Status, "NoNewPrivs:\t1") {
		t.Error("it may gain new privileges")
	}
	if w.PGID != w.PID {
		t.Error("it has no process group of its own")
	}
	if w.Files != 777 {
		t.Errorf("its open-file limit is %d", w.Files)
	}
	if want := fmt.Sprintf("-at=%d", all[0].Port); w.Args[1] != want || w.Args[2] != "1" {
		t.Errorf("arguments %q", w.Args)
	}
	env := strings.Join(w.Env, "\n")
	for _, want := range []string{fmt.Sprintf("PORT=%d", all[0].Port), "FAIRLEAD_RELEASE=1", "HOME=" + p.Dir} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in its environment", want)
		}
	}
	if strings.Contains(env, "GOCACHE") || strings.Contains(env, "FAIRLEAD_DIR") {
		t.Errorf("it sees the supervisor's environment: %s", env)
	}
}

func TestScaleAndStop(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	g := supervise.Group{Program: program(d, bin, "child"), Want: 3}
	for _, n := range []int{3, 1, 2, 0} {
		g.Want = n
		if err := s.Set(g); err != nil {
			t.Fatal(err)
		}
		until(t, s, fmt.Sprintf("%d ready", n), ready(n))
	}
	if out := output(t, d); !strings.Contains(out, "bye") {
		t.Errorf("it was not asked to end: %s", out)
	}
}

func TestRestartWithBackoffUntilCrashLoop(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	if err := s.Set(supervise.Group{Program: program(d, bin, "exit"), Want: 1}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	all := until(t, s, "a crash loop", func(all []supervise.Instance) bool { return len(all) == 1 && all[0].State == supervise.CrashLoop })
	i := all[0]
	if i.Last == nil || i.Last.Code != 7 || i.Exits < 5 || i.Lost != 0 {
		t.Errorf("%+v %+v", i, i.Last)
	}
	if took := time.Since(begun); took < 600*time.Millisecond { // 0 + 100 + 200 + 400 ms
		t.Errorf("five starts within %s: there is no back-off", took)
	}
	if out := output(t, d); strings.Count(out, "no database") < 5 || !strings.Contains(out, "ended with code 7") {
		t.Errorf("output: %s", out)
	}
}

func TestKilledInstanceKeepsItsPort(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	if err := s.Set(supervise.Group{Program: program(d, bin, "serve"), Want: 1}); err != nil {
		t.Fatal(err)
	}
	old := until(t, s, "ready", ready(1))[0]
	if err := syscall.Kill(old.Process.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	now := until(t, s, "ready again", func(all []supervise.Instance) bool {
		return ready(1)(all) && all[0].Process.PID != old.Process.PID
	})[0]
	if now.Port != old.Port || now.Restarts != 1 || now.Lost != 1 || now.Last.Signal != "SIGKILL" {
		t.Errorf("%+v %+v", now, now.Last)
	}
}

func TestUnreadyIsSeen(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	if err := s.Set(supervise.Group{Program: program(d, bin, "serve"), Want: 1}); err != nil {
		t.Fatal(err)
	}
	i := until(t, s, "ready", ready(1))[0]
	ask(t, i, "/break")
	now := until(t, s, "unready", func(all []supervise.Instance) bool { return all[0].State == supervise.Unready })[0]
	if !strings.Contains(now.Probe, "503") || now.Process != i.Process {
		t.Errorf("%+v", now)
	}
}

func TestLiveProbeRestarts(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	p := program(d, bin, "serve")
	p.Probes.Live = &spec.Probe{HTTP: "/ready", Interval: spec.Duration(20 * time.Millisecond), Timeout: spec.Duration(time.Second), Failures: 2, Successes: 1}
	if err := s.Set(supervise.Group{Program: p, Want: 1}); err != nil {
		t.Fatal(err)
	}
	i := until(t, s, "ready", ready(1))[0]
	ask(t, i, "/break")
	until(t, s, "a new process", func(all []supervise.Instance) bool {
		return ready(1)(all) && all[0].Process.PID != i.Process.PID
	})
}

func TestDeafInstanceIsKilled(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	g := supervise.Group{Program: program(d, bin, "deaf"), Want: 1}
	if err := s.Set(g); err != nil {
		t.Fatal(err)
	}
	i := until(t, s, "ready", ready(1))[0]
	g.Want = 0
	if err := s.Set(g); err != nil {
		t.Fatal(err)
	}
	until(t, s, "gone", ready(0))
	if i.Process.Alive() {
		t.Error("it still runs")
	}
	if out := output(t, d); !strings.Contains(out, "did not end within 1s of TERM; killed") {
		t.Errorf("output: %s", out)
	}
}

func TestMemoryLimit(t *testing.T) {
	d, bin := machine(t)
	s := start(t, d)
	defer s.Shutdown()
	p := program(d, bin, "hungry")
	p.Limits.Memory = 64 << 20
	if err := s.Set(supervise.Group{Program: p, Want: 1}); err != nil {
		t.Fatal(err)
	}
	i := until(t, s, "an end", func(all []supervise.Instance) bool {
		return len(all) == 1 && (all[0].Last != nil || len(all[0].Missing) > 0)
	})[0]
	if len(i.Missing) > 0 {
		if err := s.Forget(supervise.GroupKey("svc", "default", 1)); err != nil { // or it would eat the machine
			t.Fatal(err)
		}
		t.Skipf("this machine has no memory limits for us: %s", i.Missing)
	}
	if !i.Last.OOM || !strings.Contains(i.Last.Reason, "memory limit of 64MiB") {
		t.Errorf("%+v", i.Last)
	}
}
