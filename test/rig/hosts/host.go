//go:build linux

package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Host is one system of a fleet. Its disk is its own as long as the fleet lives, whatever happens to it.
type Host struct {
	Name    string
	Address string

	fleet *Fleet
	port  port

	plugged bool // there is a network namespace of the host; the network's lock guards it

	mu       sync.Mutex
	running  chan struct{} // closed when the host went down; nil before the first start
	reboots  int
	stopping bool  // the fleet ends: no start after a reboot
	last     error // of systemd-nspawn
	logins   map[string]*ssh.Client
}

// diskSize is what a host's root can hold. The file is sparse: what no host writes takes no room.
const diskSize = 2 << 30

// disk makes the root of a host: what it writes goes to a file system with a size, on a loop device, over the image.
// The loop device goes with its mount.
const disk = `
truncate -s "$2" "$1/disk"
mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1 "$1/disk"
mkdir "$1/own" "$1/root"
mount -o loop "$1/disk" "$1/own"
mkdir "$1/own/upper" "$1/own/work"
mount -t overlay -o "lowerdir=$3,upperdir=$1/own/upper,workdir=$1/own/work" overlay "$1/root"
`

// boot runs a host until it stops. Before it is systemd-nspawn the process enters the host's group in every hierarchy ("$@"),
// so that all of the host is in it from its first instant. What systemd-nspawn would refuse a container, and a machine's
// own root has, is given back: networks, and BPF, without which IPAddressDeny and its like are void.
const boot = `
folder=$1 name=$2
shift 2
for group; do echo 0 >"$group/cgroup.procs"; done
exec systemd-nspawn --quiet --register=no --keep-unit --machine="$name" --directory="$folder/root" \
	--network-namespace-path="/run/netns/h.$name" --console=pipe --kill-signal=SIGRTMIN+3 --link-journal=no \
	--resolv-conf=off --timezone=off --capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON --system-call-filter=bpf /bin/sh -c '
		# systemd-nspawn leaves v1 hierarchies read-only inside, and systemd then skips every limit without an error.
		for h in /sys/fs/cgroup/*/; do mount -o remount,bind,rw,nosuid,nodev,noexec "$h" 2>/dev/null; done
		# systemd 256 and later want to be told that v1 is meant; with v2 this changes nothing.
		exec /lib/systemd/systemd SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1'
`

// again is the exit status by which systemd-nspawn says that the host wants to be started again.
const again = 133

func (h *Host) dir() string     { return filepath.Join(h.fleet.record.dir, h.Name) }
func (h *Host) console() string { return filepath.Join(h.dir(), "console") }
func (h *Host) group() string   { return filepath.Join(h.fleet.record.name, h.Name) }
func (h *Host) netns() string   { return "h." + h.Name }

// own is a file on the host's disk, outside of what the host sees, as a path of ours.
func (h *Host) own(name string) string {
	return filepath.Join(h.fleet.keeper.root+h.dir(), "own", name)
}

