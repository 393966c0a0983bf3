//go:build unix

package edge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// callers are clients of the line service: some make a connection for each line, others keep theirs until they are told goodbye.
type callers struct {
	addr   string
	lines  atomic.Int64
	calls  atomic.Int64 // connections
	failed atomic.Int64
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func newCallers(t *testing.T, addr string) *callers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	c := &callers{addr: addr, stop: cancel}
	for i := range 16 {
		c.done.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				c.calls.Add(1)
				if err := c.call(ctx, fmt.Sprintf("%d.%d", i, n), i%2 == 0, tick.C); err != nil {
					c.failed.Add(1)
					t.Logf("client %d, connection %d: %v", i, n, err)
				}
			}
		})
	}
	t.Cleanup(func() { c.end() })
	return c
}

// end hangs up after the lines under way.
func (c *callers) end() {
	c.stop()
	c.done.Wait()
}

// call has one connection.
func (c *callers) call(ctx context.Context, name string, keep bool, tick <-chan time.Time) error {
	<-tick
	conn, err := net.DialTimeout("tcp", c.addr, 20*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if s, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(s, "i am ") {
		return fmt.Errorf("no greeting: %q %w", s, err)
	}
	for n := 0; ; n++ {
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		want := fmt.Sprintf("%s line %d\n", name, n)
		if _, err := conn.Write([]byte(want)); err != nil {
			return err
		}
		goodbye := false
		for {
			got, err := r.ReadString('\n')
			if err != nil {
				return fmt.Errorf("line %d: %q %w", n, got, err)
			}
			if goodbye = goodbye || got == "goodbye\n"; got == "goodbye\n" {
				continue
			}
			if got != want {
				return fmt.Errorf("%q is answered %q", want, got)
			}
			break
		}
		c.lines.Add(1)
		if goodbye || !keep || ctx.Err() != nil {
			return nil
		}
		<-tick
	}
}

// A service of plain TCP is deployed, goes back, and has its edge replaced, while clients talk with it: no line is lost, and connections
// that were there before the edge was replaced go on.
func TestTCPService(t *testing.T) {
	m := rig.NewMachine(t)
	dir := rig.Service(t, "test/edge/testdata/lines", "lines", fmt.Sprintf("service: lines\nrun: {instances: 2, stop: {drain: 1s, timeout: 10s}}\nroute: {listen: '127.0.0.1:%d', protocol: tcp, access_log: {}}\nrelease: {watch: 500ms}\n", rig.FreePorts(t, 1)[0]))
	first := m.Up(t, dir)
	addr, ok := strings.CutPrefix(first.URL, "tcp://")
	if !ok {
		t.Fatalf("the service is at %s", first.URL)
	}
	c := newCallers(t, addr)
	more := func() {
		t.Helper()
		before := c.lines.Load()
		rig.Eventually(t, patience, "lines", func() bool { return c.lines.Load() > before+500 })
	}
	more()
	for _, step := range []struct {
		what string
		do   func() rig.Receipt
	}{
		{"deploy", func() rig.Receipt { write(t, dir, "more.go", "package main\n"); return m.Up(t, dir) }},
		{"rollback", func() rig.Receipt { return m.Move(t, "rollback", "--service", "lines") }},
	} {
		r := step.do()
		more()
		t.Logf("%s: %d connections ended, %d failed, longest gap %v, took %v", step.what, r.Requests, r.Failed, r.Gap, r.Took)
		if r.Outcome != "done" || r.Failed != 0 || r.Requests == 0 {
			t.Errorf("%s: %q, %d of %d connections failed", step.what, r.Outcome, r.Failed, r.Requests)
		}
	}
	kept, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	kept.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(kept)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
			t.Fatalf("agent upgrade: %s", stderr)
		}
		more()
		fmt.Fprintln(kept, "still here")
		if s, err := r.ReadString('\n'); err != nil || s != "still here\n" {
			t.Fatalf("%q %v", s, err)
		}
	}
	kept.Close()
	c.end()
	if c.failed.Load() != 0 {
		t.Errorf("%d of %d connections failed", c.failed.Load(), c.calls.Load())
	}
	t.Logf("%d lines on %d connections, %d failed", c.lines.Load(), c.calls.Load(), c.failed.Load())
	logged(t, m, c.calls.Load()+1)
}

// logged holds the access log to what the clients know: a line for each connection, and none that failed.
func logged(t *testing.T, m *rig.Machine, want int64) {
	t.Helper()
	var found int64
	rig.Eventually(t, patience, "the last connections to be written down", func() bool {
		out, stderr, code := m.Run(t, "logs", "lines", "--access", "--json", "-n", "1000000")
		if code != 0 {
			t.Fatalf("logs: %s", stderr)
		}
		found = 0
		for line := range strings.Lines(out) {
			var l struct {
				Outcome   string `json:"outcome"`
				Transport string `json:"network.transport"`
				In        int64  `json:"bytes_received"`
				Out       int64  `json:"bytes_sent"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if l.Outcome != "served" || l.Transport != "tcp" || l.Out <= l.In {
				t.Errorf("%s", line)
			}
			found++
		}
		return found >= want
	})
	if found != want {
		t.Errorf("%d connections are written down, there were %d", found, want)
	}
}
