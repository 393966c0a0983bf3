//go:build linux

package hosts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper is the first process of a fleet's namespaces. All it does is wait for the end of its standard input, which the
// test's process holds: when that is gone, killed or not, the keeper ends, and with it, by the kernel, all that runs in its
// PID namespace and all that is mounted in its mount namespace. Nothing of the fleet is seen from outside by name.
type keeper struct {
	cmd   *exec.Cmd
	input io.Closer
	root  string // the keeper's view of the file system, as a path of ours
}

// keep says "ready" once the namespaces are fit for use: no mount of a host may spread to the machine, and /run is the
// fleet's own, since named network namespaces and systemd-nspawn's locks are kept there.
const keep = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns
echo ready
exec cat >/dev/null
`

// path is where administration programs are, which not every user's PATH has.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func startKeeper() (*keeper, error) {
	cmd := exec.Command("/bin/sh", "-c", keep)
	cmd.Env = []string{path}
	cmd.Dir = "/"
	// A group of its own: what a terminal sends to the test must not end the fleet before the test has tidied up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Setpgid: true}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	k := &keeper{cmd: cmd, input: input, root: fmt.Sprintf("/proc/%d/root", cmd.Process.Pid)}
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("prepare namespaces: %q, %w: %s", line, err, stderr.String()), k.stop())
	}
	return k, nil
}

// stop ends everything that runs in the fleet and returns when it has.
func (k *keeper) stop() error {
	if err := k.input.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- k.cmd.Wait() }()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		return errors.Join(errors.New("the fleet's first process did not end with its input"), k.cmd.Process.Kill(), <-ended)
	}
}

// enter makes a command that runs in the fleet's PID and mount namespaces.
func (k *keeper) enter(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = append([]string{"--target", fmt.Sprint(k.cmd.Process.Pid), "--mount", "--pid", "--ipc", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{path}
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// sh runs a script in the fleet's namespaces and returns what it said; arguments are $1 and on. A failed command ends it.
func (k *keeper) sh(ctx context.Context, script string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := k.enter(ctx, "/bin/sh", append([]string{"-ec", script, "sh"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", strings.TrimSpace(script), args, err, out)
	}
	return nil
}

// netns is the file of a network namespace, as a path of ours.
func (k *keeper) netns(name string) string { return k.root + "/run/netns/" + name }

// A record tells later runs of a fleet: it is a locked file in the cache folder, named after the fleet, which holds the
// owner's process number and the fleet's temporary folder. The lock ends with its owner, so that a record without one is
// that of a run which was killed; a process number alone could be another's by then.
type record struct {
	file *os.File
	name string
	dir  string
}

// newRecord removes what killed runs left, and then registers a fleet. One lock guards both, so that nobody takes a record
// that is just being made for a dead one.
func newRecord(t testing.TB, h hierarchies) (*record, error) {
	folder := filepath.Join(cacheDir(t), "fleets")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(folder, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := sweep(t, h, folder); err != nil {
		return nil, fmt.Errorf("remove what a killed run left: %w", err)
	}
	dir, err := os.MkdirTemp("", "fl-hosts-")
	if err != nil {
		return nil, err
	}
	r := &record{name: filepath.Base(dir), dir: dir}
	if r.file, err = lockFile(filepath.Join(folder, r.name+".fleet"), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	if _, err := fmt.Fprintf(r.file, "%d\n%s\n", os.Getpid(), dir); err != nil {
		return nil, errors.Join(err, r.remove(h))
	}
	return r, nil
}

// sweep removes every fleet whose owner is gone.
func sweep(t testing.TB, h hierarchies, folder string) error {
	records, err := filepath.Glob(filepath.Join(folder, "*.fleet"))
	if err != nil {
		return err
	}
	for _, path := range records {
		file, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // it lives
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(file)
		if err != nil {
			return errors.Join(err, file.Close())
		}
		r := &record{file: file, name: strings.TrimSuffix(filepath.Base(path), ".fleet")}
		owner, dir, _ := strings.Cut(string(b), "\n")
		if dir = strings.TrimSpace(dir); filepath.Base(dir) == r.name { // else it was killed before it wrote it
			r.dir = dir
		}
		if r.dir != "" {
			t.Logf("process %s left the fleet %s; it is removed", owner, r.name)
		}
		if err := r.remove(h); err != nil {
			return err
		}
	}
	return nil
}

// remove removes what a fleet has outside of its namespaces: cgroups, the temporary folder and, last, the record. What
// still runs in its cgroups is ended; there is nothing unless a keeper did not do its part.
func (r *record) remove(h hierarchies) error {
	pids, err := h.pids(r.name)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	if err := h.remove(r.name); err != nil {
		return err
	}
	if r.dir != "" {
		if err := os.RemoveAll(r.dir); err != nil {
			return err
		}
	}
	if err := os.Remove(r.file.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.file.Close()
}
