package steer

import (
	"bytes"
	_ "embed" // the object that the kernel gets
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

//go:embed steer.bpf.o
var object []byte

// bpffs is where the kernel keeps what shall outlive the process that made it.
const bpffs = "/sys/fs/bpf"

// Kernel is what one agent has the kernel do. Its methods may be called from several goroutines.
type Kernel struct {
	pin string // file that keeps the program attached when no process is left

	mu       sync.Mutex
	spec     *ebpf.CollectionSpec
	objects  *ebpf.Collection
	attached link.Link              // nil while nothing is steered
	slot     map[uint64]uint16      // by the socket's cookie
	known    map[Socket][]uint64    // cookies
	inForce  map[address]*placement // as the map of services has it
	watch    *observer              // nil while nobody looks
	wanted   bool                   // watch is, by a service
	drains   int                    // that use watch
	taken    map[Socket]Counts      // from observers that ended
	closed   bool
}

// Open prepares steering; nothing changes until [Kernel.Set]. What an earlier process of the same name left behind goes on
// until then. name tells agents on one machine apart. The error says what the machine lacks; Close ends the process's part.
func Open(name string) (*Kernel, error) {
	if err := mountBPF(); err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	k := &Kernel{pin: filepath.Join(bpffs, name), spec: spec, slot: map[uint64]uint16{}, known: map[Socket][]uint64{},
		inForce: map[address]*placement{}, taken: map[Socket]Counts{}}
	if k.objects, err = k.loadPart([]string{"steer"}, []string{"services", "sockets"}); err != nil {
		return nil, err
	}
	return k, nil
}

// Forget ends what an earlier process of that name left behind, where nobody has opened it since.
func Forget(name string) error {
	err := unpin(filepath.Join(bpffs, name))
	if errors.Is(err, os.ErrPermission) { // who has no rights left nothing, either
		return nil
	}
	return err
}

// unpin removes what the kernel keeps at a path, if there is something.
func unpin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// mountBPF makes sure that there is a file system for what shall outlive us.
func mountBPF() error {
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err != nil {
		return fmt.Errorf("this kernel has no %s (CONFIG_BPF_SYSCALL): %w", bpffs, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		return fmt.Errorf("nothing is mounted at %s, and mounting it needs CAP_SYS_ADMIN: %w", bpffs, err)
	}
	return nil
}

// loadPart gives the kernel some of the object's programs and the maps they use.
func (k *Kernel) loadPart(programs, maps []string) (*ebpf.Collection, error) {
	part := k.spec.Copy()
	for name := range part.Programs {
		if !slices.Contains(programs, name) {
			delete(part.Programs, name)
		}
	}
	for name := range part.Maps {
		if !slices.Contains(maps, name) {
			delete(part.Maps, name)
		}
	}
	return load(part)
}

// load says what is missing where the kernel does not take it.
func load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	c, err := ebpf.NewCollection(spec)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which root has: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return nil, fmt.Errorf("this kernel is older than 5.9 or was built without it: %w", err)
	}
	return c, err
}

// Set puts the services in force, all at once for each of them, and lets go of every other. A service that cannot be steered
// is left to who listens at its address; the error says why.
func (k *Kernel) Set(services []Service) map[netip.AddrPort]error {
	k.mu.Lock()
	defer k.mu.Unlock()
	problems := map[netip.AddrPort]error{}
	next, used := map[address]*placement{}, map[uint64]bool{}
	var moved []Service
	for _, s := range services {
		p, err := k.placement(s, used)
		if err == nil && s.Observe {
			err = k.observe(s, false) // before the first connection comes
		}
		if err != nil {
			problems[s.Listen] = err
			continue
		}
		at := addressOf(s.Listen)
		if was := k.inForce[at]; was != nil && was.Table != p.Table && s.Observe {
			moved = append(moved, s)
		}
		next[at] = p
	}
	err := k.apply(next)
	for _, s := range moved {
		err = errors.Join(err, k.observe(s, true)) // after it: they come again at once
	}
	err = errors.Join(err, k.observing(services))
	for _, s := range services {
		if err != nil && problems[s.Listen] == nil {
			problems[s.Listen] = err
		}
	}
	k.forget(used)
	return problems
}

// placement finds the slots of a service's sockets and spreads the connections over them.
func (k *Kernel) placement(s Service, used map[uint64]bool) (*placement, error) {
	var all []candidate
	var ended error // of an instance: the others go on without it
	for _, sh := range s.Shares {
		c := candidate{release: sh.Release, weight: sh.Weight}
		if sh.Weight == 0 {
			continue
		}
		for _, sock := range sh.Sockets {
			slots, err := k.admit(sock, used)
			if errors.Is(err, errEnded) {
				ended = err
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("release %d: %w", sh.Release, err)
			}
			c.slots = append(c.slots, slots...)
		}
		all = append(all, c)
	}
	p := place(all)
	if p.Table[0] == none && ended != nil {
		return nil, ended
	}
	if s.Sticky {
		p.Sticky = 1
	}
	if s.Proxy.Process.PID != 0 {
		slots, err := k.admit(s.Proxy, used)
		if err != nil {
			return nil, fmt.Errorf("the proxy: %w", err)
		}
		for i := range p.Table {
			p.Table[i] = slots[0]
		}
	}
	return &p, nil
}

