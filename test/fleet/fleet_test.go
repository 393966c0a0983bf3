//go:build linux

// Package fleet holds the promises about several machines on real ones: Debian hosts with nothing but sshd, in networks of the test's own.
package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
	"github.com/fairlead-dev/fairlead/test/rig/hosts"
)

func TestMain(m *testing.M) { rig.Main(m) }

// operator is a person with a service's folder, in the client's network.
type operator struct {
	fleet *hosts.Fleet
	dir   string // of the service
	env   []string
	cli   string
	ssh   string // ssh's configuration
}

const program = `package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

const (
	version = %q
	slow    = %d * time.Millisecond
	ready   = %t
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(slow)
		host, _ := os.Hostname()
		fmt.Fprintln(w, version, host)
	})
	http.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil)
}
`

// source is a version of the service.
type source struct {
	version string
	slow    time.Duration
	unready bool
}

func (o *operator) write(t *testing.T, s source) {
	t.Helper()
	rig.Write(t, filepath.Join(o.dir, "main.go"), fmt.Sprintf(program, s.version, s.slow.Milliseconds(), !s.unready))
}

// newOperator makes a service whose production are the hosts of f; more is added to its spec.
func newOperator(t *testing.T, f *hosts.Fleet, more string) *operator {
	t.Helper()
	o := &operator{fleet: f, dir: t.TempDir(), cli: rig.CLI(t), ssh: f.SSHConfig()}
	rig.Write(t, filepath.Join(o.dir, "go.mod"), "module example.com/shop\n\ngo 1.26\n")
	var names []string
	for _, h := range f.Hosts() {
		names = append(names, hosts.Deploy+"@"+h.Name)
	}
	rig.Spec(t, o.dir, fmt.Sprintf("service: shop\nrun:\n  startup_timeout: 5s\n  probes: {ready: {http: /ready, interval: 200ms}}\n  stop: {drain: 2s}\nroute: {listen: \":80\"}\nrelease:\n  watch: 500ms\n%s\nenvironments:\n  production:\n    target: {ssh: [%s]}\n", more, strings.Join(names, ", ")))
	gocache, err := rig.Command(t, "", nil, "go", "env", "GOCACHE")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	o.env = append(os.Environ(), "FAIRLEAD_DIR="+filepath.Join(home, "m"), "XDG_CACHE_HOME="+filepath.Join(home, "cache"), "HOME="+home, "GOCACHE="+strings.TrimSpace(gocache), "SSH_AUTH_SOCK=")
	return o
}

// run runs the command line in the service's folder.
func (o *operator) run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := o.command(ctx, args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("fairlead %s: %v\n%s", strings.Join(args, " "), err, b.String())
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

func (o *operator) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, o.cli, append(args, "--env", "production", "--ssh-config", o.ssh)...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = o.dir, o.env, 5*time.Second
	return o.fleet.Client(cmd)
}

