//go:build unix

package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
)

const (
	// packetQueue is how many packets wait for another generation to read them.
	packetQueue = 1024
	// goneFor is how long a generation that does not answer is taken for one that is no more.
	goneFor = time.Second
	// dialOther bounds the time in which another generation, on the same machine, takes a connection.
	dialOther = 100 * time.Millisecond
)

// others are the generations of the edge that live besides this one. Packets go from one to another over a unix socket that each has:
// a stream and no datagrams, for of those the kernel keeps only ten waiting on many machines.
type others struct {
	dirs home.Dirs
	own  generation
	keys *quicKeys
	log  *slog.Logger
	in   net.Listener
	put  func(packet) // takes what others pass on to us

	mu     sync.Mutex
	all    map[generation]*other
	conns  map[net.Conn]bool
	closed bool
	group  sync.WaitGroup
}

// other is another generation, or a note that there is none.
type other struct {
	out   chan *[]byte // nil where there is none
	until time.Time    // when it is looked for again
	gone  atomic.Bool
}

// passedBytes are packets on their way to another generation.
var passedBytes = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// openOthers makes this generation known to others, which may be older or younger.
func openOthers(d home.Dirs, own generation, keys *quicKeys, log *slog.Logger, put func(packet)) (*others, error) {
	o := &others{dirs: d, own: own, keys: keys, log: log, put: put, all: map[generation]*other{}, conns: map[net.Conn]bool{}}
	o.sweep()
	var err error
	if o.in, err = home.Listen(o.sock(own)); err != nil {
		return nil, err
	}
	o.group.Go(o.listen)
	return o, nil
}

func (o *others) sock(g generation) string { return o.dirs.Sock(fmt.Sprintf("edge-%08x", uint32(g))) }

// sweep removes the sockets of generations that were killed.
func (o *others) sweep() {
	paths, _ := filepath.Glob(o.dirs.Sock("edge-????????"))
	for _, path := range paths {
		c, err := net.DialTimeout("unix", path, dialOther)
		if err == nil {
			c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}

// keep notes a connection that close ends; false where that has been.
func (o *others) keep(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.conns[c] = true
	}
	return !o.closed
}

func (o *others) end(c net.Conn) {
	c.Close()
	o.mu.Lock()
	delete(o.conns, c)
	o.mu.Unlock()
}

// listen takes the packets of others.
func (o *others) listen() {
	for {
		c, err := o.in.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			o.log.Error("cannot take another edge's packets", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		if !o.keep(c) {
			c.Close()
			return
		}
		o.group.Go(func() {
			defer o.end(c)
			for r := bufio.NewReaderSize(c, 64<<10); ; {
				p, err := readPacket(r)
				if err != nil {
					return
				}
				o.put(p)
			}
		})
	}
}

// find returns a generation that lives, nil for one that does not.
func (o *others) find(g generation) *other {
	o.mu.Lock()
	defer o.mu.Unlock()
	x := o.all[g]
	if x != nil && x.out != nil && !x.gone.Load() {
		return x
	}
	if now := time.Now(); x == nil || !now.Before(x.until) {
		x = o.dial(g, now)
		o.all[g] = x
	}
	if x.out == nil || x.gone.Load() {
		return nil
	}
	return x
}

// dial begins to pass packets on to a generation. o.mu is held.
func (o *others) dial(g generation, now time.Time) *other {
	x := &other{until: now.Add(goneFor)}
	if o.closed {
		return x
	}
	c, err := net.DialTimeout("unix", o.sock(g), dialOther)
	if err != nil {
		return x
	}
	o.conns[c] = true
	x.out = make(chan *[]byte, packetQueue)
	ended := make(chan struct{})
	o.group.Go(func() { // it says nothing: what comes is its end
		io.Copy(io.Discard, c)
		x.gone.Store(true)
		close(ended)
	})
	o.group.Go(func() {
		defer o.end(c)
		x.pass(c, ended)
		x.gone.Store(true)
	})
	return x
}

// pass writes packets until the other generation ends.
func (x *other) pass(c net.Conn, ended <-chan struct{}) {
	w := bufio.NewWriterSize(c, 64<<10)
	for {
		select {
		case <-ended:
			return
		case b := <-x.out:
			_, err := w.Write(*b)
			passedBytes.Put(b)
			if err == nil && len(x.out) == 0 {
				err = w.Flush()
			}
			if err != nil {
				return
			}
		}
	}
}

// give passes a packet on. Where too many wait it is lost, as the network loses packets.
func (x *other) give(p packet) {
	b := passedBytes.Get().(*[]byte)
	*b = p.append((*b)[:0])
	select {
	case x.out <- b:
	default:
		passedBytes.Put(b)
	}
}

// close ends the passing of packets, to us and from us.
func (o *others) close() {
	o.mu.Lock()
	o.closed = true
	os.Remove(o.sock(o.own))
	o.in.Close()
	for c := range o.conns {
		c.Close()
	}
	o.mu.Unlock()
	o.group.Wait()
}
