//go:build linux

package hosts

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead-dev/fairlead/test/rig"
	"github.com/fairlead-dev/fairlead/test/rig/hosts"
)

// says runs a command on a host that must succeed.
func says(t *testing.T, h *hosts.Host, command string) string {
	t.Helper()
	out, err := h.Run(command)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestFleet(t *testing.T) {
	f := hosts.Boot(t, "a", "b", "c")
	for _, sub := range []struct {
		name string
		test func(t *testing.T, f *hosts.Fleet)
	}{
		{"bare", bare}, {"limits", limits}, {"users", users}, {"run", run}, {"ssh", realSSH}, {"sshd", forbids}, {"network", network},
		{"inside", inside},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(t, f) })
	}
}

// bare: systemd runs and nothing failed; nothing of fairlead is there; the hosts know each other.
func bare(t *testing.T, f *hosts.Fleet) {
	for _, h := range f.Hosts() {
		if state := says(t, h, "systemctl is-system-running"); state != "running" {
			t.Errorf("%s is %s", h.Name, state)
		}
		if name := says(t, h, "hostname"); name != h.Name {
			t.Errorf("%s calls itself %s", h.Name, name)
		}
		if found := says(t, h, "find / -xdev -iname '*fairlead*' -print -quit"); found != "" {
			t.Errorf("%s has %s", h.Name, found)
		}
		if open := says(t, h, "grep -c ' 0A ' /proc/net/tcp || true"); open != "1" {
			t.Errorf("%s listens on %s ports of IPv4, want only sshd's", h.Name, open)
		}
	}
	says(t, f.Host("a"), "exec 3<>/dev/tcp/c/22; read -t 5 line <&3; case $line in SSH-2.0-*) ;; *) exit 1 ;; esac")
}

