//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// must ends the test when a fault could not be made: what it would go on to see would mean nothing.
func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// SIGRTMIN+3 asks systemd for a clean halt.
const sigHalt = unix.Signal(37)

// PowerCut takes the power away: every process of the host is killed at once. Its disk keeps what was written, and its
// neighbours get no word: their connections just fall silent, as the host's network does.
func (h *Host) PowerCut(t testing.TB) {
	t.Helper()
	must(t, "power cut of "+h.Name, h.powerCut(t.Context()))
}

// powerCut takes the wire out first: the kernel, which lives on, would otherwise close the dead host's connections.
func (h *Host) powerCut(ctx context.Context) error {
	if err := h.link(ctx, "down"); err != nil {
		return err
	}
	return h.signal(ctx, unix.SIGKILL, 20*time.Second)
}

// Stop shuts the host down in order.
func (h *Host) Stop(t testing.TB) {
	t.Helper()
	must(t, "stop "+h.Name, h.signal(t.Context(), sigHalt, 2*time.Minute))
}

// Start boots a host that is down, from the disk it had, and returns when it is running.
func (h *Host) Start(t testing.TB) {
	t.Helper()
	if h.up() {
		t.Fatalf("start %s: it is up", h.Name)
	}
	must(t, "start "+h.Name, h.start(t.Context()))
}

// Reboot has the host reboot itself, in order, and returns when it is running again.
func (h *Host) Reboot(t testing.TB) {
	t.Helper()
	before := h.Reboots()
	_, asked := h.Run("systemctl --no-block reboot") // the connection may break before the answer: no error by itself
	if err := until(2*time.Minute, "went down to come back", func() (bool, error) { return h.Reboots() > before, nil }); err != nil {
		t.Fatalf("reboot %s: %v", h.Name, errors.Join(err, asked))
	}
	must(t, "reboot "+h.Name, h.ready(t.Context()))
}

// Pause stops all of the host's processes where they stand. Its network stands: connections are accepted, and get no answer.
func (h *Host) Pause(t testing.TB) {
	t.Helper()
	must(t, "pause "+h.Name, h.fleet.groups.freeze(h.group(), true))
}

// Resume ends a [Host.Pause].
func (h *Host) Resume(t testing.TB) {
	t.Helper()
	must(t, "resume "+h.Name, h.fleet.groups.freeze(h.group(), false))
}

// LinkDown takes the host's network cable out: the host sees it, its neighbours do not.
func (h *Host) LinkDown(t testing.TB) {
	t.Helper()
	must(t, "link of "+h.Name, h.link(t.Context(), "down"))
}

// LinkUp puts the cable back.
func (h *Host) LinkUp(t testing.TB) {
	t.Helper()
	must(t, "link of "+h.Name, h.link(t.Context(), "up"))
}

func (h *Host) link(ctx context.Context, state string) error {
	return h.fleet.keeper.sh(ctx, `ip -n net link set "$1" "$2"`, h.port.String(), state)
}

// Drop loses every frame to and from the host; nobody sees more of it than silence.
func (h *Host) Drop(t testing.TB) {
	t.Helper()
	must(t, "drop "+h.Name, h.fleet.filter(t.Context(), func(n *network) { n.dropped[h.port] = true }))
}

// Undrop ends a [Host.Drop].
func (h *Host) Undrop(t testing.TB) {
	t.Helper()
	must(t, "undrop "+h.Name, h.fleet.filter(t.Context(), func(n *network) { delete(n.dropped, h.port) }))
}

// Cut loses every frame between two members, a host's name or "client", in both directions; others reach both.
func (f *Fleet) Cut(t testing.TB, a, b string) {
	t.Helper()
	must(t, "cut "+a+" from "+b, f.pair(t.Context(), a, b, func(n *network, way [2]port) { n.cut[way] = true }))
}

// Mend ends a [Fleet.Cut].
func (f *Fleet) Mend(t testing.TB, a, b string) {
	t.Helper()
	must(t, "mend "+a+" with "+b, f.pair(t.Context(), a, b, func(n *network, way [2]port) { delete(n.cut, way) }))
}

func (f *Fleet) pair(ctx context.Context, a, b string, change func(n *network, way [2]port)) error {
	from, err := f.port(a)
	if err != nil {
		return err
	}
	to, err := f.port(b)
	if err != nil {
		return err
	}
	return f.filter(ctx, func(n *network) {
		change(n, [2]port{from, to})
		change(n, [2]port{to, from})
	})
}

// FillDisk takes all the room that the host's root has: every write to it that needs more fails with ENOSPC, root's too.
func (h *Host) FillDisk(t testing.TB) {
	t.Helper()
	must(t, "fill the disk of "+h.Name, h.fill())
}

// fill reserves blocks of the host's file system in a file that the host does not see; nothing of it is written.
func (h *Host) fill() error {
	f, err := os.OpenFile(h.own("ballast"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	for step := int64(diskSize); step >= 4<<10; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// FreeDisk ends a [Host.FillDisk].
func (h *Host) FreeDisk(t testing.TB) {
	t.Helper()
	if err := os.Remove(h.own("ballast")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("free the disk of %s: %v", h.Name, err)
	}
}

// In makes a command of this machine run in the host's network, as a process of the host would: it sees what the host
// listens on at 127.0.0.1. A host that is down has none. The command is changed and returned.
func (h *Host) In(cmd *exec.Cmd) *exec.Cmd { return h.fleet.in(h.netns(), cmd) }

// BootID differs between two boots of a host.
func (h *Host) BootID() (string, error) {
	id, err := h.Run("cat /proc/sys/kernel/random/boot_id")
	if id = strings.TrimSpace(id); err == nil && id == "" {
		err = fmt.Errorf("%s has no boot id", h.Name)
	}
	return id, err
}