// admit returns the slots of the process's listening sockets, which are put into the map when they are not there yet.
func (k *Kernel) admit(s Socket, used map[uint64]bool) ([]uint16, error) {
	var out []uint16
	for _, c := range k.known[s] {
		if !k.there(c) {
			out = nil // closed; it may have been opened anew
			break
		}
		out, used[c] = append(out, k.slot[c]), true
	}
	if out != nil {
		return out, nil
	}
	var cookies []uint64
	err := s.listeners(func(fd int) error {
		c, err := cookie(fd)
		if err != nil {
			return err
		}
		slot, ok := k.slot[c]
		if !ok || !k.there(c) {
			if slot, ok = k.unused(); !ok {
				return fmt.Errorf("all %d slots are in use", slots)
			}
			err = k.objects.Maps["sockets"].Put(uint32(slot), uint64(fd))
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("process %d listens with Multipath TCP, which the kernel cannot steer: start it with GODEBUG=multipathtcp=0", s.Process.PID)
		}
		if err != nil {
			return fmt.Errorf("process %d: %w", s.Process.PID, err)
		}
		k.slot[c], used[c] = slot, true
		cookies, out = append(cookies, c), append(out, slot)
		return nil
	})
	if err != nil {
		return nil, err
	}
	k.known[s] = cookies
	return out, nil
}

// there reports whether the map still has the socket: a closed one leaves it by itself.
func (k *Kernel) there(c uint64) bool {
	slot, ok := k.slot[c]
	var now uint64
	return ok && k.objects.Maps["sockets"].Lookup(uint32(slot), &now) == nil && now == c
}

func (k *Kernel) unused() (uint16, bool) {
	taken := [slots]bool{}
	for _, s := range k.slot {
		taken[s] = true
	}
	i := slices.Index(taken[:], false)
	return uint16(i), i >= 0
}

// apply makes the map of services say what next says, and sees that the program runs while there are any.
func (k *Kernel) apply(next map[address]*placement) error {
	services := k.objects.Maps["services"]
	for a, p := range next {
		if was := k.inForce[a]; was != nil && *was == *p {
			continue
		}
		if err := services.Put(a, p); err != nil {
			return fmt.Errorf("place the connections: %w", err)
		}
		k.inForce[a] = p
	}
	for a := range k.inForce {
		if next[a] == nil {
			if err := services.Delete(a); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("leave the connections: %w", err)
			}
			delete(k.inForce, a)
		}
	}
	if len(next) == 0 {
		return k.detach()
	}
	return k.attach()
}

// attach runs the program for each new connection of our network namespace, in place of the one that an earlier process left.
func (k *Kernel) attach() error {
	if k.attached != nil {
		return nil
	}
	program := k.objects.Programs["steer"]
	if old, err := link.LoadPinnedLink(k.pin, nil); err == nil {
		if err := old.Update(program); err != nil {
			return errors.Join(fmt.Errorf("take over what steers: %w", err), old.Close())
		}
		k.attached = old
		return nil
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	l, err := link.AttachNetNs(int(ns.Fd()), program)
	if err != nil {
		return fmt.Errorf("steer new connections (sk_lookup): %w", err)
	}
	if err := l.Pin(k.pin); err != nil {
		return errors.Join(fmt.Errorf("keep steering without us: %w", err), l.Close())
	}
	k.attached = l
	return nil
}

// detach ends steering, also that of an earlier process.
func (k *Kernel) detach() error {
	if k.attached == nil {
		return unpin(k.pin)
	}
	err := errors.Join(k.attached.Unpin(), k.attached.Close())
	k.attached = nil
	return err
}

// forget frees the slots of sockets that nobody wants, after no table names them any more.
func (k *Kernel) forget(used map[uint64]bool) {
	for c, slot := range k.slot {
		if used[c] {
			continue
		}
		if k.there(c) {
			// A failure leaves a socket in a slot that the next one overwrites.
			_ = k.objects.Maps["sockets"].Delete(uint32(slot))
		}
		delete(k.slot, c)
	}
	maps.DeleteFunc(k.known, func(_ Socket, cookies []uint64) bool {
		return !slices.ContainsFunc(cookies, func(c uint64) bool { return used[c] })
	})
}

// Close ends what this process has of it. Steering goes on.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed, k.drains = true, 0
	err := k.endWatch()
	k.objects.Close()
	if k.attached != nil {
		err = errors.Join(err, k.attached.Close())
		k.attached = nil
	}
	return err
}
