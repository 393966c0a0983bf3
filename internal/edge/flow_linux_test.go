package edge

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// Addresses of clients are easily made up. A flood of them is flat in file descriptors and memory, and costs nobody his flow who has
// been answered; who is new is answered all the same.
func TestFlowsInAFlood(t *testing.T) {
	g := startEdge(t, newDirs(t))
	const most = 200
	g.s.flows.bounds = flowBounds{all: most, client: most / 2}
	mute := make(chan bool)
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, func(b []byte) []byte {
		select {
		case <-mute:
			return b
		default:
		}
		if b[0] == '-' {
			return nil
		}
		return b
	})))
	var known []caller
	for range 50 {
		c := g.caller()
		c.ask("x")
		c.ask("y")
		known = append(known, c)
	}
	at := g.flowAddr(anyPort)
	files, heap := filesOpen(t), heapNow()
	sent := 0
	for i := range 10 { // as many clients as a loopback network has, each from many ports
		for k := range 300 {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 1, byte(i), byte(1+k/20))}, at)
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("-flood"))
			c.Close()
			sent++
		}
		for j, c := range known {
			if got := c.ask(fmt.Sprint(j)); got != fmt.Sprint(j) {
				t.Fatalf("%q", got)
			}
		}
		if got := g.caller().ask("new"); got != "new" {
			t.Fatalf("%q", got)
		}
		if now := filesOpen(t); now > files+most+most/lateFlows+20 {
			t.Fatalf("%d files are open, %d were before", now, files)
		}
	}
	if now := heapNow(); now > heap+16<<20 {
		t.Errorf("%d KiB are in use, %d were before", now>>10, heap>>10)
	}
	eventually(t, func() bool { return g.counts(0, 0).Refused > uint64(sent-2*most) })
	if got := g.counts(0, 0); got.Failed+got.Aborted != 0 || got.Open > most+most/lateFlows+1 {
		t.Errorf("%+v", got)
	}
	// Also where each of them is answered, as a DNS server does.
	close(mute)
	for k := range 1000 {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 2, 0, byte(1+k/20))}, at)
		if err != nil {
			t.Fatal(err)
		}
		caller{t, c}.ask("x")
		c.Close()
	}
	for _, c := range known {
		c.ask("still here")
	}
}

// One client, whoever he is, has only so many, and his own are those that make room.
func TestFlowsOfOneClient(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.flows.bounds = flowBounds{all: 100, client: 10}
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, itself)))
	other := callerFrom(t, net.IPv4(127, 0, 0, 2), g.flowAddr(anyPort))
	other.ask("x")
	var all []caller
	for range 30 {
		c := g.caller()
		c.ask("x") // once: each of them makes room for the next
		all = append(all, c)
	}
	if n := g.counts(0, 0); n.Open > 12 || n.Failed+n.Refused != 0 {
		t.Errorf("%+v", n)
	}
	other.ask("y")
	if got := g.counts(0, 0); got.Refused != 0 { // nobody of them while he was waiting for his answer
		t.Errorf("%+v", got)
	}
	for _, c := range all[20:] {
		c.ask("y") // who goes on stays
	}
	c := g.caller()
	c.say("x")
	if !c.silent() {
		t.Error("who made room?")
	}
	eventually(t, func() bool { return g.counts(0, 0).Refused == 1 })
	for _, c := range all[20:] {
		c.ask("z")
	}
	if g.s.flows.fresh.Len()+g.s.flows.heard.Len() > 1 {
		t.Error("somebody waits to make room who went on")
	}
}

func callerFrom(t *testing.T, ip net.IP, to *net.UDPAddr) caller {
	t.Helper()
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: ip}, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return caller{t, c}
}

// What waits for an instance that does not come is bounded.
func TestFlowsThatWaitAreBounded(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.proxy.hold = minute
	g.set(flowing(Datagrams{Idle: minute}))
	big := string(noise(60000))
	for range 40 {
		c := g.caller()
		for range 20 {
			c.say(big)
		}
	}
	eventually(t, func() bool { return g.counts(0, 0).Open > 0 })
	begin := time.Now()
	eventually(t, func() bool { return g.s.flows.kept.Load() > keptBytes-100_000 || time.Since(begin) > time.Second })
	if n := g.s.flows.kept.Load(); n > keptBytes {
		t.Errorf("%d bytes are kept", n)
	}
	g.s.Shut(0)
	if n := g.s.flows.kept.Load(); n != 0 {
		t.Errorf("%d bytes are kept for nobody", n)
	}
}

func filesOpen(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// An answer leaves from the address that the client asked, of which a wildcard listener has several. A socket that is connected takes no
// other.
func TestFlowAnswersFromWhereItWasAsked(t *testing.T) {
	for _, c := range []struct {
		listen string
		asked  []string
	}{
		{":0", []string{"127.0.0.1", "127.0.0.2", "::1"}},
		{"0.0.0.0:0", []string{"127.0.0.1", "127.0.0.3"}},
		{"[::]:0", []string{"::1", "127.0.0.2"}},
		{"[::1]:0", []string{"::1"}},
	} {
		g := startEdge(t, newDirs(t))
		table := flowing(Datagrams{Idle: minute}, udpService(t, calls("a")))
		table.Routes[0].Listen = c.listen
		g.set(table)
		port := g.flowAddr(c.listen).Port
		from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		from.SetDeadline(time.Now().Add(patience))
		for _, ip := range c.asked {
			to := net.UDPAddr{IP: net.ParseIP(ip), Port: port}
			if got := callerAt(t, &to).ask("x"); got != "a x" {
				t.Errorf("%s at %s: %q", c.listen, ip, got)
			}
			if to.IP.To4() == nil {
				continue
			}
			// From one port to several addresses: each answers for itself.
			b := make([]byte, 10)
			if _, err := from.WriteToUDP([]byte("y"), &to); err != nil {
				t.Fatal(err)
			}
			n, at, err := from.ReadFromUDP(b)
			if err != nil || string(b[:n]) != "a y" || !at.IP.Equal(to.IP) {
				t.Errorf("%s at %s: %q from %v, %v", c.listen, ip, b[:n], at, err)
			}
		}
	}
}

// Answers that come at once are sent at once, whatever the families of the socket and the client.
func TestFlowOfManyAnswers(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const many = 100
	go func() {
		b := make([]byte, 10)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for i := range many {
				c.WriteToUDPAddrPort([]byte(fmt.Sprint("answer ", i)), from)
			}
		}
	}()
	for listen, ip := range map[string]string{":0": "127.0.0.2", "[::]:0": "::1", "0.0.0.0:0": "127.0.0.3", "127.0.0.1:0": "127.0.0.1", "[::1]:0": "::1"} {
		g := startEdge(t, newDirs(t))
		table := flowing(Datagrams{Idle: minute}, c)
		table.Routes[0].Listen = listen
		g.set(table)
		client := callerAt(t, &net.UDPAddr{IP: net.ParseIP(ip), Port: g.flowAddr(listen).Port})
		for range 5 {
			client.say("x")
			for i := range many {
				if got, want := client.hear(), fmt.Sprint("answer ", i); got != want {
					t.Fatalf("%s from %s: %q, want %q", listen, ip, got, want)
				}
			}
		}
		if got := g.counts(0, 0); got.Open != 1 {
			t.Errorf("%+v", got)
		}
	}
}
