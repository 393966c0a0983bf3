// Package steer lets the Linux kernel hand each new connection on a public port to one of the instances' own listening
// sockets, by weight, with no process in between: the services are not changed, see their clients' own addresses, and go on
// being reached when every process of fairlead is gone.
//
// A [Kernel] gets whole lists of services, never patches. What the kernel runs is in steer.bpf.c and port.bpf.c; the objects are
// made from them by `go generate` and checked in, so that building fairlead needs no C compiler.
package steer

//go:generate clang-14 -O2 -g -Wall -target bpf -fdebug-compilation-dir=. -I/usr/include/x86_64-linux-gnu -c steer.bpf.c -o steer.bpf.o
//go:generate clang-14 -O2 -g -Wall -target bpf -fdebug-compilation-dir=. -I/usr/include/x86_64-linux-gnu -c port.bpf.c -o port.bpf.o
//go:generate llvm-strip-14 -g steer.bpf.o port.bpf.o

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

// Service is one public address and who gets its new connections.
type Service struct {
	Listen  netip.AddrPort // an unspecified address stands for every one
	Sticky  bool           // a client's connections go to one release while its share only grows, chosen by the client's address
	Shares  []Share        // whose connections they become; where none can take one, it is left to who listens at Listen
	Proxy   Socket         // with a process: it gets all of them, and the instances only when it is gone
	Observe bool           // what instances answer is counted, see [Kernel.Take], and connections are placed anew when shares change
}

// Share is a release's part of the new connections.
type Share struct {
	Release int
	Weight  int // percent
	Sockets []Socket
}

// Socket is where a process takes connections.
type Socket struct {
	Process proc.ID
	Port    int
}

// The layout of steer.bpf.c.
const (
	buckets = 1024
	rescues = 8
	slots   = 1024
	none    = 0xffff
)

// address is the key of the map of services.
type address struct {
	IP   [16]byte
	Port uint32
}

func addressOf(a netip.AddrPort) address {
	out := address{Port: uint32(a.Port())}
	if ip := a.Addr(); !ip.IsUnspecified() {
		out.IP = ip.As16()
	}
	return out
}

// placement is the value of the map of services.
type placement struct {
	Sticky uint32
	Rescue [rescues]uint16
	Table  [buckets]uint16
}

// candidate is a share with the slots that its sockets have.
type candidate struct {
	release, weight int
	slots           []uint16
}

// place spreads the buckets over the candidates. While a newer release's weight grows, buckets only change from older ones to
// it; while a release gains or loses an instance, only that instance's buckets change. Both keep clients where they are when
// the bucket follows the client.
func place(all []candidate) (p placement) {
	for i := range p.Table {
		p.Table[i] = none
	}
	for i := range p.Rescue {
		p.Rescue[i] = none
	}
	all = slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.weight <= 0 || len(c.slots) == 0 })
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(b.release, a.release) })
	total, sum := 0, 0
	for _, c := range all {
		total += c.weight
	}
	from := 0
	for _, c := range all {
		sum += c.weight
		to := sum * buckets / total
		for n := from; n < to; n++ {
			// An odd factor visits every bucket once and spreads each share over all of them.
			b := n * 619 % buckets
			p.Table[b] = choose(c.slots, b)
		}
		from = to
	}
	// Who has the most traffic can best take more.
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.weight, a.weight) })
	n := 0
	for _, c := range all {
		for _, s := range c.slots {
			if n < rescues {
				p.Rescue[n] = s
				n++
			}
		}
	}
	return p
}

// choose is rendezvous hashing (Thaler and Ravishankar, 1998): each bucket goes to the socket with which it scores best.
func choose(among []uint16, bucket int) uint16 {
	best, top := uint16(none), uint32(0)
	for _, s := range among {
		score := mix(uint32(bucket)*0x9e3779b9 ^ mix(uint32(s)+1))
		if best == none || score > top {
			best, top = s, score
		}
	}
	return best
}

// mix spreads neighbouring numbers: the finalizer of MurmurHash3 (Appleby, 2011).
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// Counts are what was seen of one socket's connections while they were observed.
type Counts struct {
	Connections uint64
	Nanos       uint64    // of all answers together
	Aborted     uint64    // requests whose client went away before the answer
	Unanswered  uint64    // requests whose connection the service closed without an answer
	Last        uint64    // answers that were made their connection's last one
	Classes     [6]uint64 // answers by the first digit of their status; 0: those of Unanswered
	Hist        [178]uint64
}

// BucketEnd is the upper bound of bucket i of [Counts.Hist] in nanoseconds, as a power of two plus eighths of it; the last
// bucket has none.
func BucketEnd(i int) uint64 {
	const first, octaves = 16, 22
	if i == 0 || i >= len(Counts{}.Hist)-1 {
		return 1 << (first + min(i, 1)*octaves)
	}
	base := uint64(1) << (first + (i-1)/8)
	return base + base/8*uint64((i-1)%8+1)
}
