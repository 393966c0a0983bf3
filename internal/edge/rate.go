package edge

import (
	"container/list"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Rate bounds how many requests a time somebody may make.
type Rate struct {
	Requests int           `json:"requests"` // in each Per
	Per      time.Duration `json:"per"`
	Burst    int           `json:"burst"` // how many may come at once; at least 1
	By       string        `json:"by"`    // whose requests are counted together: client, route or header:NAME
}

// maxKeys bounds the clients or header values that one rate remembers, at some 100 bytes each. Past it the one that was
// seen least recently is forgotten, and begins anew with a whole burst.
const maxKeys = 50_000

// ByHeader is how the By of a rate begins that goes by a header's value.
const ByHeader = "header:"

func (r Rate) check(route string) error {
	name, header := strings.CutPrefix(r.By, ByHeader)
	if r.Requests < 1 || r.Per <= 0 || r.interval() <= 0 || r.Burst < 1 || r.By != "client" && r.By != "route" && (!header || name == "") {
		return fail.New(fail.Internal, "routing table", "%s: %+v is no rate", route, r)
	}
	return nil
}

// interval is the time between two requests at exactly the rate.
func (r Rate) interval() time.Duration { return r.Per / time.Duration(r.Requests) }

// rates are a route's limits with whom they have seen.
type rates struct {
	mu    sync.Mutex
	seed  maphash.Seed
	each  []*meter
	start time.Time // of the clock that they run on, which nobody sets back
}

// follow puts other rules in force. What is known under a rule that stays is kept.
func (rs *rates) follow(rules []Rate) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.start.IsZero() {
		rs.start, rs.seed = time.Now(), maphash.MakeSeed()
	}
	var next []*meter
	for _, rule := range rules {
		m := &meter{rule: rule, keys: map[uint64]*list.Element{}}
		for _, old := range rs.each {
			if old.rule == rule {
				m = old
			}
		}
		next = append(next, m)
	}
	rs.each = next
}

// admit takes a request into account at now. One that any of the rules refuses counts for none of them.
func (rs *rates) admit(a asked, now time.Time) *refusal {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	at := now.Sub(rs.start)
	var wait time.Duration
	var keys [4]uint64 // more rules than these are asked twice for their key
	for i, m := range rs.each {
		key := rs.key(m.rule.By, a)
		if i < len(keys) {
			keys[i] = key
		}
		wait = max(wait, m.wait(key, at))
	}
	if wait > 0 {
		return &refusal{status: http.StatusTooManyRequests, why: "rate", text: "too many requests: slow down (route.rate)", wait: wait}
	}
	for i, m := range rs.each {
		if i < len(keys) {
			m.take(keys[i], at)
		} else {
			m.take(rs.key(m.rule.By, a), at)
		}
	}
	return nil
}

// key says whose request it is. Only a hash is kept: it has the same size for every value that a client can think of, and the
// seed keeps clients from finding two that share one. Without the header it is the client's address.
func (rs *rates) key(by string, a asked) uint64 {
	if by == "route" {
		return 0
	}
	if name, ok := strings.CutPrefix(by, ByHeader); ok {
		if v := a.header.Get(name); v != "" {
			return maphash.String(rs.seed, v)
		}
	}
	return maphash.Comparable(rs.seed, network(a.client))
}

// network is what one client has of the Internet: an IPv4 address, or the /64 from which an IPv6 host takes as many addresses
// as it likes (RFC 4291, section 2.5.4; RFC 8981).
func network(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// meter holds somebody to a rate by the generic cell rate algorithm (ITU-T I.371, annex A; ATM Forum, Traffic Management
// 4.0, section 4.4.2, "virtual scheduling"): it is a token bucket of which only one number is kept, the theoretical arrival
// time at which the bucket would be full again.
type meter struct {
	rule Rate
	keys map[uint64]*list.Element
	seen list.List // of *arrival, the most recently seen first
}

type arrival struct {
	key  uint64
	next time.Duration // the theoretical arrival time
}

// wait is how long key must wait for its next request, 0 when it may come at.
func (m *meter) wait(key uint64, at time.Duration) time.Duration {
	e := m.keys[key]
	if e == nil {
		return 0
	}
	tolerance := time.Duration(m.rule.Burst-1) * m.rule.interval()
	return max(e.Value.(*arrival).next-tolerance-at, 0)
}

// take counts a request of key.
func (m *meter) take(key uint64, at time.Duration) {
	e := m.keys[key]
	switch {
	case e != nil:
		m.seen.MoveToFront(e)
	case m.seen.Len() < maxKeys:
		e = m.seen.PushFront(&arrival{key: key})
		m.keys[key] = e
	default:
		e = m.seen.Back()
		a := e.Value.(*arrival)
		delete(m.keys, a.key)
		*a = arrival{key: key}
		m.keys[key] = e
		m.seen.MoveToFront(e)
	}
	a := e.Value.(*arrival)
	a.next = max(a.next, at) + m.rule.interval()
}
