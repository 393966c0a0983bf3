package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

func checkPort(ctx context.Context, r *run) []Finding {
	if r.Listen == "" {
		return nil
	}
	p := port{proc.Listeners, take}
	if r.UDP {
		p = port{proc.Receivers, takeUDP}
	}
	addr, err := resolve(ctx, r.Listen)
	if err != nil {
		return []Finding{{ID: IDPort, Severity: Error, Found: fmt.Sprintf("route.listen %s: %v", r.Listen, err), Need: "an address of this machine and a port",
			Fix: "write route.listen as :8080 or 127.0.0.1:8080"}}
	}
	// Who holds it is asked before binding: macOS lets a second process bind beside a wildcard, and would say "free".
	if holders := p.holdersOf(ctx, addr); len(holders) > 0 {
		f := judgeHolders(r.Listen, holders, r.Ours, p.freeAfter(ctx, addr))
		if r.UDP {
			f.Fix = lookUDP.Replace(f.Fix)
		}
		return []Finding{f}
	}
	return []Finding{judgeBind(r.Listen, p.bind(ctx, addr), firstOpenPort())}
}

// port is what a port of a transport is looked at with.
type port struct {
	holders func(context.Context) ([]proc.Listener, error)
	take    func(ctx context.Context, addr string) (io.Closer, error)
}

func take(ctx context.Context, addr string) (io.Closer, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", addr)
}

func takeUDP(ctx context.Context, addr string) (io.Closer, error) {
	return new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
}

// resolve turns a listen address into numbers; no host means every address.
func resolve(ctx context.Context, listen string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	// Of several addresses the first IPv4 one, as net.Listen chooses.
	i := max(0, slices.IndexFunc(ips, func(a netip.Addr) bool { return a.Unmap().Is4() }))
	return netip.AddrPortFrom(ips[i].Unmap(), uint16(port)), nil
}

func (p port) holdersOf(ctx context.Context, addr netip.AddrPort) []proc.Listener {
	if addr.Port() == 0 {
		return nil
	}
	all, err := p.holders(ctx)
	if err != nil {
		return nil // binding tells what matters, only without a name
	}
	return slices.DeleteFunc(all, func(l proc.Listener) bool { return !l.On(addr) })
}

// bind takes the address and gives it back at once: nothing else proves that it can be had.
func (p port) bind(ctx context.Context, addr netip.AddrPort) error {
	host := addr.Addr().String()
	if addr.Addr() == netip.IPv6Unspecified() {
		host = "" // so that a machine without IPv6 can do it too
	}
	l, err := p.take(ctx, net.JoinHostPort(host, strconv.Itoa(int(addr.Port()))))
	if err != nil {
		return err
	}
	return l.Close()
}

// freeAfter looks for a port that could be used instead; 0 when there is none nearby.
func (p port) freeAfter(ctx context.Context, addr netip.AddrPort) int {
	from := max(int(addr.Port())+1, 1024)
	for n := from; n < min(from+20, 65536); n++ {
		if p.bind(ctx, netip.AddrPortFrom(addr.Addr(), uint16(n))) == nil {
			return n
		}
	}
	return 0
}

func judgeHolders(listen string, holders []proc.Listener, ours func(int) bool, free int) Finding {
	for _, l := range holders {
		if ours != nil && l.PID != 0 && ours(l.PID) {
			return Finding{ID: IDPort, Severity: OK, Found: fmt.Sprintf("%s is held by fairlead's edge (process %d)", listen, l.PID)}
		}
	}
	l := holders[0]
	f := Finding{ID: IDPort, Severity: Error, Need: listen + " for the edge"}
	if l.PID == 0 {
		f.Found = fmt.Sprintf("%s is held by a process of %s that cannot be seen from here", listen, l.User)
		f.Fix = "see which one it is with `" + lookCommand(runtime.GOOS, l.Port) + "`"
	} else {
		f.Found = fmt.Sprintf("%s is held by process %d (%s) of %s", listen, l.PID, short(l.Command), l.User)
		f.Fix = fmt.Sprintf("type `kill %d`", l.PID)
	}
	if !l.Since.IsZero() {
		f.Found += " since " + l.Since.Local().Format(time.DateTime)
	}
	if host, _, err := net.SplitHostPort(listen); err == nil && free != 0 {
		f.Fix += fmt.Sprintf(", or set route.listen to %s, which is free", net.JoinHostPort(host, strconv.Itoa(free)))
	}
	return f
}

// lookUDP makes of what lookCommand says what it is for UDP.
var lookUDP = strings.NewReplacer("ss -ltnp", "ss -lunp", "-iTCP:", "-iUDP:", " -sTCP:LISTEN", "")

func lookCommand(goos string, port int) string {
	if goos == "linux" {
		return fmt.Sprintf("sudo ss -ltnp sport = :%d", port)
	}
	return fmt.Sprintf("sudo lsof -nP -iTCP:%d -sTCP:LISTEN", port)
}

// short cuts a command line that would hide the rest of the sentence.
func short(command string) string {
	if command == "" {
		return "no command line"
	}
	if r := []rune(command); len(r) > 80 {
		return string(r[:79]) + "…"
	}
	return command
}

// judgeBind says why an address that nobody holds cannot be had. open is the first port that needs no privilege.
func judgeBind(listen string, err error, open int) Finding {
	f := Finding{ID: IDPort, Severity: Error, Need: listen + " for the edge"}
	switch {
	case err == nil:
		return Finding{ID: IDPort, Severity: OK, Found: listen + " is free"}
	case errors.Is(err, fs.ErrPermission):
		f.Found = fmt.Sprintf("%s: this user may only take ports from %d", listen, open)
		f.Fix = fmt.Sprintf("set route.listen to a port from %d, run as root%s", open, openCommand(runtime.GOOS, listen))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		f.Found = listen + " is not an address of this machine"
		f.Fix = "set route.listen to one that is, or to :PORT for all of them"
	default:
		f.Found = fmt.Sprintf("%s cannot be taken: %v", listen, err)
		f.Fix = "set route.listen to another address"
	}
	return f
}

func openCommand(goos, listen string) string {
	if _, port, err := net.SplitHostPort(listen); err == nil && goos == "linux" {
		return fmt.Sprintf(", or type `sudo sysctl net.ipv4.ip_unprivileged_port_start=%s`", port)
	}
	return ""
}
