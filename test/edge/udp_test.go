//go:build unix

package edge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// counted is a client's socket that counts what is asked over it.
type counted struct {
	*net.UDPConn
	sent, bytes *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	c.sent.Add(1)
	c.bytes.Add(int64(len(b)))
	return c.UDPConn.Write(b)
}

// askers ask for names, each with a new port for every question, as resolvers do.
type askers struct {
	asked, failed atomic.Int64 // questions
	sent, bytes   atomic.Int64 // and what was sent for them
	seen          sync.Map     // releases
	stop          context.CancelFunc
	done          sync.WaitGroup
}

func newAskers(t *testing.T, addr string) *askers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	a := &askers{stop: cancel}
	r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return counted{c, &a.sent, &a.bytes}, err
	}}
	for i := range 16 {
		a.done.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				<-tick.C
				got, err := r.LookupNetIP(context.WithoutCancel(ctx), "ip4", fmt.Sprintf("n%d.c%d.test.", n, i))
				if err != nil || len(got) != 1 {
					a.failed.Add(1)
					t.Logf("client %d, question %d: %v %v", i, n, got, err)
					continue
				}
				a.asked.Add(1)
				a.seen.Store(got[0].As4()[1], true)
			}
		})
	}
	t.Cleanup(a.end)
	return a
}

func (a *askers) end() {
	a.stop()
	a.done.Wait()
}

// A DNS server is deployed, goes back, and has its edge replaced, while clients ask: none has to ask twice.
func TestUDPService(t *testing.T) {
	m := rig.NewMachine(t)
	dir := filepath.Join(t.TempDir(), "names")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(rig.Root(t), "test", "edge", "testdata", "names"))); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "fairlead.yaml", "service: names\nrun: {instances: 2, stop: {drain: 1s, timeout: 10s}}\nroute: {protocol: udp, access_log: {}, timeouts: {idle: 1s}}\nrelease: {watch: 500ms}\n")
	first := m.Up(t, dir)
	addr, ok := strings.CutPrefix(first.URL, "udp://")
	if !ok {
		t.Fatalf("the service is at %s", first.URL)
	}
	a := newAskers(t, addr)
	more := func() {
		t.Helper()
		before := a.asked.Load()
		rig.Eventually(t, patience, "answers", func() bool { return a.asked.Load() > before+500 })
	}
	more()
	for _, step := range []struct {
		what string
		do   func() rig.Receipt
	}{
		{"deploy", func() rig.Receipt { write(t, dir, "more.go", "package main\n"); return m.Up(t, dir) }},
		{"rollback", func() rig.Receipt { return m.Move(t, "rollback", "--service", "names") }},
	} {
		r := step.do()
		more()
		t.Logf("%s: %d flows ended, %d failed, longest gap %v, took %v", step.what, r.Requests, r.Failed, r.Gap, r.Took)
		if r.Outcome != "done" || r.Failed != 0 || r.Requests == 0 {
			t.Errorf("%s: %q, %d of %d flows failed", step.what, r.Outcome, r.Failed, r.Requests)
		}
	}
	for range 2 {
		if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
			t.Fatalf("agent upgrade: %s", stderr)
		}
		more()
	}
	a.end()
	for _, release := range []byte{1, 2} {
		if _, ok := a.seen.Load(release); !ok {
			t.Errorf("nobody was answered by release %d", release)
		}
	}
	if a.failed.Load() != 0 {
		t.Errorf("%d of %d questions failed", a.failed.Load(), a.asked.Load())
	}
	if again := a.sent.Load() - a.asked.Load() - a.failed.Load(); again != 0 {
		t.Errorf("%d questions were asked again", again)
	}
	t.Logf("%d questions, %d failed", a.asked.Load(), a.failed.Load())
	flowsLogged(t, m, a.bytes.Load())
	askedByDig(t, addr)
}

// askedByDig asks as people do, where dig is installed.
func askedByDig(t *testing.T, addr string) {
	t.Helper()
	path, err := exec.LookPath("dig")
	if errors.Is(err, exec.ErrNotFound) {
		return
	}
	at := netip.MustParseAddrPort(addr)
	out, err := exec.CommandContext(t.Context(), path, "@"+at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+tries=1", "+short", "a.test").CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, "127.") {
		t.Errorf("dig says %q, %v", got, err)
	}
}

// flowsLogged holds the access log to what the clients know: every byte of theirs is in some line, with how long the answer took. A port
// that a client happens to get again soon has one line for both questions.
func flowsLogged(t *testing.T, m *rig.Machine, want int64) {
	t.Helper()
	var found int64
	rig.Eventually(t, patience, "the last flows to be written down", func() bool {
		out, stderr, code := m.Run(t, "logs", "names", "--access", "--json", "-n", "1000000")
		if code != 0 {
			t.Fatalf("logs: %s", stderr)
		}
		found = 0
		for line := range strings.Lines(out) {
			var l struct {
				Outcome   string  `json:"outcome"`
				Transport string  `json:"network.transport"`
				In        int64   `json:"bytes_received"`
				Out       int64   `json:"bytes_sent"`
				Duration  float64 `json:"duration"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if l.Outcome != "served" || l.Transport != "udp" || l.In == 0 || l.Out <= l.In || l.Duration > 5 {
				t.Errorf("%s", line)
			}
			found += l.In
		}
		return found >= want
	})
	if found != want {
		t.Errorf("%d bytes are written down, %d were sent", found, want)
	}
}
