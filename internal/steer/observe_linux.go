package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// observer looks at what instances send, while somebody needs to know: it costs each answer some hundred nanoseconds.
type observer struct {
	objects *ebpf.Collection
	links   []link.Link
	owner   map[uint64]Socket // by the cookie of the listening socket
	last    map[uint64]Counts // as Take read them
	seen    map[Socket]bool   // whose connections are watched
	missed  bool              // a connection could not be, when it was tried last
}

// placed is the value that belongs to a socket; see steer.bpf.c.
type placed struct {
	Owner uint64
	Own   uint32
	Drain uint32
}

// talk is how far a connection is; see steer.bpf.c.
type talk struct {
	Since  uint64
	Speaks uint32
	Ends   uint32
}

// unsure is what a connection speaks that was there before: whether something is under way on it is a guess.
const unsure = 3

// watching returns the observer, begun when there is none. k.mu is held.
func (k *Kernel) watching() (*observer, error) {
	if k.watch != nil {
		return k.watch, nil
	}
	group, err := unified()
	if err != nil {
		return nil, err
	}
	o := &observer{owner: map[uint64]Socket{}, last: map[uint64]Counts{}, seen: map[Socket]bool{}}
	o.objects, err = k.loadPart([]string{"accepted", "received", "answered"}, []string{"places", "talks", "counts", "watched", ".rodata"})
	if err != nil {
		return nil, fmt.Errorf("observe connections: %w", err)
	}
	if err := o.attach(group); err != nil {
		return nil, errors.Join(fmt.Errorf("observe connections: %w", err), o.close())
	}
	k.watch = o
	return o, nil
}

// unified is where version 2 of the control groups is mounted.
func unified() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no version 2 of the control groups is mounted at /sys/fs/cgroup")
}

func (o *observer) attach(group string) error {
	p := o.objects.Programs
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: o.objects.Maps["watched"].FD(), Program: p["answered"], Attach: ebpf.AttachSkMsgVerdict}); err != nil {
		return err
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: p["received"]})
	if err != nil {
		return err
	}
	o.links = append(o.links, l)
	l, err = link.AttachCgroup(link.CgroupOptions{Path: group, Attach: ebpf.AttachCGroupSockOps, Program: p["accepted"]})
	if err != nil {
		return err
	}
	o.links = append(o.links, l)
	return nil
}

func (o *observer) close() error {
	var err error
	for _, l := range o.links {
		err = errors.Join(err, l.Close())
	}
	o.objects.Close()
	return err
}

// observe begins to look at a service; moved says that its connections shall be placed anew. k.mu is held.
func (k *Kernel) observe(s Service, moved bool) error {
	o, err := k.watching()
	if err != nil {
		return err
	}
	for _, sh := range s.Shares {
		for _, sock := range sh.Sockets {
			e := nobody
			switch {
			case moved:
				e = present
			case o.seen[sock]:
				continue
			}
			o.missed = false
			if _, err := o.mark(s.Listen, sock, e); err != nil && sock.Process.Alive() {
				return err
			}
			o.seen[sock] = !o.missed
		}
	}
	return nil
}

// ending is which connections are told with their next answer that it is the last one.
type ending int

const (
	nobody  ending = iota
	present        // those that are there now: their clients come again, and are placed anew
	all            // those that come, too
)

// mark has the connections that the process took at a public address, and those it will take, observed. It returns how many
// have something under way.
func (o *observer) mark(public netip.AddrPort, s Socket, e ending) (busy int, err error) {
	h, err := hold(s)
	if err != nil {
		return 0, err
	}
	defer h.close()
	var owner uint64
	err = h.each(func(fd int, local netip.AddrPort, listens bool) error {
		if !listens || int(local.Port()) != s.Port {
			return nil
		}
		c, err := cookie(fd)
		if err != nil {
			return err
		}
		if owner == 0 {
			owner = c
		}
		if n, err := waitingAt(fd); err == nil {
			busy += n
		}
		if _, known := o.owner[owner]; !known {
			if err := o.objects.Maps["counts"].Put(owner, make([]Counts, ebpf.MustPossibleCPU())); err != nil {
				return err
			}
			o.owner[owner] = s
		}
		return o.objects.Maps["places"].Put(uint32(fd), placed{Owner: owner, Own: uint32(s.Port), Drain: flag(e == all)})
	})
	if err != nil || owner == 0 {
		return busy, err
	}
	err = h.each(func(fd int, local netip.AddrPort, listens bool) error {
		if listens || local.Port() != public.Port() {
			return nil
		}
		n, err := o.watch(fd, owner, e != nobody)
		busy += n
		return err
	})
	return busy, err
}

