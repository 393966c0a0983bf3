package proc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// socket is one listening line of /proc/net/tcp, or one of /proc/net/udp that has no peer.
type socket struct {
	addr  netip.AddrPort
	uid   string
	inode string
}

// transport is a table of the kernel's, and the state that it prints of sockets which anybody may send to (<net/tcp_states.h>): TCP_LISTEN,
// or for UDP, which has no such state, TCP_CLOSE.
type transport struct{ table, state string }

var overTCP, overUDP = transport{"tcp", "0A"}, transport{"udp", "07"}

func listeners(ctx context.Context) ([]Listener, error) { return ofAll(ctx, overTCP) }

func listenersOf(ctx context.Context, pid int) ([]Listener, error) { return ofOne(ctx, overTCP, pid) }

func receivers(ctx context.Context) ([]Listener, error) { return ofAll(ctx, overUDP) }

func receiversOf(ctx context.Context, pid int) ([]Listener, error) { return ofOne(ctx, overUDP, pid) }

// receiving lists the addresses alone, which costs no look at processes.
func receiving(context.Context) (out []netip.AddrPort, err error) {
	socks, err := overUDP.sockets("self")
	for _, s := range socks {
		out = append(out, s.addr)
	}
	return out, err
}

func ofAll(ctx context.Context, over transport) ([]Listener, error) {
	parent, err := parents(ctx)
	if err != nil {
		return nil, err
	}
	pids := make(map[int]bool, len(parent))
	for pid := range parent {
		pids[pid] = true
	}
	return over.collect(ctx, "self", pids, true)
}

func ofOne(ctx context.Context, over transport, pid int) ([]Listener, error) {
	parent, err := parents(ctx)
	if err != nil {
		return nil, err
	}
	return over.collect(ctx, strconv.Itoa(pid), family(parent, pid), false)
}

// sockets are those that process view sees.
func (o transport) sockets(view string) (socks []socket, err error) {
	for _, name := range []string{o.table, o.table + "6"} {
		f, err := os.Open("/proc/" + view + "/net/" + name)
		if errors.Is(err, os.ErrNotExist) && name != o.table {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		found, err := parseSockets(f, o.state)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		socks = append(socks, found...)
	}
	return socks, nil
}

// collect joins the sockets that process view sees with those of pids that hold them; strangers keeps the sockets whose
// owner was not found.
func (o transport) collect(ctx context.Context, view string, pids map[int]bool, strangers bool) ([]Listener, error) {
	socks, err := o.sockets(view)
	if err != nil {
		return nil, err
	}
	owners := map[string][]int{}
	for _, s := range socks {
		owners[s.inode] = nil
	}
	if err := findOwners(ctx, owners, pids); err != nil {
		return nil, err
	}
	known := map[int]Listener{}
	var out []Listener
	for _, s := range socks {
		for _, pid := range owners[s.inode] {
			l, ok := known[pid]
			if !ok {
				l = describe(pid)
				known[pid] = l
			}
			l.Addr, l.Port = s.addr.String(), int(s.addr.Port())
			out = append(out, l)
		}
		if len(owners[s.inode]) == 0 && strangers {
			out = append(out, Listener{Addr: s.addr.String(), Port: int(s.addr.Port()), User: userName(s.uid)})
		}
	}
	return out, nil
}

// parseSockets reads the lines with a state of a table in the form of proc_net_tcp(5) and passes over everything else.
func parseSockets(r io.Reader, state string) ([]socket, error) {
	var out []socket
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 || f[3] != state {
			continue
		}
		if _, err := strconv.ParseUint(f[9], 10, 64); err != nil {
			continue
		}
		if addr, ok := parseHexAddr(f[1]); ok {
			out = append(out, socket{addr, f[7], f[9]})
		}
	}
	return out, sc.Err()
}

// parseHexAddr reads 0100007F:1F90: 32-bit words in the machine's own byte order, then the port as a plain number.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(host) != 8 && len(host) != 32 {
		return netip.AddrPort{}, false
	}
	var b []byte
	for i := 0; i < len(host); i += 8 {
		w, err := strconv.ParseUint(host[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), ok
}

// findOwners fills owners, whose keys are the wanted inodes. A process that ends meanwhile or is not ours to look at
// owns nothing.
func findOwners(ctx context.Context, owners map[string][]int, pids map[int]bool) error {
	for pid := range pids {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := fmt.Sprintf("/proc/%d/fd/", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		seen := map[string]bool{} // a process may hold one socket under several numbers
		for _, fd := range fds {
			link, err := os.Readlink(dir + fd.Name())
			if err != nil {
				continue
			}
			inode, ok := strings.CutPrefix(link, "socket:[")
			inode = strings.TrimSuffix(inode, "]")
			if _, wanted := owners[inode]; ok && wanted && !seen[inode] {
				seen[inode] = true
				owners[inode] = append(owners[inode], pid)
			}
		}
	}
	return nil
}

// parents maps every process to the one that started it.
func parents(ctx context.Context) (map[int]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	parent := map[int]int{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if f, err := stat(pid); err == nil {
			parent[pid], _ = strconv.Atoi(f[1])
		}
	}
	return parent, nil
}

// describe says who pid is; what cannot be read stays empty.
func describe(pid int) Listener {
	l := Listener{PID: pid}
	dir := fmt.Sprintf("/proc/%d", pid)
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil {
		l.Command = strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	}
	if fi, err := os.Stat(dir); err == nil {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			l.User = userName(strconv.FormatUint(uint64(st.Uid), 10))
		}
	}
	id, err := identify(pid)
	if boot := bootTime(); err == nil && !boot.IsZero() {
		l.Since = boot.Add(time.Duration(id.Start) * time.Second / ticksPerSecond)
	}
	return l
}

func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

var bootTime = sync.OnceValue(func() time.Time {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	return parseBootTime(string(b))
})

func parseBootTime(stat string) time.Time {
	for line := range strings.Lines(stat) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
				return time.Unix(n, 0)
			}
		}
	}
	return time.Time{}
}
