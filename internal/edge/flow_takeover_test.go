//go:build unix

package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// converse has clients ask and wait for each answer; some keep their port, others take a new one each time. No datagram is sent twice.
func (g *rig) converse(clients int) (asked, lost func() int64, stop func()) {
	var n, bad atomic.Int64
	var all sync.WaitGroup
	done := make(chan bool)
	at := g.flowAddr(anyPort)
	for i := range clients {
		all.Go(func() {
			var c *net.UDPConn
			b := make([]byte, 100)
			for k := 0; ; k++ {
				select {
				case <-done:
					return
				default:
				}
				if c == nil || i%2 == 0 {
					var err error
					if c, err = net.DialUDP("udp", nil, at); err != nil {
						g.t.Error(err)
						return
					}
					defer c.Close()
				}
				want := fmt.Sprint(i, ".", k)
				c.SetDeadline(time.Now().Add(patience))
				c.Write([]byte(want))
				if m, err := c.Read(b); err != nil || string(b[:m]) != want {
					bad.Add(1)
					g.t.Logf("%s is answered %q %v", want, b[:m], err)
					if err != nil {
						return
					}
				}
				if n.Add(1); i%2 == 0 {
					c.Close()
				}
			}
		})
	}
	return n.Load, bad.Load, sync.OnceFunc(func() { close(done); all.Wait() })
}

func itself(b []byte) []byte { return b }

// TestFlowsTakeOver replaces the edge five times while clients talk: no datagram is lost, and who has a flow keeps it, with its instance.
func TestFlowsTakeOver(t *testing.T) {
	g := startEdge(t, newDirs(t))
	table := flowing(Datagrams{Idle: 2 * time.Second}, udpService(t, itself), udpService(t, itself))
	names := flowing(Datagrams{Idle: minute}, udpService(t, calls("a")), udpService(t, calls("b"))).Routes[0]
	names.Service, names.Listen = "names", fmt.Sprintf("127.0.0.1:%d", freePort(t))
	names.Guard = &Guard{Concurrency: Concurrency{Limit: 200}}
	late := flowing(Datagrams{Idle: minute}).Routes[0]
	late.Service, late.Listen = "late", fmt.Sprintf("127.0.0.1:%d", freePort(t))
	table.Routes = append(table.Routes, names, late)
	g.set(table)
	var kept []caller
	var who []string
	for range 100 {
		c := callerAt(t, g.flowAddr(names.Listen))
		kept, who = append(kept, c), append(who, c.ask("x"))
	}
	waits := callerAt(t, g.flowAddr(late.Listen))
	waits.say("late")
	asked, lost, stop := g.converse(8)
	defer stop()
	const replacements = 5
	for i := range replacements {
		reached := asked()
		eventually(t, func() bool { return asked() > reached+300 })
		if i == 1 { // somebody waits for an instance in an edge that was replaced
			late.Backends[0].Endpoints = ends(udpService(t, calls("late")).LocalAddr().String())
			table.Routes[2] = late
			if _, err := NewClient(g.dirs.Sock(home.Edge)).Set(t.Context(), table); err != nil {
				t.Fatal(err)
			}
			if got := waits.hear(); got != "late late" {
				t.Errorf("%q", got)
			}
		}
		_, lines, _ := g.successor("serve")
		if line := receive(t, lines); line != "serving" {
			t.Fatal(i, line)
		}
		for j, c := range kept {
			if got := c.ask("x"); got != who[j] {
				t.Errorf("%d: %q, and %q before", i, got, who[j])
			}
		}
	}
	reached := asked()
	eventually(t, func() bool { return asked() > reached+300 })
	stop()
	receive(t, g.s.Done())
	if lost() != 0 {
		t.Errorf("%d of %d datagrams were not answered", lost(), asked())
	}
	eventually(t, func() bool { return g.s.stats.Open("shop", "prod", 0, 0) == 0 })
	if got := g.counts(0, 0); got.Failed+got.Aborted+got.Refused != 0 || got.Bytes == 0 {
		t.Errorf("%+v", got)
	}
	if n := g.s.stats.Open("names", "prod", 0, 0); n != 100 {
		t.Errorf("%d flows are open, there were 100", n)
	}
}