// must runs a command that has to succeed.
func (o *operator) must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := o.run(t, args...)
	if code != 0 {
		t.Fatalf("fairlead %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// versions is what each host answers; "-" where it does not.
func versions(t *testing.T, f *hosts.Fleet) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, h := range f.Hosts() {
		out[h.Name] = version(f, h)
	}
	return out
}

func version(f *hosts.Fleet, h *hosts.Host) string {
	c := f.HTTP()
	c.Timeout = 5 * time.Second
	defer c.CloseIdleConnections()
	res, err := c.Get("http://" + h.Address + "/")
	if err != nil {
		return "-"
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		return "-"
	}
	v, _, _ := strings.Cut(b.String(), " ")
	return v
}

func all(t *testing.T, f *hosts.Fleet, want string) {
	t.Helper()
	for name, got := range versions(t, f) {
		if got != want {
			t.Errorf("%s serves %s, want %s", name, got, want)
		}
	}
}

// From three bare hosts to a service on all of them by one command; upgrades one batch after the other lose nothing behind a plain balancer,
// and a release that is slow on the first host goes back there and reaches no other.
func TestThreeBareHosts(t *testing.T) {
	f := hosts.Boot(t, "web1", "web2", "web3")
	o := newOperator(t, f, "  gates: [{check: \"p95 <= 300ms\"}]\n  strategy: canary\n  steps: [20%, 100%]\n  evidence: {requests: 20, wait: 60s}")
	o.write(t, source{version: "v0"})
	began := time.Now()
	o.must(t, "up")
	if took := time.Since(began).Round(time.Millisecond); took > 20*time.Second {
		t.Logf("from bare hosts to a service on three took %v: other work kept the machine", took)
	} else {
		t.Logf("from bare hosts to a service on three: %v", took)
	}
	all(t, f, "v0")
	if out := o.must(t, "plan"); !strings.Contains(out, "wave 1, deploy@web1: shop (production), canary from release 1 to release 2") || !strings.Contains(out, "wave 3, deploy@web3: the same") {
		t.Errorf("%s", out)
	}
	load := rig.Load{URL: "http://" + balancer(t, f) + "/", Clients: 4, Dial: f.Dial}.Start(t)
	for n := 1; n <= 10; n++ {
		v := fmt.Sprint("v", n)
		o.write(t, source{version: v})
		o.must(t, "up")
		all(t, f, v)
	}
	o.write(t, source{version: "slow", slow: 800 * time.Millisecond})
	out, code := o.run(t, "up")
	if code != fail.ExitRolledBack || !strings.Contains(out, "p95") || !strings.Contains(out, "web1") || strings.Contains(out, "web2: 1 instance") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	all(t, f, "v10")
	got := load.Stop()
	t.Logf("%d requests, %d failed", got.Requests, got.Failed)
	if got.Failed != 0 || got.Requests < 500 {
		t.Errorf("%+v", got)
	}
	if out := o.must(t, "status"); strings.Count(out, "release 11 ") != 3 {
		t.Errorf("%s", out)
	}
	o.cli = newer(t)
	out = o.must(t, "host", "add")
	sent := regexp.MustCompile(`sent fairlead, ([0-9.]+) MB`).FindAllStringSubmatch(out, -1)
	for _, m := range sent {
		// Whole it is some 40. What debuggers read is in there, compressed, and so the patch is larger than that of a program without.
		if mb, err := strconv.ParseFloat(m[1], 64); err != nil || mb > 12 {
			t.Errorf("a newer version was not sent as a patch: %s", m[0])
		}
	}
	if len(sent) != 3 || strings.Count(out, "fairlead runs\n") != 3 {
		t.Errorf("%s", out)
	}
	if out := o.must(t, "host", "list"); strings.Count(out, "v9.9.9") != 3 {
		t.Errorf("%s", out)
	}
	all(t, f, "v10")
}

// newer is the program in a version of its own.
func newer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead")
	cmd := exec.Command("go", "build", "-ldflags", "-X main.version=v9.9.9", "-o", path, "./cmd/fairlead")
	cmd.Dir, cmd.Env = rig.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// balancer runs a plain one before the hosts, in the client's network, and returns its address there.
func balancer(t *testing.T, f *hosts.Fleet) string {
	t.Helper()
	bin := rig.Tool(t, "haproxy", "haproxy")
	const addr = "127.0.0.1:8000"
	conf := "defaults\n mode http\n timeout connect 2s\n timeout client 30s\n timeout server 30s\nfrontend f\n bind " + addr + "\n default_backend b\nbackend b\n balance roundrobin\n"
	for _, h := range f.Hosts() {
		conf += fmt.Sprintf(" server %s %s:80 check inter 500ms\n", h.Name, h.Address)
	}
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	rig.Write(t, path, conf)
	cmd := f.Client(exec.Command(bin, "-db", "-f", path))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for {
		c, err := f.Dial(t.Context(), "tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}
