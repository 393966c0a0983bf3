//go:build unix

package edge

import (
	"container/list"
	"syscall"
	"time"
)

// Who sends datagrams may write any address on them, so flows cost a client nothing: there is a bound to all of them, and one to those of
// a client. Where one is reached somebody makes room, the one of whom it is least known that he is there: first who was never answered in
// the time that an answer takes, then who said nothing after his answer, then who is still to be answered; of each the oldest first. Who
// went on after an answer has heard it, and stays. (Linux's own connection tracking keeps UDP by the same three ranks: unreplied, replied,
// assured.)
const (
	// maxFlows is how many flows there are at once. Each takes a file descriptor, some 9 KiB, and what the kernel needs for a socket.
	maxFlows = 10_000
	// clientFlows is how many of them one client may have: an address, or the /64 of one of IPv6.
	clientFlows = 1000
	// freshFor is the time that an answer takes. A busy server of one question and one answer has its bound full of flows that are over,
	// and those that have just begun are not to make room for each other.
	freshFor = time.Second
	// lateFlows is how many may be on their way out, as a share of all: they have a file descriptor until then.
	lateFlows = 10
	// keptBytes bounds what is kept of datagrams, of all flows together: those that wait for an instance, and the last one of each.
	keptBytes = 16 << 20
	// maxWaiting is how many datagrams of one flow wait for an instance.
	maxWaiting = 32
)

// flowBounds are how many flows there may be.
type flowBounds struct{ all, client int }

// boundsOf leaves half of the file descriptors to all else.
func boundsOf(files uint64) flowBounds {
	most := int(min(maxFlows, max(files/2, 16)))
	return flowBounds{most, max(min(clientFlows, most/2), 1)}
}

// openFilesLimit is how many files this process may have open.
func openFilesLimit() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return uint64(l.Cur) //nolint:unconvert // it is signed on some systems
}

// flowClient is what one client has.
type flowClient struct {
	n            int
	fresh, heard list.List
}

// rank is how well it is known that somebody has a flow.
type rank int

const (
	rankFresh rank = iota // no instance answered yet
	rankHeard             // one did
	rankKnown             // and the client said something after that
	rankNone              // no client reaches it any more
)

// lists are where flows of a rank wait that may have to make room, among all and among the client's; nil for the others.
func (fl *flows) lists(c *flowClient, r rank) (all, client *list.List) {
	switch r {
	case rankFresh:
		return &fl.fresh, &c.fresh
	case rankHeard:
		return &fl.heard, &c.heard
	}
	return nil, nil
}

// add makes room for a flow and takes it in, or says why there is none.
func (fl *flows) add(f *flow) (why string) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	net := network(f.key.client.Addr())
	c := fl.clients[net]
	switch {
	case len(fl.all) >= fl.bounds.all+fl.bounds.all/lateFlows+1:
		return "flows"
	case c != nil && c.n >= fl.bounds.client && !fl.crowd(&c.fresh, &c.heard):
		return "client_flows"
	case len(fl.byKey) >= fl.bounds.all && !fl.crowd(&fl.fresh, &fl.heard):
		return "flows"
	}
	fl.insert(f)
	return ""
}

// insert takes a flow in, whatever the bounds. mu is held.
func (fl *flows) insert(f *flow) {
	net := network(f.key.client.Addr())
	c := fl.clients[net]
	if c == nil {
		c = &flowClient{}
		fl.clients[net] = c
	}
	c.n++
	f.client = c
	fl.all[f], fl.byKey[f.key] = true, f
	fl.line(f)
}

// crowd ends the flow that is first to make room, if there is one. mu is held.
func (fl *flows) crowd(fresh, heard *list.List) bool {
	e := fresh.Front()
	if e == nil || heard.Len() > 0 && fl.now()-e.Value.(*flow).born < int64(freshFor) {
		e = heard.Front()
	}
	if e == nil {
		return false
	}
	f := e.Value.(*flow)
	fl.drop(f)
	f.end("crowded")
	return true
}

// line puts a flow where its rank waits. mu is held.
func (fl *flows) line(f *flow) {
	if all, client := fl.lists(f.client, f.rank); all != nil {
		f.place, f.own = all.PushBack(f), client.PushBack(f)
	}
}

// rise gives a flow another rank. mu is held.
func (fl *flows) rise(f *flow, r rank) {
	if f.rank == rankNone {
		return
	}
	if all, client := fl.lists(f.client, f.rank); all != nil {
		all.Remove(f.place)
		client.Remove(f.own)
	}
	f.rank = r
	fl.line(f)
}

// drop has a client's next datagram begin another flow. mu is held.
func (fl *flows) drop(f *flow) {
	if f.rank == rankNone {
		return
	}
	fl.rise(f, rankNone)
	if fl.byKey[f.key] == f {
		delete(fl.byKey, f.key)
	}
	if f.client.n--; f.client.n == 0 {
		delete(fl.clients, network(f.key.client.Addr()))
	}
}

// answered notes that an instance answered.
func (fl *flows) answered(f *flow) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if f.rank == rankFresh {
		fl.rise(f, rankHeard)
	}
}

// left forgets a flow that has ended.
func (fl *flows) left(f *flow) {
	fl.mu.Lock()
	fl.drop(f)
	delete(fl.all, f)
	fl.mu.Unlock()
	f.free()
	fl.s.serving.Add(-1)
}

// room asks for room to keep n bytes.
func (fl *flows) room(n int) bool {
	if fl.kept.Add(int64(n)) <= keptBytes {
		return true
	}
	fl.kept.Add(-int64(n))
	return false
}
