//go:build unix

package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tcpService is an instance that takes connections and says what serve says on them.
func tcpService(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().String()
}

// named says a name and then whatever it hears, up to its end.
func named(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		io.WriteString(c, name+"\n")
		io.Copy(c, c)
	}
}

// passed is a table in which all connections go to the instances of release 1.
func passed(s Stream, addrs ...string) Table {
	t := oneRoute(addrs...)
	t.Routes[0].Stream = &s
	return t
}

// line reads one.
func (c *raw) line() string {
	c.t.Helper()
	s, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q %v", s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

func (c *raw) closeWrite() {
	c.t.Helper()
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// rest reads up to the end.
func (c *raw) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("%q %v", b, err)
	}
	return string(b)
}

// reset reports whether the connection ends as one that was broken off.
func (c *raw) reset() bool {
	_, err := io.Copy(io.Discard, c.r)
	return errors.Is(err, syscall.ECONNRESET)
}

// breaksOff reports whether a connection to an address is broken off, be it before the client knows that it is there.
func breaksOff(t *testing.T, addr string) bool {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = io.Copy(io.Discard, c)
	}
	return errors.Is(err, syscall.ECONNRESET)
}

// What one side says the other hears, and the end of each side by itself.
func TestPassTCP(t *testing.T) {
	g := startEdge(t, newDirs(t))
	heard := make(chan string, 1)
	g.set(passed(Stream{}, tcpService(t, func(c *net.TCPConn) {
		io.WriteString(c, "hello\n")
		b, _ := io.ReadAll(c) // up to the client's end
		heard <- sum(b)
		c.Write(b)
	})))
	c := dialRaw(t, g.addr())
	if got := c.line(); got != "hello" {
		t.Fatalf("%q", got)
	}
	big := noise(5 << 20)
	go func() {
		c.Write(big)
		c.Conn.(*net.TCPConn).CloseWrite()
	}()
	if got := receive(t, heard); got != sum(big) {
		t.Error("the instance heard something else")
	}
	if got := c.rest(); got != string(big) {
		t.Errorf("%d bytes came back", len(got))
	}
	if got := g.settled(1); got.Failed+got.Aborted+got.Refused != 0 || got.Bytes != uint64(len(big)+6) {
		t.Errorf("%+v", got)
	}
	if got := g.counts(1, 1); got.Requests != 1 || got.Open != 0 || got.Bytes != uint64(len(big)+6) || got.Classes[0] != 1 {
		t.Errorf("%+v", got)
	}
}

// An instance that ends its side still hears the client.
func TestPassHalfClosedByTheInstance(t *testing.T) {
	g := startEdge(t, newDirs(t))
	heard := make(chan string, 1)
	g.set(passed(Stream{}, tcpService(t, func(c *net.TCPConn) {
		io.WriteString(c, "that is all")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})))
	c := dialRaw(t, g.addr())
	if got := c.rest(); got != "that is all" {
		t.Fatalf("%q", got)
	}
	c.send("and I say")
	c.closeWrite()
	if got := receive(t, heard); got != "and I say" {
		t.Errorf("%q", got)
	}
	if got := g.settled(1); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
}

// An instance that takes no connection is left out, and nobody notices; with none at all a client waits, as long as there is hope.
func TestPassToAnother(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(passed(Stream{}, closedPort(t), tcpService(t, named("two"))))
	for range 20 {
		c := dialRaw(t, g.addr())
		if got := c.line(); got != "two" {
			t.Fatalf("%q", got)
		}
		c.Close()
	}
	if got := g.settled(20); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
	g.set(passed(Stream{}))
	held := dialRaw(t, g.addr())
	held.send("said before there was anybody\n")
	eventually(t, func() bool { return g.counts(0, 0).Open == 1 })
	g.set(passed(Stream{}, tcpService(t, named("late"))))
	if got := held.line() + " " + held.line(); got != "late said before there was anybody" {
		t.Errorf("%q", got)
	}
}

// What nobody takes is broken off, and not ended as if there were nothing to say; who leaves before is not failed.
func TestPassToNobody(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.proxy.hold = 50 * time.Millisecond
	log := g.logs()
	table := logged(everyRequest, closedPort(t))
	table.Routes[0].Stream = &Stream{}
	for i, x := range []struct {
		what   string
		change func(*Route)
	}{
		{"a connection that no instance took", func(*Route) {}},
		{"a connection without an instance", func(r *Route) { r.Backends = nil }},
		{"a connection to a service that is stopped", func(r *Route) { r.Stopped = true }},
	} {
		x.change(&table.Routes[0])
		g.set(table)
		if !breaksOff(t, g.addr()) {
			t.Errorf("%s ended in order", x.what)
		}
		n := uint64(i + 1)
		if got := g.settled(n); got.Failed != n || got.Undone != n || got.Unplaced != n-1 {
			t.Errorf("%s: %+v", x.what, got)
		}
	}
	var why []string
	for _, l := range log.wait(3) {
		why = append(why, fmt.Sprint(l["outcome"], " ", l["error.type"]))
	}
	if got := strings.Join(why, ", "); got != "failed no_instance, failed no_instance, failed stopped" {
		t.Error(got)
	}
}

