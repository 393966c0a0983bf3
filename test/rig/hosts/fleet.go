//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// Fleet is a network of hosts and a client, of one test.
type Fleet struct {
	hosts   []*Host
	image   string
	groups  hierarchies
	keeper  *keeper
	record  *record
	network network
	keys    keys
}

const (
	bootWithin = 2 * time.Minute // of a host, until its systemd calls itself running
	most       = 200             // hosts that one network has addresses for
)

var hostName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Boot starts a host of each name, all at once, and returns when every one is reached by SSH and its systemd has nothing
// that failed. The fleet ends with the test. Where hosts cannot run at all, the test is [rig.Missing].
func Boot(t testing.TB, names ...string) *Fleet {
	t.Helper()
	f := &Fleet{}
	for i, name := range names {
		if !hostName.MatchString(name) || i >= most || name == clientName || f.find(name) != nil {
			t.Fatalf("%q cannot be the name of host %d", name, i+1)
		}
		f.hosts = append(f.hosts, &Host{Name: name, Address: fmt.Sprintf("%s.%d", subnet, firstHost+i), fleet: f, port: port(i + 1), logins: map[string]*ssh.Client{}})
	}
	f.groups = prepare(t)
	f.image = image(t)
	began := time.Now()
	var err error
	if f.record, err = newRecord(t, f.groups); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.remove(t) })
	if f.keeper, err = startKeeper(); err != nil {
		rig.Missing(t, "hosts need namespaces of their own: %v", err)
	}
	if err := f.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	g, ctx := errgroup.WithContext(t.Context())
	for _, h := range f.hosts {
		g.Go(func() error {
			if err := h.prepare(ctx); err != nil {
				return fmt.Errorf("prepare %s: %w", h.Name, err)
			}
			return h.start(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d hosts are running after %s", len(f.hosts), time.Since(began).Round(10*time.Millisecond))
	return f
}

// prepare finds or installs what a fleet needs of this machine.
func prepare(t testing.TB) hierarchies {
	t.Helper()
	if os.Geteuid() != 0 {
		rig.Missing(t, "hosts need root: they have namespaces, mounts and cgroups")
	}
	for _, tool := range [][2]string{
		{"systemd-nspawn", "systemd-container"}, {"ip", "iproute2"}, {"nft", "nftables"}, {"mkfs.ext4", "e2fsprogs"},
		{"nsenter", "util-linux"}, {"unshare", "util-linux"},
	} {
		rig.Tool(t, tool[0], tool[1])
	}
	h, err := findHierarchies()
	if err != nil {
		rig.Missing(t, "hosts need cgroups: %v", err)
	}
	return h
}

// build makes what all hosts share: group, keys, network.
func (f *Fleet) build(ctx context.Context) error {
	if err := f.groups.make(f.record.name); err != nil {
		return fmt.Errorf("make the fleet's cgroups: %w", err)
	}
	if len(f.groups.v1) == 0 {
		if err := f.groups.enable(filepath.Join(f.groups.v2, f.record.name), wanted); err != nil {
			return err
		}
	}
	if err := f.makeKeys(); err != nil {
		return err
	}
	return f.makeNetwork(ctx)
}

// remove ends the fleet. Of a failed test's hosts it first shows what they said last.
func (f *Fleet) remove(t testing.TB) {
	if t.Failed() && f.keeper != nil {
		f.show(t)
	}
	for _, h := range f.hosts {
		h.end()
	}
	if f.keeper != nil {
		if err := f.keeper.stop(); err != nil {
			t.Errorf("end the fleet: %v", err)
		}
	}
	var wait sync.WaitGroup
	for _, h := range f.hosts {
		wait.Go(h.wait)
	}
	wait.Wait()
	if err := f.record.remove(f.groups); err != nil {
		t.Errorf("remove the fleet: %v", err)
	}
}

// show puts the end of what each host said into the test's log: its journal, or its console where it is not reached.
func (f *Fleet) show(t testing.TB) {
	const most = 6 << 10
	for _, h := range f.hosts {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		out, err := h.run(ctx, root, "journalctl --no-pager -b -n 60 -o short-monotonic", nil)
		cancel()
		if err != nil {
			b, readErr := os.ReadFile(h.console())
			out = fmt.Sprintf("not reached: %v; its console (%v):\n%s", err, readErr, b)
		}
		t.Logf("%s: %s", h.Name, out[max(0, len(out)-most):])
	}
}

// Host returns the host of that name.
func (f *Fleet) Host(name string) *Host {
	if h := f.find(name); h != nil {
		return h
	}
	panic(fmt.Sprintf("the fleet has no host %q", name))
}

// Hosts returns all hosts, in the order of their names at [Boot].
func (f *Fleet) Hosts() []*Host { return append([]*Host(nil), f.hosts...) }

func (f *Fleet) find(name string) *Host {
	for _, h := range f.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Each calls a function for every host, all at once, and returns what went wrong, with the host's name.
func (f *Fleet) Each(do func(h *Host) error) error {
	errs := make([]error, len(f.hosts))
	var wait sync.WaitGroup
	for i, h := range f.hosts {
		wait.Go(func() {
			if err := do(h); err != nil {
				errs[i] = fmt.Errorf("%s: %w", h.Name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
