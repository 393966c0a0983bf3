//go:build unix

package edge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/logs"
)

// udpService is an instance that answers datagrams with what answer makes of them; nothing where that is nil.
func udpService(t testing.TB, answer func([]byte) []byte) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	answers(c, answer)
	return c
}

func answers(c *net.UDPConn, answer func([]byte) []byte) {
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if out := answer(b[:n]); out != nil {
				c.WriteToUDPAddrPort(out, from)
			}
		}
	}()
}

// calls answers with a name and what it heard.
func calls(name string) func([]byte) []byte {
	return func(b []byte) []byte { return append([]byte(name+" "), b...) }
}

// flowing is a table in which all datagrams go to the instances of release 1.
func flowing(d Datagrams, instances ...*net.UDPConn) Table {
	var addrs []string
	for _, c := range instances {
		addrs = append(addrs, c.LocalAddr().String())
	}
	t := oneRoute(addrs...)
	t.Routes[0].Datagrams = &d
	return t
}

// flowAddr is where the edge really takes the datagrams of the route that says listen.
func (g *rig) flowAddr(listen string) *net.UDPAddr {
	g.t.Helper()
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	l := g.s.flows.listeners[listen]
	if l == nil {
		g.t.Fatalf("nothing takes datagrams for %s", listen)
	}
	return l.conn.LocalAddr().(*net.UDPAddr)
}

// caller is a client of UDP.
type caller struct {
	t testing.TB
	*net.UDPConn
}

func (g *rig) caller() caller { return callerAt(g.t, g.flowAddr(anyPort)) }

func callerAt(t testing.TB, to *net.UDPAddr) caller {
	t.Helper()
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return caller{t, c}
}

func (c caller) say(text string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// hear waits for the next answer.
func (c caller) hear() string {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, maxDatagram)
	n, err := c.Read(b)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b[:n])
}

// ask says something and returns the answer.
func (c caller) ask(text string) string {
	c.t.Helper()
	c.say(text)
	return c.hear()
}