// limits: each is set on a unit and seen to hold, for systemd takes them without a word where they are void.
func limits(t *testing.T, f *hosts.Fleet) {
	h := f.Host("b")
	const eat = "head -c 150M /dev/zero | tail | wc -c"
	if out := says(t, h, "systemd-run --wait --pipe -q sh -c '"+eat+"'"); out != strconv.Itoa(150<<20) {
		t.Errorf("without a limit: %s", out)
	}
	if out := says(t, h, "systemd-run --wait --pipe -q -p MemoryMax=64M -p MemorySwapMax=0 sh -c '"+eat+" || true' || true"); out == strconv.Itoa(150<<20) {
		t.Error("MemoryMax=64M let 150 MB be used")
	}
	const loop = `timeout 1.5 sh -c "while :; do :; done"; times; grep -hs nr_throttled $(find /sys/fs/cgroup -path "*/quota.service/cpu.stat")`
	out := says(t, h, "systemd-run --wait --pipe -q --unit=quota -p CPUQuota=20% sh -c '"+loop+"'")
	m := regexp.MustCompile(`^.*\n0m([0-9.]+)s .*\n(?s:.*)nr_throttled ([0-9]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("times and cpu.stat: %q", out)
	}
	spent, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with CPUQuota=20%% 1.5 s of a loop cost %.2f s of CPU; it was held up %s times", spent, m[2])
	if spent == 0 || spent > 0.45 || m[2] == "0" {
		t.Errorf("CPUQuota=20%% let %.2f s be used in 1.5 s and held it up %s times", spent, m[2])
	}
	const fork = `for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait; echo all`
	if out := says(t, h, "systemd-run --wait --pipe -q sh -c '"+fork+"'"); out != "all" {
		t.Errorf("without a limit: %s", out)
	}
	if out := says(t, h, "systemd-run --wait --pipe -q -p TasksMax=5 sh -c '"+fork+"' 2>&1 || true"); !strings.Contains(out, "annot fork") {
		t.Errorf("TasksMax=5 let 11 processes be: %s", out)
	}
}

func users(t *testing.T, f *hosts.Fleet) {
	h := f.Host("a")
	out, err := h.RunAs(hosts.Deploy, "id -un; sudo -n id -un; systemctl --user is-system-running --wait")
	if err != nil || out != "deploy\nroot\nrunning\n" {
		t.Errorf("as deploy: %q, %v", out, err)
	}
	if _, err := h.RunAs("nobody", "true"); err == nil {
		t.Error("the fleet's key opens the user nobody")
	}
}

// run: what comes out of a command, how a failed one is told, and files.
func run(t *testing.T, f *hosts.Fleet) {
	h := f.Host("a")
	out, err := h.Run("echo out; echo err >&2; exit 7")
	exit, ok := errors.AsType[*ssh.ExitError](err)
	if out != "out\n" || !ok || exit.ExitStatus() != 7 || !strings.Contains(err.Error(), "err\n") {
		t.Errorf("%q, %v", out, err)
	}
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	const path = "/opt/it's new/file"
	if err := h.Put(path, content, 0o750); err != nil {
		t.Fatal(err)
	}
	if out := says(t, h, `stat -c '%a %s' "`+path+`"; sha256sum <"`+path+`"`); !strings.HasPrefix(out, "750 3145728\n") || !strings.Contains(out, hash(content)) {
		t.Errorf("the file on the host: %s", out)
	}
	began := time.Now()
	for range 10 {
		says(t, h, "true")
	}
	t.Logf("a command over SSH takes %s", time.Since(began)/10)
}

// realSSH: the ssh of this machine takes the fleet's configuration, with a jump host where that is the only way.
func realSSH(t *testing.T, f *hosts.Fleet) {
	tool := rig.Tool(t, "ssh", "openssh-client")
	do := func(args ...string) (string, error) {
		out, err := f.Client(exec.CommandContext(t.Context(), tool, append([]string{"-F", f.SSHConfig()}, args...)...)).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := do("deploy@b", "hostname"); err != nil || out != "b" {
		t.Errorf("ssh deploy@b: %q, %v", out, err)
	}
	if out, err := do("root@"+f.Host("c").Address, "hostname"); err != nil || out != "c" {
		t.Errorf("ssh to the address of c: %q, %v", out, err)
	}
	f.Cut(t, "client", "b")
	defer f.Mend(t, "client", "b")
	if out, err := do("-o", "ConnectTimeout=1", "deploy@b", "hostname"); err == nil {
		t.Errorf("b was cut off from the client, and answers %q", out)
	}
	if out, err := do("-J", "deploy@a", "deploy@b", "hostname; echo $SSH_CONNECTION"); err != nil || !strings.HasPrefix(out, "b\n"+f.Host("a").Address) {
		t.Errorf("ssh by way of a: %q, %v", out, err)
	}
	// A key that is not the known one is what strict checking is for.
	known, err := os.ReadFile(f.KnownHosts())
	if err != nil {
		t.Fatal(err)
	}
	wrong := t.TempDir() + "/known_hosts"
	if err := os.WriteFile(wrong, bytes.ReplaceAll(known, []byte("c,"+f.Host("c").Address), []byte("x")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := do("-o", "UserKnownHostsFile="+wrong, "deploy@c", "hostname"); err == nil {
		t.Errorf("an unknown host key was taken: %q", out)
	}
}

// forbids: a server can be made to refuse something.
func forbids(t *testing.T, f *hosts.Fleet) {
	h := f.Host("c")
	if err := h.SSHD("AllowUsers root"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.RunAs(hosts.Deploy, "true"); err == nil {
		t.Error("deploy was let in")
	}
	if err := h.SSHD(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.RunAs(hosts.Deploy, "true"); err != nil {
		t.Error(err)
	}
}

// network: a program in a host's network is reached by HTTP from the client's, and a host reaches what the client serves.
func network(t *testing.T, f *hosts.Fleet) {
	h := f.Host("a")
	serve(t, h)
	resp, err := f.HTTP().Post("http://a:7000/", "text/plain", strings.NewReader("there and back"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "there and back" || resp.Header.Get("From") != hosts.ClientAddr {
		t.Errorf("%q from %s, %v", body, resp.Header.Get("From"), err)
	}
	if _, err := f.Dial(t.Context(), "tcp", "elsewhere.example:80"); err == nil {
		t.Error("a name that is no host's was dialed")
	}
	l, err := f.Listen(5000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "for "+r.RemoteAddr) }))
	if out := says(t, h, `exec 3<>/dev/tcp/client/5000; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -1 <&3`); !strings.Contains(out, "for "+h.Address) {
		t.Errorf("the client's server said %q to a host", out)
	}
}

// serve runs this program's echo in the host's network until the test ends.
func serve(t *testing.T, h *hosts.Host) {
	t.Helper()
	cmd := h.In(exec.Command(os.Args[0]))
	cmd.Env = append(os.Environ(), asEcho+"="+h.Address+":7000")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	line := make([]byte, 64)
	if n, err := stdout.Read(line); err != nil || string(line[:n]) != "listening\n" {
		t.Fatalf("the server says %q, %v", line[:n], err)
	}
}

// inside checks what a deployer depends on, and logs what it finds.
func inside(t *testing.T, f *hosts.Fleet) {
	h := f.Host("b")
	t.Logf("inside:\n%s", says(t, h, `systemctl --version | head -1; stat -fc 'cgroup: %T' /sys/fs/cgroup; uname -r; . /etc/os-release; echo "$PRETTY_NAME"
		echo "open files: $(ulimit -Hn)"; grep CapBnd /proc/1/status; df -h / | tail -1; ls /boot | wc -l; which curl wget python3 rsync tar gzip zstd || true`))
	check := func(want, properties, command string) {
		t.Helper()
		if out := says(t, h, "systemd-run --wait --pipe -q "+properties+" sh -c '"+command+"' 2>&1 || true"); out != want {
			t.Errorf("%s: %s: %q, want %q", properties, command, out, want)
		}
	}
	says(t, h, "echo s3cret >/root/credential")
	check("s3cret", "-p LoadCredential=token:/root/credential -p DynamicUser=yes", `cat "$CREDENTIALS_DIRECTORY/token"`)
	check("denied", "-p DynamicUser=yes", `cat /root/credential 2>/dev/null || echo denied`)
	check("read-only", "-p ProtectSystem=strict", `touch /etc/x 2>/dev/null || echo read-only`)
	check("lo", "-p PrivateNetwork=yes", `ls /sys/class/net`)
	check("open", "", `timeout 1 bash -c "</dev/tcp/127.0.0.1/22" && echo open || echo closed`)
	check("closed", "-p IPAddressDeny=any", `timeout 1 bash -c "</dev/tcp/127.0.0.1/22" && echo open || echo closed`)
	check("NoNewPrivs:	1", "-p NoNewPrivileges=yes", "grep NoNewPrivs /proc/self/status")
	says(t, h, "echo hello | systemd-cat -t rig; journalctl --sync; journalctl -t rig -o json | grep -q hello")
}

func hash(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
