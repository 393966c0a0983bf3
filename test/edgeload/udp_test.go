//go:build unix

package edgeload

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/test/rig"
)

const (
	udpSwitches     = 6
	udpWeights      = 10
	udpReplacements = 4
)

// datagrams is a client of UDP that waits for each answer, at one port or at a new one each time. It sends nothing twice.
func (l *load) datagrams(keep bool) func(s site, d *net.Dialer, n int) (step, rest func() error) {
	return func(s site, d *net.Dialer, n int) (step, rest func() error) {
		from := net.UDPAddr{IP: d.LocalAddr.(*net.TCPAddr).IP}
		to, err := net.ResolveUDPAddr("udp", s.addr)
		if err != nil {
			l.t.Fatal(err)
		}
		var c *net.UDPConn
		sent := 0
		rest = func() error {
			if c == nil {
				return nil
			}
			err := c.Close()
			c = nil
			return err
		}
		b := make([]byte, 2000)
		return func() error {
			if c == nil {
				var err error
				if c, err = net.DialUDP("udp", &from, to); err != nil {
					return err
				}
			}
			sent++
			want := fmt.Sprintf("datagram %d of client %d%s", sent, n, strings.Repeat(".", sent%1200))
			c.SetDeadline(time.Now().Add(patient))
			if _, err := c.Write([]byte(want)); err != nil {
				return err
			}
			m, err := c.Read(b)
			if err != nil || string(b[:m]) != want {
				rest()
				return fmt.Errorf("datagram %d: %.40q %w", sent, b[:m], err)
			}
			l.requests.Add(1)
			if !keep {
				return rest()
			}
			return nil
		}, rest
	}
}

// No datagram is lost while traffic is switched, weights change and the edge itself is replaced.
func TestNoDatagramIsLost(t *testing.T) {
	m := rig.NewMachine(t)
	sites := map[string]site{}
	for name, spec := range map[string]string{
		"switched": "run: {instances: 2, stop: {drain: 2s}}\nrelease: {watch: 100ms, keep: 50}\n",
		"weighted": "run: {instances: 2, stop: {drain: 2s}}\nrelease: {strategy: canary, steps: [10%, 30%, 50%, 70%, 90%], watch: 100ms, keep: 50}\n",
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(rig.Root(t), "test", "edgeload", "testdata", "echo"))); err != nil {
			t.Fatal(err)
		}
		text := "service: " + name + "\nroute: {protocol: udp, timeouts: {idle: 5s}}\n" + spec
		if err := os.WriteFile(filepath.Join(dir, "fairlead.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sites[name] = site{addr: strings.TrimPrefix(m.Up(t, dir).URL, "udp://")}
	}
	m.Move(t, "restart", "switched") // the release to switch to
	l := newLoad(t)
	for name, s := range sites {
		l.run(30, name+", one port", s, l.datagrams(true))
		l.run(30, name+", new ports", s, l.datagrams(false))
	}
	rig.Eventually(t, patience, "load", func() bool { return l.requests.Load() > 500 })
	l.phase(t, "switches", func() {
		for range udpSwitches {
			if r := m.Move(t, "rollback", "--service", "switched"); r.Failed != 0 || r.From == r.To {
				t.Errorf("the receipt says %+v", r)
			}
		}
	})
	l.phase(t, "weights, and replacements of the edge meanwhile", func() {
		t.Run("meanwhile", func(t *testing.T) {
			t.Run("weights", func(t *testing.T) { t.Parallel(); stepping(t, m, "weighted", udpWeights) })
			t.Run("replacements", func(t *testing.T) {
				t.Parallel()
				for range udpReplacements {
					pid := m.PID(t, "edge")
					if _, stderr, code := m.Run(t, "agent", "upgrade"); code != 0 {
						t.Fatalf("agent upgrade: %s", stderr)
					}
					if now := m.PID(t, "edge"); now == pid {
						t.Fatalf("the edge is still %d", now)
					}
				}
			})
		})
	})
	l.end()
	t.Logf("%d datagrams were answered, %d were not%s", l.requests.Load(), l.failed.Load(), l.why())
	if l.failed.Load() > 0 {
		t.Fail()
	}
}

// stepping moves a service's traffic in steps, at least so many.
func stepping(t *testing.T, m *rig.Machine, name string, steps int) {
	t.Helper()
	for n, late := 0, time.Now().Add(patience); n < steps; {
		events, code := m.Events(t, "restart", name)
		begun, away := false, false
		for _, e := range events {
			if e.Type == "step" {
				begun = true
				if strings.Contains(e.Text, "traffic:") {
					n++
				}
			}
			if e.Error != nil {
				away = e.Error.Kind == fail.Unavailable || e.Error.Kind == fail.Busy
				t.Logf("restart: %v", e.Error)
			}
		}
		// While it is replaced an agent takes no orders, and who gives one is told so; or it takes one and cannot say so any more, and
		// the next agent is busy with it. What was seen to begin is brought to its end.
		if code != 0 && (begun || !away || time.Now().After(late)) {
			t.Fatalf("restart: exit code %d", code)
		}
	}
}
