//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses are the same in every fleet: no network of one is seen from another, nor from the machine.
const (
	subnet     = "10.88.0"
	ClientAddr = subnet + ".2" // the client's address, which the hosts reach
	firstHost  = 11
)

// clientName is what the hosts know the client by.
const clientName = "client"

// The namespaces: one with the bridge, one of the client, and one a host, "h." and its name.
const (
	bridgeNS = "net"
	clientNS = "client"
)

// port is the number of a bridge port: 0 is the client's, the hosts' begin at 1. Its device is named p and the number. While
// frames are held up on their way, t and the number stands in the bridge for it, and s is the other end of t.
type port int

func (p port) String() string { return fmt.Sprintf("p%d", int(p)) }

func (p port) hardware() string { return fmt.Sprintf("02:88:00:00:00:%02x", int(p)) }

func (p port) detour() string { return fmt.Sprintf("s%d", int(p)) }

func (p port) slow() string { return fmt.Sprintf("t%d", int(p)) }

// devices is a set for nft: whichever of the port's devices is in the bridge.
func (p port) devices() string { return fmt.Sprintf("{ %s, %s }", p, p.slow()) }

// network is the state of the wires: what is dropped, and what is held up.
type network struct {
	mu      sync.Mutex
	dropped map[port]bool
	cut     map[[2]port]bool
	lines   map[port]*line
}

const makeBridge = `
ip netns add net
ip -n net link set lo up
ip -n net link add br0 type bridge
ip -n net link set br0 up
ip netns exec net nft 'add table bridge faults; add chain bridge faults frames { type filter hook forward priority 0; }'
`

// plug makes the namespace $1 with the address $2 and connects it by the bridge port $3. Its hardware address $4 is the same
// after every boot, as a machine's is: neighbours would go on sending to the old one.
const plug = `
ip netns add "$1"
ip -n "$1" link set lo up
ip -n net link add "$3" type veth peer name eth0 netns "$1" address "$4"
ip -n net link set "$3" master br0 up
ip -n "$1" address add "$2/24" dev eth0
ip -n "$1" link set eth0 up
`

// unplug takes the port $2 away first: what the namespace $1 still had to say, as the end of its connections, is not heard.
const unplug = `
ip -n net link delete "$2"
ip netns delete "$1"
`

// plug gives the host a network without a past, as every boot does.
func (h *Host) plug(ctx context.Context) error {
	n := &h.fleet.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := h.fleet.keeper.sh(ctx, plug, h.netns(), h.Address, h.port.String(), h.port.hardware()); err != nil {
		return err
	}
	h.plugged = true
	if l := n.lines[h.port]; l != nil {
		return h.bend(ctx, l)
	}
	return nil
}

// unplug takes the host off the network. How slow it was is kept for its next boot.
func (h *Host) unplug(ctx context.Context) error {
	n := &h.fleet.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if !h.plugged {
		return nil
	}
	h.plugged = false
	if l := n.lines[h.port]; l != nil {
		if err := h.straight(ctx); err != nil {
			return err
		}
		n.lines[h.port] = &line{delay: l.delay, loss: l.loss}
	}
	return h.fleet.keeper.sh(ctx, unplug, h.netns(), h.port.String())
}

func (f *Fleet) makeNetwork(ctx context.Context) error {
	f.network = network{dropped: map[port]bool{}, cut: map[[2]port]bool{}, lines: map[port]*line{}}
	if err := f.keeper.sh(ctx, makeBridge); err != nil {
		return err
	}
	return f.keeper.sh(ctx, plug, clientNS, ClientAddr, port(0).String(), port(0).hardware())
}

// filter puts what is dropped and cut into force, as one change.
func (f *Fleet) filter(ctx context.Context, change func(n *network)) error {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	change(&f.network)
	var rules strings.Builder
	rules.WriteString("flush chain bridge faults frames\n")
	for p := range f.network.dropped {
		fmt.Fprintf(&rules, "add rule bridge faults frames iifname %s drop\n", p.devices())
		fmt.Fprintf(&rules, "add rule bridge faults frames oifname %s drop\n", p.devices())
	}
	for pair := range f.network.cut {
		fmt.Fprintf(&rules, "add rule bridge faults frames iifname %s oifname %s drop\n", pair[0].devices(), pair[1].devices())
	}
	return f.keeper.sh(ctx, `printf %s "$1" | ip netns exec net nft -f -`, rules.String())
}

// Client makes a command run in the client's network: it reaches the hosts and nothing else. The command is changed and
// returned; its process is the one that it would have been.
func (f *Fleet) Client(cmd *exec.Cmd) *exec.Cmd { return f.in(clientNS, cmd) }

func (f *Fleet) in(netns string, cmd *exec.Cmd) *exec.Cmd {
	if cmd.Err != nil {
		return cmd // it is not there; Start will say so
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		cmd.Err = err
		return cmd
	}
	cmd.Args = append([]string{"nsenter", "--net=" + f.keeper.netns(netns), "--", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = nsenter
	return cmd
}

// within calls f on a thread that is in a network namespace. A socket stays in the namespace it was made in, so what f
// opens may be used anywhere.
func (k *keeper) within(netns string, f func() error) error {
	there, err := os.Open(k.netns(netns))
	if err != nil {
		return err
	}
	defer there.Close()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	done := make(chan error, 1)
	// A goroutine that ends with its thread locked ends the thread: one that could not go back is used by nobody again.
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network %s: %w", netns, err)
			return
		}
		err := f()
		if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Dial connects from the client's network to a host, which may be named.
func (f *Fleet) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if h := f.find(host); h != nil {
		host = h.Address
	}
	// Only for an address does all of the dialing happen on the one thread that is in the client's network.
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s: the fleet has no host %q", address, host)
	}
	var conn net.Conn
	d := net.Dialer{Timeout: 10 * time.Second}
	err = f.keeper.within(clientNS, func() (err error) {
		conn, err = d.DialContext(ctx, network, net.JoinHostPort(host, port))
		return err
	})
	return conn, err
}

// Listen listens in the client's network, as for something that hosts fetch from or report to: [ClientAddr], which they
// also know by the name "client".
func (f *Fleet) Listen(port int) (net.Listener, error) {
	var l net.Listener
	err := f.keeper.within(clientNS, func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(ClientAddr, fmt.Sprint(port)))
		return err
	})
	return l, err
}

// HTTP returns a client of HTTP that sits in the client's network. A request has a minute.
func (f *Fleet) HTTP() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: f.Dial, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute}}
}

// errNoPort is for the name of no member.
var errNoPort = errors.New("neither the client nor a host")

func (f *Fleet) port(name string) (port, error) {
	if name == clientName {
		return 0, nil
	}
	if h := f.find(name); h != nil {
		return h.port, nil
	}
	return 0, fmt.Errorf("%q is %w", name, errNoPort)
}