// A successor that dies, at any moment before all flows are its own, costs nobody anything.
func TestFlowsTakeOverThatDies(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(flowing(Datagrams{Idle: minute}, udpService(t, itself)))
	var kept []caller
	for range 3 * flowsChunk {
		c := g.caller()
		c.ask("x")
		kept = append(kept, c)
	}
	asked, lost, stop := g.converse(4)
	defer stop()
	for chunks := range 4 {
		c, err := keeper.DialFiles(g.dirs, home.Edge)
		if err != nil {
			t.Fatal(err)
		}
		_, given, err := keeper.ReceiveFiles(c)
		if err != nil {
			t.Fatal(err)
		}
		side, err := unixConn(given[flowsName])
		if err != nil {
			t.Fatal(err)
		}
		if chunks > 0 {
			if err := keeper.SendFiles(side, "flows?", nil, nil); err != nil {
				t.Fatal(err)
			}
		} else {
			side.Close()
			c.Close()
		}
		if chunks > 0 {
			if err := keeper.SendFiles(c, "serving", nil, nil); err != nil {
				t.Fatal(err)
			}
			for range chunks {
				_, files, err := keeper.ReceiveFilesWithin(side, patience)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					f.Close()
				}
				if err := keeper.SendFiles(side, "have", nil, nil); err != nil {
					t.Fatal(err)
				}
			}
			side.Close()
			c.Close()
		}
		for name, f := range given {
			if name != flowsName {
				f.Close()
			}
		}
		reached := asked()
		eventually(t, func() bool { return asked() > reached+100 })
		for _, c := range kept {
			c.ask("y")
		}
	}
	stop()
	if lost() != 0 {
		t.Errorf("%d of %d datagrams were not answered", lost(), asked())
	}
	if got := g.counts(0, 0); got.Failed+got.Aborted+got.Refused != 0 || got.Requests != 0 {
		t.Errorf("%+v", got)
	}
}

// After a crash flows begin anew, at the itself socket: what was sent meanwhile is not lost.
func TestFlowsAfterCrash(t *testing.T) {
	d := newDirs(t)
	if err := keeper.ServeStore(d, home.Supervisor); err != nil {
		t.Fatal(err)
	}
	first := startEdge(t, d)
	first.set(flowing(Datagrams{Idle: minute}, udpService(t, calls("a"))))
	at := first.flowAddr(anyPort)
	c := first.caller()
	c.ask("x")
	cmd, lines, _ := first.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	receive(t, first.s.Done())
	eventually(t, func() bool {
		files, err := keeper.GetFiles(d, home.Supervisor)
		for _, f := range files {
			f.Close()
		}
		return err == nil && files[datagramName+anyPort] != nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !keeper.Running(d, home.Edge) })
	c.say("y")
	next := startEdge(t, d)
	if got := c.hear(); got != "a y" || next.flowAddr(anyPort).String() != at.String() {
		t.Errorf("%q", got)
	}
}

// A QUIC connection, whose packets make sense to one instance alone, lives through changes of weights and replacements of the edge.
func TestQUICThroughFlows(t *testing.T) {
	g := startEdge(t, newDirs(t))
	d := Datagrams{Idle: minute}
	one, two := quicEcho(t), quicEcho(t)
	table := flowing(d)
	weights := func(w int) Table {
		table.Routes[0].Backends = []Backend{{Release: 1, Weight: w, Endpoints: ends(one)}, {Release: 2, Weight: 100 - w, Endpoints: ends(two)}}
		return table
	}
	g.set(weights(100))
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, g.flowAddr(anyPort).String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	ask := func(n int) {
		t.Helper()
		str, err := conn.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sent := noise(n)
		go func() {
			str.Write(sent)
			str.Close()
		}()
		if got, err := io.ReadAll(str); err != nil || sum(got) != sum(sent) {
			t.Fatalf("%d bytes came back, %v", len(got), err)
		}
	}
	ask(5 << 20)
	g.set(weights(0))
	ask(1 << 20)
	for range 2 {
		_, lines, _ := g.successor("serve")
		if line := receive(t, lines); line != "serving" {
			t.Fatal(line)
		}
		ask(1 << 20)
	}
	if got := g.counts(2, 1); got.Open != 0 {
		t.Errorf("%+v", got)
	}
}

// quicEcho is a QUIC server that answers each stream with itself.
func quicEcho(t *testing.T) string {
	t.Helper()
	_, cert := authority(t)
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"echo"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				for {
					str, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					go func() {
						io.Copy(str, str)
						str.Close()
					}()
				}
			}()
		}
	}()
	return l.Addr().String()
}

// A flow that another generation describes in a way that makes no sense is none.
func FuzzAdopt(f *testing.F) {
	st := flowState{Listen: anyPort, Client: netip.MustParseAddrPort("127.0.0.1:1"), Route: "shop@prod", Release: 1, Instance: 1, Addr: "127.0.0.1:1"}
	b, err := json.Marshal(st)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add(`{"l":"127.0.0.1:0","k":"shop@prod","c":"[::1%1]:2","p":7,"s":-1,"n":-5}`)
	f.Add("{")
	g := startEdge(f, newDirs(f))
	g.set(flowing(Datagrams{Idle: minute}, udpService(f, itself)))
	f.Fuzz(func(t *testing.T, text string) {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := g.s.flows.adopt(text, file); err == nil {
			t.Errorf("%q is a flow, and its socket is /dev/null", text)
		}
	})
}

// What the kernel says of a datagram's address is read whatever it is.
func FuzzLocalOf(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "::1", "192.0.2.7"} {
		f.Add(leaveFrom(netip.MustParseAddr(a)))
	}
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, oob []byte) {
		if a := localOf(oob); a.IsValid() && a.Is4In6() {
			t.Errorf("%s is not in its own form", a)
		}
	})
}