// Who does not wait for an instance is not failed; one who has ended his side behind what he said waits.
func TestPassToNobodyYet(t *testing.T) {
	g := startEdge(t, newDirs(t))
	log := g.logs()
	table := logged(everyRequest)
	table.Routes[0].Stream = &Stream{}
	g.set(table)
	impatient, patient := dialRaw(t, g.addr()), dialRaw(t, g.addr())
	patient.send("I wait\n")
	patient.closeWrite()
	eventually(t, func() bool { return g.counts(0, 0).Open == 2 })
	impatient.Close()
	if l := log.last(1); l["outcome"] != "aborted" || l["error.type"] != "client_gone" || l["connected"] != nil {
		t.Errorf("%v", l)
	}
	table.Routes[0].Backends[0].Endpoints = ends(tcpService(t, named("late")))
	g.set(table)
	if got := patient.rest(); got != "late\nI wait\n" {
		t.Errorf("%q", got)
	}
	if got := g.settled(2); got.Failed != 0 || got.Aborted != 1 {
		t.Errorf("%+v", got)
	}
}

// How connections end is how they count.
func TestPassEndings(t *testing.T) {
	g := startEdge(t, newDirs(t))
	log := g.logs()
	table := logged(everyRequest, tcpService(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			word, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case word == "reset\n":
				c.SetLinger(0)
				return
			case word == "end\n":
				return
			}
			io.WriteString(c, word)
		}
	}))
	table.Routes[0].Stream = &Stream{Idle: 300 * time.Millisecond}
	g.set(table)
	for i, c := range []struct {
		name, say, hear string
		then            func(*raw)
		want            string
	}{
		{"in order", "a\n", "a", func(c *raw) { c.closeWrite(); c.rest() }, "served <nil> info"},
		{"ended by the instance", "end\n", "", func(c *raw) { c.rest(); c.Close() }, "served <nil> info"},
		{"reset by the instance at once", "reset\n", "", func(c *raw) {
			if !c.reset() {
				c.t.Error("the client is not told")
			}
		}, "failed no_answer error"},
		{"reset by the instance at once, the client's side being ended", "reset\n", "", func(c *raw) {
			c.Conn.(*net.TCPConn).CloseWrite() // it may be too late for that
			if !c.reset() {
				c.t.Error("the client is not told")
			}
		}, "failed no_answer error"},
		{"reset by the instance later", "a\nreset\n", "a", func(c *raw) {
			if !c.reset() {
				c.t.Error("the client is not told")
			}
		}, "served broken_off info"},
		{"reset by the client", "a\n", "a", func(c *raw) { c.Conn.(*net.TCPConn).SetLinger(0); c.Close() }, "aborted client_gone warn"},
		{"silent", "a\n", "a", func(c *raw) { c.rest() }, "served idle_timeout info"},
	} {
		conn := dialRaw(t, g.addr())
		conn.send(c.say)
		if c.hear != "" && conn.line() != c.hear {
			t.Errorf("%s: something else was said", c.name)
		}
		c.then(conn)
		l := log.last(i + 1)
		if got := fmt.Sprint(l["outcome"], " ", l["error.type"], " ", l["level"]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if l["network.transport"] != "tcp" || l["instance"] != 1.0 || l["release"] != 1.0 || l["client.address"] != "127.0.0.1" || l["http.request.method"] != nil ||
			l["bytes_received"] != float64(len(c.say)) || l["connected"] == nil {
			t.Errorf("%s: %v", c.name, l)
		}
	}
	if got := g.settled(7); got.Failed != 2 || got.Aborted != 1 || got.Undone != 2 {
		t.Errorf("%+v", got)
	}
}