// watch takes one connection in; 1 when something is under way on it.
func (o *observer) watch(fd int, owner uint64, end bool) (busy int, err error) {
	info := progress(fd)
	if info == nil {
		return 0, nil // it ends already
	}
	quiet := info.Last_data_sent <= info.Last_data_recv && info.Last_data_sent >= uint32(quietFor.Milliseconds())
	var p placed
	if places := o.objects.Maps["places"]; places.Lookup(uint32(fd), &p) != nil || end && p.Drain == 0 {
		p.Owner, p.Drain = owner, flag(end)
		if err := places.Put(uint32(fd), p); err != nil {
			return 0, err
		}
	}
	var t talk
	if talks := o.objects.Maps["talks"]; talks.Lookup(uint32(fd), &t) != nil {
		if info.Last_data_recv <= info.Last_data_sent {
			t = talk{Since: monotonic(), Speaks: unsure}
		}
		if err := talks.Update(uint32(fd), t, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return 0, err
		}
	}
	seen, err := o.hook(fd)
	if err != nil || quiet && (!seen || (t.Since == 0 || t.Speaks == unsure) && t.Ends == 0) {
		return 0, err
	}
	return 1, nil
}

// hook has what is sent on a connection looked at. It cannot be where somebody else does that already, or the service has the
// kernel encrypt: such a connection is judged by its silence alone.
func (o *observer) hook(fd int) (seen bool, err error) {
	c, err := cookie(fd)
	if err != nil {
		return false, err
	}
	var now uint64
	watched := o.objects.Maps["watched"]
	if err := watched.Update(c, uint64(fd), ebpf.UpdateNoExist); err == nil || watched.Lookup(c, &now) == nil {
		return true, nil
	} else if !errors.Is(err, unix.EOPNOTSUPP) { // which is said of one that ends
		o.missed = true // the observer before this one may not be gone yet
	}
	return false, nil
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// monotonic is the clock of bpf_ktime_get_ns.
func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return uint64(t.Nano())
}

// waitingAt is how many connections wait to be accepted: for a listening socket the kernel says it in this field (tcp_get_info).
func waitingAt(fd int) (int, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return int(info.Unacked), nil
}

// Take returns what was counted since it was called last, by socket. Only answers of HTTP/1 that are not encrypted are seen.
func (k *Kernel) Take() map[Socket]Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.collect()
	out := k.taken
	k.taken = map[Socket]Counts{}
	return out
}

// collect adds what the observer counted to what was not taken yet. k.mu is held.
func (k *Kernel) collect() {
	o := k.watch
	if o == nil {
		return
	}
	for owner, s := range o.owner {
		var each []Counts
		if o.objects.Maps["counts"].Lookup(owner, &each) != nil {
			continue
		}
		var now Counts
		for _, c := range each {
			now = now.add(c, 1)
		}
		if now == o.last[owner] {
			if !s.Process.Alive() {
				// Nothing comes any more.
				_ = o.objects.Maps["counts"].Delete(owner)
				delete(o.owner, owner)
				delete(o.last, owner)
				delete(o.seen, s)
			}
			continue
		}
		k.taken[s] = k.taken[s].add(now.add(o.last[owner], -1), 1)
		o.last[owner] = now
	}
}

// add returns a + times·b; times is 1 or -1, and unsigned arithmetic wraps around both ways.
func (c Counts) add(b Counts, times int) Counts {
	n := uint64(times)
	c.Connections += n * b.Connections
	c.Nanos += n * b.Nanos
	c.Aborted += n * b.Aborted
	c.Unanswered += n * b.Unanswered
	c.Last += n * b.Last
	for i := range c.Classes {
		c.Classes[i] += n * b.Classes[i]
	}
	for i := range c.Hist {
		c.Hist[i] += n * b.Hist[i]
	}
	return c
}

// endWatch ends observation, unless connections are being ended. k.mu is held.
func (k *Kernel) endWatch() error {
	if k.watch == nil || k.drains > 0 {
		return nil
	}
	k.collect()
	err := k.watch.close()
	k.watch = nil
	return err
}

// observing ends what nobody needs any more. k.mu is held.
func (k *Kernel) observing(services []Service) error {
	k.wanted = slices.ContainsFunc(services, func(s Service) bool { return s.Observe })
	if k.wanted {
		return nil
	}
	return k.endWatch()
}