// silent reports whether no answer comes for a moment.
func (c caller) silent() bool {
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

const minute = time.Minute

// A client's datagrams go to one instance, whatever they are, and the answers come back; another client's may go to another one.
func TestFlow(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(flowing(Datagrams{Idle: 500 * time.Millisecond}, udpService(t, calls("a")), udpService(t, calls("b"))))
	seen := map[string]bool{}
	for range 20 {
		c := g.caller()
		name, _, _ := strings.Cut(c.ask("x"), " ")
		for i := range 3 {
			if got, want := c.ask(fmt.Sprint(i)), fmt.Sprint(name, " ", i); got != want {
				t.Fatalf("%q, want %q", got, want)
			}
		}
		if got := c.ask(""); got != name+" " {
			t.Fatalf("nothing is answered %q", got)
		}
		seen[name] = true
	}
	if len(seen) != 2 {
		t.Errorf("20 clients all went to %v", seen)
	}
	if got := g.counts(0, 0); got.Requests != 0 || got.Open != 20 {
		t.Errorf("while nobody has been silent for long enough: %+v", got)
	}
	got := g.settled(20)
	if got.Failed+got.Aborted+got.Refused+got.Retried != 0 || got.Bytes != 20*14 || got.Quantile(1) > 400*time.Millisecond {
		t.Errorf("%+v", got)
	}
	if a, b := g.counts(1, 1), g.counts(1, 2); a.Requests+b.Requests != 20 || a.Open+b.Open != 0 {
		t.Errorf("%+v %+v", a, b)
	}
	g.s.flows.mu.Lock()
	defer g.s.flows.mu.Unlock()
	if n := len(g.s.flows.all) + len(g.s.flows.byKey) + len(g.s.flows.clients) + g.s.flows.fresh.Len() + g.s.flows.heard.Len(); n != 0 {
		t.Errorf("%d things are left of flows that have ended", n)
	}
	if n := g.s.flows.kept.Load(); n != 0 {
		t.Errorf("%d bytes are kept for nobody", n)
	}
}

// The largest datagram that there is goes through, both ways, as do many at once.
func TestFlowOfLargeDatagrams(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, func(b []byte) []byte { return b })))
	c := g.caller()
	c.SetReadBuffer(1 << 20)
	c.SetWriteBuffer(1 << 20)
	big := noise(65507)
	if got := c.ask(string(big)); got != string(big) {
		t.Errorf("%d bytes came back", len(got))
	}
	const many = 50
	for i := range many {
		c.say(fmt.Sprint("number ", i))
	}
	for i := range many {
		if got, want := c.hear(), fmt.Sprint("number ", i); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

// What an instance refuses goes to another one, at the beginning of a flow and later.
func TestFlowGoesOnElsewhere(t *testing.T) {
	g := startEdge(t, newDirs(t))
	a, b := udpService(t, calls("a")), udpService(t, calls("b"))
	dead := udpService(t, calls("dead"))
	dead.Close()
	g.set(flowing(Datagrams{Idle: minute}, a, dead))
	for range 10 {
		if got := g.caller().ask("x"); got != "a x" {
			t.Fatalf("%q", got)
		}
	}
	if got := g.counts(1, 2); got.Retried == 0 || got.Open != 0 {
		t.Errorf("of the one that is not there: %+v", got)
	}
	c := g.caller()
	c.ask("x")
	g.set(flowing(Datagrams{Idle: minute}, a, b))
	a.Close()
	for i := range 5 {
		if got, want := c.ask(fmt.Sprint(i)), fmt.Sprint("b ", i); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := g.counts(0, 0); got.Failed != 0 || got.Requests != 1 { // what it had with the first one has ended
		t.Errorf("%+v", got)
	}
}

// What nobody answered yet goes elsewhere, too, also where several datagrams were sent.
func TestFlowThatIsRefusedLate(t *testing.T) {
	g := startEdge(t, newDirs(t))
	mute, b := udpService(t, func([]byte) []byte { return nil }), udpService(t, calls("b"))
	g.set(flowing(Datagrams{Idle: minute}, mute))
	c := g.caller()
	c.say("lost, as somebody has read it")
	eventually(t, func() bool { return g.counts(1, 1).Open == 1 })
	next := flowing(Datagrams{Idle: minute}, mute, b)
	g.set(next)
	if !c.silent() {
		t.Fatal("who answered?")
	}
	mute.Close()
	for i := range 3 {
		c.say(fmt.Sprint(i))
	}
	heard := map[string]bool{}
	for range 3 {
		heard[c.hear()] = true
	}
	for i := range 3 {
		if !heard[fmt.Sprint("b ", i)] {
			t.Errorf("%d is not among %v", i, heard)
		}
	}
	if got := g.counts(1, 1); got.Retried != 1 {
		t.Errorf("%+v", got)
	}
}

// A datagram waits for an instance as a request does, and those behind it, in their order.
func TestFlowWaits(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(flowing(Datagrams{Idle: minute}))
	c := g.caller()
	for i := range 5 {
		c.say(fmt.Sprint(i))
	}
	eventually(t, func() bool { return g.counts(0, 0).Open == 1 })
	if !c.silent() {
		t.Fatal("who answered?")
	}
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, calls("a"))))
	for i := range 5 {
		if got, want := c.hear(), fmt.Sprint("a ", i); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Where none comes it has failed, and one that is stopped says so at once.
func TestFlowWithoutAnInstance(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		g := startEdge(t, newDirs(t))
		g.s.proxy.hold = 200 * time.Millisecond
		table := flowing(Datagrams{Idle: minute})
		table.Routes[0].Stopped = stopped
		g.set(table)
		g.caller().say("x")
		if got := g.settled(1); got.Failed != 1 || got.Unplaced != 1 {
			t.Errorf("%+v", got)
		}
	}
	dead := udpService(t, calls("dead"))
	dead.Close()
	g := startEdge(t, newDirs(t))
	g.s.proxy.hold = 200 * time.Millisecond
	g.set(flowing(Datagrams{Idle: minute}, dead))
	g.caller().say("x")
	if got := g.settled(1); got.Failed != 1 || g.counts(1, 1).Retried > 20 {
		t.Errorf("%+v, tried %d times", got, g.counts(1, 1).Retried)
	}
}

// An instance that gets no new flows keeps those it has, until shortly before it is stopped.
func TestFlowsDrain(t *testing.T) {
	g := startEdge(t, newDirs(t))
	old, next := udpService(t, calls("old")), udpService(t, calls("new"))
	d := Datagrams{Idle: minute, Drain: time.Second}
	g.set(flowing(d, old))
	c := g.caller()
	c.ask("x")
	weights := func(ends ...[]Endpoint) Table {
		table := flowing(d)
		table.Routes[0].Backends = []Backend{{Release: 1, Endpoints: ends[0]}, {Release: 2, Weight: 100, Endpoints: ends[1]}}
		return table
	}
	both := [][]Endpoint{ends(old.LocalAddr().String()), ends(next.LocalAddr().String())}
	g.set(weights(both...)) // no share, but it is there
	if got := g.caller().ask("x"); got != "new x" {
		t.Errorf("%q", got)
	}
	if got := c.ask("1"); got != "old 1" {
		t.Errorf("%q", got)
	}
	begun := time.Now()
	g.set(weights(nil, both[1]))
	if got := c.ask("2"); got != "old 2" {
		t.Errorf("%q", got)
	}
	eventually(t, func() bool { return c.ask("3") == "new 3" })
	if took := time.Since(begun); took < 300*time.Millisecond || took > d.Drain {
		t.Errorf("it was moved after %s", took)
	}
	eventually(t, func() bool { return g.counts(1, 1).Open == 0 })
	if took := time.Since(begun); took > d.Drain+sweepEvery {
		t.Errorf("the old one was free after %s", took)
	}
	if got := g.counts(0, 0); got.Failed != 0 || got.Requests != 1 {
		t.Errorf("%+v", got)
	}
}