// A connection on which something goes over is not silent, in whichever direction; one whose client takes nothing is.
func TestPassIdle(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(passed(Stream{Idle: time.Second}, tcpService(t, func(c *net.TCPConn) { // a busy machine is not silent for that long
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			<-tick.C
			io.WriteString(c, "x")
		}
		if n, err := io.Copy(c, endless{}); err == nil {
			t.Error("it was all taken", n)
		}
	})))
	c := dialRaw(t, g.addr())
	if _, err := io.ReadFull(c.r, make([]byte, 30)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if got := g.settled(1); time.Since(start) < 150*time.Millisecond || got.Failed+got.Aborted != 0 {
		t.Errorf("%s %+v", time.Since(start), got)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Limits of clients are limits of connections.
func TestPassGuarded(t *testing.T) {
	g := startEdge(t, newDirs(t))
	log := g.logs()
	table := logged(everyRequest, tcpService(t, named("one")))
	r := &table.Routes[0]
	r.Stream, r.Guard = &Stream{}, &Guard{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	g.set(table)
	if !breaksOff(t, g.addr()) {
		t.Error("a stranger was let in")
	}
	r.Guard = &Guard{Rates: []Rate{{Requests: 1, Per: time.Hour, Burst: 1, By: "client"}}}
	g.set(table)
	c := dialRaw(t, g.addr())
	c.line()
	if !breaksOff(t, g.addr()) {
		t.Error("a second one was let in")
	}
	c.Close()
	r.Guard = &Guard{Concurrency: Concurrency{Limit: 1, Queue: 1, Wait: patience}}
	g.settled(3)
	g.set(table)
	first := dialRaw(t, g.addr())
	first.line()
	second := dialRaw(t, g.addr())
	eventually(t, func() bool { return g.waiters() == 1 })
	if !breaksOff(t, g.addr()) {
		t.Error("a third one was let in")
	}
	first.Close()
	if got := second.line(); got != "one" {
		t.Errorf("%q", got)
	}
	second.Close()
	if got := g.settled(6); got.Refused != 3 || got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
	if busy, waiting := g.queued(); busy+waiting != 0 {
		t.Errorf("%d with the instance, %d waiting", busy, waiting)
	}
	var why []string
	for _, l := range log.wait(6) {
		if l["outcome"] != "served" {
			why = append(why, fmt.Sprint(l["outcome"], " ", l["error.type"]))
		}
	}
	if got := strings.Join(why, ", "); got != "refused address, refused rate, refused queue" {
		t.Error(got)
	}
}

// Weights hold for connections; who is sticky stays with the release that his address stands for; an instance that is taken out of the
// table keeps the connections it has.
func TestPassByWeight(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := passed(Stream{}, tcpService(t, named("old")))
	r := &table.Routes[0]
	r.Backends = append(r.Backends, Backend{Release: 2, Weight: 0, Endpoints: ends(tcpService(t, named("new")))})
	r.Backends[0].Weight = 100
	g.set(table)
	kept := dialRaw(t, g.addr())
	if got := kept.line(); got != "old" {
		t.Fatalf("%q", got)
	}
	r.Backends[0].Weight, r.Backends[1].Weight = 50, 50
	g.set(table)
	seen := map[string]int{}
	for range 100 {
		c := dialRaw(t, g.addr())
		seen[c.line()]++
		c.Close()
	}
	if seen["old"] < 20 || seen["new"] < 20 {
		t.Errorf("%v", seen)
	}
	r.Sticky = "client"
	g.set(table)
	clear(seen)
	for range 20 {
		c := dialRaw(t, g.addr())
		seen[c.line()]++
		c.Close()
	}
	if len(seen) != 1 {
		t.Errorf("a sticky client saw %v", seen)
	}
	r.Backends = r.Backends[1:]
	r.Backends[0].Weight = 100
	g.set(table)
	kept.send("still there\n")
	if got := kept.line(); got != "still there" {
		t.Errorf("%q", got)
	}
	if n := g.s.stats.Open("shop", "prod", 1, 1); n != 1 {
		t.Errorf("a drain would wait for %d connections", n)
	}
	kept.Close()
	eventually(t, func() bool { return g.s.stats.Open("shop", "prod", 1, 1) == 0 })
}

// What goes wrong on purpose goes wrong with connections, too.
func TestPassFaults(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := passed(Stream{}, tcpService(t, named("one")))
	b := &table.Routes[0].Backends[0]
	b.Faults = []Fault{{Share: 100, Abort: 503}}
	g.set(table)
	if !breaksOff(t, g.addr()) {
		t.Error("nothing went wrong")
	}
	if got := g.settled(1); got.Failed != 1 || g.counts(1, 1).Failed != 1 {
		t.Errorf("%+v", got)
	}
	b.Faults = []Fault{{Share: 100, Delay: 100 * time.Millisecond}}
	g.set(table)
	start := time.Now()
	c := dialRaw(t, g.addr())
	c.send("asked before\n")
	if got := c.line() + c.line(); got != "oneasked before" || time.Since(start) < 100*time.Millisecond {
		t.Errorf("%q after %s", got, time.Since(start))
	}
}

// An address may become one of plain TCP by a table and one of HTTP again; connections that are there stay what they are.
func TestPassComesAndGoes(t *testing.T) {
	g := newRig(t, says("http"))
	web := client(t)
	if _, body := get(t, web, g.url()); body != "http" {
		t.Fatal(body)
	}
	old := g.s.last
	g.set(passed(Stream{}, tcpService(t, named("tcp"))))
	c := dialRaw(t, g.addr())
	if got := c.line(); got != "tcp" {
		t.Fatalf("%q", got)
	}
	if res, _ := get(t, web, g.url()); res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a request by a connection of before: %s", res.Status)
	}
	g.set(*old)
	if _, body := get(t, client(t), g.url()); body != "http" {
		t.Error(body)
	}
	c.send("on\n")
	if got := c.line(); got != "on" {
		t.Errorf("%q", got)
	}
}