// prepare makes the host's disk and plugs it in.
func (h *Host) prepare(ctx context.Context) error {
	k := h.fleet.keeper
	if err := os.Mkdir(h.dir(), 0o755); err != nil {
		return err
	}
	if err := k.sh(ctx, disk, h.dir(), fmt.Sprint(diskSize), h.fleet.image); err != nil {
		return err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	names := "127.0.0.1 localhost\n" + ClientAddr + " " + clientName + "\n"
	for _, other := range h.fleet.hosts {
		names += other.Address + " " + other.Name + "\n"
	}
	files := []file{
		{"etc/hostname", h.Name + "\n", 0o644},
		{"etc/hosts", names, 0o644},
		{"etc/machine-id", fmt.Sprintf("%x\n", id), 0o444},
	}
	sshFiles, err := h.sshFiles()
	if err != nil {
		return err
	}
	for _, f := range append(files, sshFiles...) {
		if err := os.WriteFile(filepath.Join(k.root+h.dir(), "root", f.path), []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

type file struct {
	path string
	text string
	mode os.FileMode
}

// start boots the host and returns when it is running.
func (h *Host) start(ctx context.Context) error {
	cmd, err := h.spawn()
	if err != nil {
		return err
	}
	down := make(chan struct{})
	h.mu.Lock()
	h.running = down
	h.mu.Unlock()
	go func() {
		defer close(down)
		h.keep(cmd)
	}()
	return h.ready(ctx)
}

// keep waits for the host's end, and starts it again each time it asked for that.
func (h *Host) keep(cmd *exec.Cmd) {
	for {
		err := cmd.Wait()
		h.disconnect()
		h.mu.Lock()
		h.last = err
		stopping := h.stopping
		h.mu.Unlock()
		if stopping {
			return // the network goes with all the rest
		}
		if err := h.unplug(context.Background()); err != nil {
			h.mu.Lock()
			h.last = errors.Join(h.last, err)
			h.mu.Unlock()
			return
		}
		if cmd.ProcessState.ExitCode() != again {
			return
		}
		h.mu.Lock()
		h.reboots++
		h.mu.Unlock()
		if cmd, err = h.spawn(); err != nil {
			h.mu.Lock()
			h.last = fmt.Errorf("start again: %w", err)
			h.mu.Unlock()
			return
		}
	}
}

// spawn starts the host's process in fresh groups, with a fresh network.
func (h *Host) spawn() (*exec.Cmd, error) {
	g := h.fleet.groups
	if err := g.remove(h.group()); err != nil {
		return nil, err
	}
	if err := g.make(h.group()); err != nil {
		return nil, err
	}
	if err := h.plug(context.Background()); err != nil {
		return nil, err
	}
	console, err := os.OpenFile(h.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	args := append([]string{"-ec", boot, "sh", h.dir(), h.Name}, g.paths(h.group())...)
	cmd := h.fleet.keeper.enter(context.Background(), "/bin/sh", args...)
	cmd.Stdout, cmd.Stderr = console, console
	return cmd, cmd.Start()
}

// ready waits until the host's systemd has done all it had to at boot. That a unit failed is an error.
func (h *Host) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := h.run(ctx, root, "systemctl is-system-running --wait", nil)
		switch strings.TrimSpace(state) {
		case "running":
			return nil
		case "degraded":
			failed, _ := h.run(ctx, root, "systemctl --failed --no-legend --plain; journalctl -b -p warning -n 20 --no-pager", nil)
			return fmt.Errorf("%s has units that failed:\n%s", h.Name, failed)
		}
		select {
		case <-tick.C:
		case <-h.down():
			b, _ := os.ReadFile(h.console())
			return fmt.Errorf("%s did not boot: %w\n%s", h.Name, h.ended(), b[max(0, len(b)-4<<10):])
		case <-ctx.Done():
			return fmt.Errorf("%s is not running after %s: %w %s", h.Name, bootWithin, err, state)
		}
	}
}

// down is closed when the host is down.
func (h *Host) down() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

func (h *Host) ended() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		return errors.New("it stopped by itself")
	}
	return h.last
}

// up says whether the host runs, as a power light would.
func (h *Host) up() bool {
	down := h.down()
	if down == nil {
		return false
	}
	select {
	case <-down:
		return false
	default:
		return true
	}
}

// Reboots is how often the host was started again since it wanted to be.
func (h *Host) Reboots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reboots
}

// init is the host's first process, as this machine numbers it.
func (h *Host) init() (int, error) {
	pid, err := h.fleet.groups.init(h.group())
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s has no first process", h.Name)
	}
	return pid, err
}

// signal sends a signal to the host's first process and waits until the host is down.
func (h *Host) signal(ctx context.Context, sig unix.Signal, within time.Duration) error {
	if !h.up() {
		return fmt.Errorf("%s is down already", h.Name)
	}
	pid, err := h.init()
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-h.down():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s is not down after %s", h.Name, within)
	}
}

// end says that the host is not to start again: the fleet is about to end.
func (h *Host) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// wait returns when nothing of the host is left in this process: call it once the fleet's processes are ended.
func (h *Host) wait() {
	if down := h.down(); down != nil {
		<-down
	}
	h.disconnect()
	n := &h.fleet.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.lines[h.port]; l != nil {
		l.close()
	}
}
