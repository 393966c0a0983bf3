//go:build linux

package hosts

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
	"github.com/fairlead-dev/fairlead/test/rig/hosts"
)

// nameOf is what a fleet's folder, its cgroups and its record are called.
func nameOf(f *hosts.Fleet) string { return filepath.Base(filepath.Dir(f.SSHConfig())) }

// traces are whatever of a fleet this machine has: files, groups, processes, mounts of any process's namespace, loop devices.
func traces(t *testing.T, name string) (found []string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{
		filepath.Join(os.TempDir(), name), filepath.Join(cache, "fairlead", "test", "hosts", "fleets", name+"*"),
		"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name,
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	for _, pattern := range []string{"/proc/[0-9]*/cgroup", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/mountinfo", "/sys/block/loop*/loop/backing_file"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), name) {
				found = append(found, path)
			}
		}
	}
	return found
}

// TestTwoAtOnce: fleets with the same names and addresses, started together, know nothing of each other, and nothing of one
// is left while the other lives on.
func TestTwoAtOnce(t *testing.T) {
	live := hosts.Boot(t, "same")
	id, err := live.Host("same").BootID()
	if err != nil {
		t.Fatal(err)
	}
	names := make(chan string, 2)
	t.Run("beside", func(t *testing.T) {
		for i := range 2 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				f := hosts.Boot(t, "same", "more")
				names <- nameOf(f)
				if found := traces(t, nameOf(f)); len(found) < 10 {
					t.Errorf("of a living fleet only %q is found: looking for traces finds too little", found)
				}
				h := f.Host("same")
				says(t, h, "echo "+nameOf(f)+" >/var/mine")
				// What is slow or frozen when the test ends is no obstacle.
				h.Slow(t, time.Millisecond, 0)
				h.PowerCut(t)
				h.Start(t)
				if got := says(t, h, "cat /var/mine"); got != nameOf(f) {
					t.Errorf("the disk is that of %s", got)
				}
				f.Host("more").Pause(t)
				h.Drop(t)
			})
		}
	})
	close(names)
	for name := range names {
		if found := traces(t, name); len(found) != 0 {
			t.Errorf("left of the fleet %s: %q", name, found)
		}
	}
	if now, err := live.Host("same").BootID(); err != nil || now != id {
		t.Errorf("the fleet beside them had boot id %s and has %s, %v", id, now, err)
	}
}

// asVictim in the environment makes TestKilled the owner that is killed.
const asVictim = "HOSTS_TEST_VICTIM"

// TestKilled: an owner that is killed with SIGKILL takes its hosts with it; what else it had goes at the next start, while
// a living fleet stays.
func TestKilled(t *testing.T) {
	if os.Getenv(asVictim) != "" {
		f := hosts.Boot(t, "victim", "frozen")
		f.Host("victim").Slow(t, time.Millisecond, 0)
		f.Host("frozen").Pause(t)
		fmt.Println("\nfleet:" + nameOf(f))
		bufio.NewReader(os.Stdin).ReadByte()
		return
	}
	live := hosts.Boot(t, "alive")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), asVictim+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var name string
	for sc := bufio.NewScanner(stdout); name == "" && sc.Scan(); {
		name, _ = strings.CutPrefix(sc.Text(), "fleet:")
		if !strings.HasPrefix(sc.Text(), "fleet:") {
			t.Logf("the victim says: %s", sc.Text())
			name = ""
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); name == "" || err == nil {
		t.Fatalf("the victim's fleet is %q, and it ended with %v", name, err)
	}
	running := func() (found []string) {
		for _, trace := range traces(t, name) {
			if strings.HasPrefix(trace, "/proc/") || strings.HasPrefix(trace, "/sys/block/") {
				found = append(found, trace)
			}
		}
		return found
	}
	rig.Eventually(t, 20*time.Second, "every process and mount of the killed owner's fleet is gone", func() bool { return len(running()) == 0 })
	if found := traces(t, name); len(found) == 0 {
		t.Error("the killed owner left nothing at all: that the next start removes it is not seen")
	}
	next := hosts.Boot(t, "next")
	if found := traces(t, name); len(found) != 0 {
		t.Errorf("still there after the next start: %q", found)
	}
	for _, h := range []*hosts.Host{live.Host("alive"), next.Host("next")} {
		if state := says(t, h, "systemctl is-system-running"); state != "running" {
			t.Errorf("%s is %s", h.Name, state)
		}
	}
}