// Limits hold for flows as they do for connections.
func TestFlowLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Route)
		served int // of three clients
		count  func(Counts) uint64
	}{
		{"allow", func(r *Route) { r.Guard = &Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}} }, 0, func(c Counts) uint64 { return c.Refused }},
		{"rate", func(r *Route) { r.Guard = &Guard{Rates: []Rate{{1, time.Hour, 1, "client"}}} }, 1, func(c Counts) uint64 { return c.Refused }},
		{"concurrency", func(r *Route) { r.Guard = &Guard{Concurrency: Concurrency{Limit: 2}} }, 2, func(c Counts) uint64 { return c.Refused }},
		{"a fault", func(r *Route) { r.Backends[0].Faults = []Fault{{Share: 100, Abort: 503}} }, 0, func(c Counts) uint64 { return c.Failed }},
		{"nothing", func(*Route) {}, 3, func(Counts) uint64 { return 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startEdge(t, newDirs(t))
			table := flowing(Datagrams{Idle: minute}, udpService(t, calls("a")))
			c.change(&table.Routes[0])
			g.set(table)
			for i := range 3 {
				client := g.caller()
				client.say("x")
				if i < c.served {
					if got := client.hear(); got != "a x" {
						t.Errorf("%q", got)
					}
				} else if !client.silent() {
					t.Error("it was answered")
				}
			}
			eventually(t, func() bool { return c.count(g.counts(0, 0)) == uint64(3-c.served) })
			if got := g.counts(0, 0); got.Requests != uint64(3-c.served) || got.Open != int64(c.served) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A queue is one of flows, too: who waits in it is served when another one has ended.
func TestFlowQueue(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := flowing(Datagrams{Idle: 300 * time.Millisecond}, udpService(t, calls("a")))
	table.Routes[0].Guard = &Guard{Concurrency: Concurrency{Limit: 1, Queue: 5, Wait: patience}}
	g.set(table)
	first, second := g.caller(), g.caller()
	first.ask("x")
	begun := time.Now()
	if got := second.ask("y"); got != "a y" || time.Since(begun) < 100*time.Millisecond {
		t.Errorf("%q after %s", got, time.Since(begun))
	}
}

// Each client has its release, whichever port it comes from.
func TestFlowSticky(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := flowing(Datagrams{Idle: minute})
	table.Routes[0].Sticky = "client"
	table.Routes[0].Backends = []Backend{
		{Release: 1, Weight: 50, Endpoints: ends(udpService(t, calls("1")).LocalAddr().String())}, {Release: 2, Weight: 50, Endpoints: ends(udpService(t, calls("2")).LocalAddr().String())}}
	g.set(table)
	want := g.caller().ask("x")
	for range 10 {
		if got := g.caller().ask("x"); got != want {
			t.Errorf("%q, and %q before", got, want)
		}
	}
}

// A route of TCP may have the same number of a port.
func TestFlowsBesideTCP(t *testing.T) {
	g := startEdge(t, newDirs(t))
	at := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	table := flowing(Datagrams{Idle: minute}, udpService(t, calls("a")))
	table.Routes[0].Listen = at
	table.Routes = append(table.Routes, Route{Service: "web", Environment: "prod", Listen: at, Backends: []Backend{{Release: 1, Weight: 100, Endpoints: ends(serveOn(t, says("web")))}}})
	g.set(table)
	if got := callerAt(t, g.flowAddr(at)).ask("x"); got != "a x" {
		t.Errorf("%q", got)
	}
	if _, got := get(t, client(t), "http://"+at); got != "web" {
		t.Errorf("%q", got)
	}
}

// freePort is one that is free for TCP and UDP.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		l.Close()
		if err == nil {
			c.Close()
			return port
		}
	}
}

// Where a route goes away what is under way is still answered, and its port is free then.
func TestFlowsOfARouteThatEnds(t *testing.T) {
	g := startEdge(t, newDirs(t))
	wait, asked := make(chan bool), make(chan bool, 1)
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, func(b []byte) []byte {
		asked <- true
		<-wait
		return b
	})))
	at := g.flowAddr(anyPort)
	c := g.caller()
	c.say("x")
	receive(t, asked)
	g.set(Table{})
	close(wait)
	if got := c.hear(); got != "x" {
		t.Errorf("%q", got)
	}
	eventually(t, func() bool {
		l, err := net.ListenUDP("udp", at)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

// Each flow has its line.
func TestFlowIsLogged(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.proxy.access.open = kept(g.dirs)
	table := flowing(Datagrams{Idle: 200 * time.Millisecond}, udpService(t, calls("a")))
	a := everyRequest
	table.Routes[0].Access = &a
	g.set(table)
	g.caller().ask("hello")
	g.settled(1)
	g.s.Shut(patience)
	text, err := os.ReadFile(filepath.Join(logs.AccessDir(g.dirs.Logs(), "shop", "prod"), "00000001.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	line := string(text)
	for _, want := range []string{`"outcome":"served"`, `"network.transport":"udp"`, `"bytes_sent":7`, `"bytes_received":5`, `"duration":0.0`, `"client.address":"127.0.0.1"`, `"instance":1`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is not in %s", want, line)
		}
	}
	if n := strings.Count(line, "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
}
