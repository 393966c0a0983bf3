//go:build linux

package hosts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
	"github.com/fairlead-dev/fairlead/test/rig/hosts"
)

// soon is a time in which an answer on this network comes, if one comes.
const soon = time.Second

func TestFaults(t *testing.T) {
	f := hosts.Boot(t, "one", "two")
	for _, sub := range []struct {
		name string
		test func(t *testing.T, f *hosts.Fleet, h *hosts.Host)
	}{
		{"power-cut", powerCut}, {"stop", stop}, {"reboot", reboot}, {"pause", pause}, {"link", link}, {"drop", drop}, {"cut", cut},
		{"slow", slow}, {"loss", loss}, {"slow-across-a-reboot", slowReboot}, {"delay", delay}, {"disk", disk},
	} {
		t.Run(sub.name, func(t *testing.T) {
			began := time.Now()
			sub.test(t, f, f.Host("two"))
			t.Logf("after %s", time.Since(began).Round(time.Millisecond))
			for _, h := range f.Hosts() {
				if state := says(t, h, "systemctl is-system-running"); state != "running" {
					t.Errorf("afterwards %s is %s", h.Name, state)
				}
			}
		})
	}
}

// banner connects to the host's SSH server and returns its first bytes, within a time.
func banner(f *hosts.Fleet, h *hosts.Host, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	conn, err := f.Dial(ctx, "tcp", h.Name+":22")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return word(conn, within)
}

func word(conn net.Conn, within time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	b := make([]byte, 8)
	_, err := io.ReadFull(conn, b)
	return string(b), err
}

// reached fails the test unless the host answers, or does not, as said.
func reached(t *testing.T, f *hosts.Fleet, h *hosts.Host, want bool) {
	t.Helper()
	if want {
		rig.Eventually(t, 20*time.Second, h.Name+" is reached", func() bool { _, err := banner(f, h, soon); return err == nil })
		return
	}
	if b, err := banner(f, h, soon); err == nil {
		t.Errorf("%s is reached: %q", h.Name, b)
	}
}

func bootID(t *testing.T, h *hosts.Host) string {
	t.Helper()
	id, err := h.BootID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// powerCut: it falls silent at once, without a goodbye on an open connection, and comes back with its disk.
func powerCut(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	before := bootID(t, h)
	says(t, h, "echo kept >/var/kept; echo gone >/run/gone; systemd-run -q --unit=kept sleep 1000")
	conn, err := f.Dial(t.Context(), "tcp", "two:22")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := word(conn, 5*time.Second); err != nil {
		t.Fatal(b, err)
	}
	io.WriteString(conn, "SSH-2.0-test\r\n")
	io.CopyN(io.Discard, conn, 32) // the rest of what it says by itself; at least so much
	h.PowerCut(t)
	// What had already arrived may be read; then nothing, and no end.
	conn.SetReadDeadline(time.Now().Add(soon))
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an open connection ended with %v, want silence", err)
	}
	reached(t, f, h, false)
	reached(t, f, f.Host("one"), true)
	h.Start(t)
	if after := bootID(t, h); after == before {
		t.Error("the host has the same boot id")
	}
	if out := says(t, h, "cat /var/kept; ls /run/gone 2>&1 || true; systemctl is-active kept || true"); !strings.HasPrefix(out, "kept\n") ||
		!strings.Contains(out, "No such file") || !strings.HasSuffix(out, "inactive") {
		t.Errorf("after a power cut: %s", out)
	}
	if out := says(t, h, "journalctl -b -1 --no-pager | grep -c 'Reached target.*Shutdown' || true"); out != "0" {
		t.Error("the host shut down in order")
	}
	reached(t, f, h, true)
}

// stop: units are stopped in order.
func stop(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	const unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=touch /var/stopped\n"
	if err := h.Put("/etc/systemd/system/ordered.service", []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	says(t, h, "systemctl daemon-reload; systemctl start ordered; test ! -e /var/stopped")
	h.Stop(t)
	reached(t, f, h, false)
	h.Start(t)
	says(t, h, "test -e /var/stopped")
}

func reboot(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	before, boots := bootID(t, h), h.Reboots()
	h.Reboot(t)
	if after := bootID(t, h); after == before || h.Reboots() != boots+1 {
		t.Errorf("boot id %s, then %s; %d reboots, then %d", before, after, boots, h.Reboots())
	}
	// One that a person on the host asks for, or a test that does not wait.
	says(t, h, "systemd-run -q --on-active=100ms --timer-property=AccuracySec=10ms systemctl reboot")
	rig.Eventually(t, time.Minute, "it came back by itself", func() bool { return h.Reboots() == boots+2 })
	reached(t, f, h, true)
	says(t, h, "systemctl is-system-running --wait")
}

// pause: connections are accepted, by the kernel, and get no answer.
func pause(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	h.Pause(t)
	conn, err := f.Dial(t.Context(), "tcp", "two:22")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := word(conn, soon); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a frozen host says %q, %v", b, err)
	}
	h.Resume(t)
	if b, err := word(conn, 10*time.Second); err != nil || b != "SSH-2.0-" {
		t.Errorf("the same connection, once it goes on: %q, %v", b, err)
	}
}

// carrier is what the host knows of its cable.
func carrier(t *testing.T, h *hosts.Host) bool {
	t.Helper()
	out, err := h.In(exec.Command("ip", "link", "show", "eth0")).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return !bytes.Contains(out, []byte("NO-CARRIER"))
}

func link(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	h.LinkDown(t)
	reached(t, f, h, false)
	if carrier(t, h) {
		t.Error("the host does not know that its cable is out")
	}
	h.LinkUp(t)
	reached(t, f, h, true)
}

func drop(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	h.Drop(t)
	reached(t, f, h, false)
	if !carrier(t, h) {
		t.Error("the host knows of it")
	}
	h.Undrop(t)
	reached(t, f, h, true)
}

func cut(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	const toTwo = "timeout 1 bash -c '</dev/tcp/two/22' && echo yes || echo no"
	f.Cut(t, "one", "two")
	if out := says(t, f.Host("one"), toTwo); out != "no" {
		t.Errorf("one reaches two: %s", out)
	}
	reached(t, f, h, true)
	f.Mend(t, "one", "two")
	rig.Eventually(t, 10*time.Second, "one reaches two", func() bool { return says(t, f.Host("one"), toTwo) == "yes" })
}

// roundTrip is the shortest of a few: the machine has other work as well.
func roundTrip(t *testing.T, f *hosts.Fleet, name string) time.Duration {
	t.Helper()
	best := time.Hour
	for range 5 {
		began := time.Now()
		conn, err := f.Dial(t.Context(), "tcp", name+":22")
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
		conn.Close()
	}
	return best
}

// slow: a round trip takes as long as said, and what is sent much at a time arrives whole.
func slow(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	before := roundTrip(t, f, "two")
	h.Slow(t, 15*time.Millisecond, 0)
	during := roundTrip(t, f, "two")
	t.Logf("a round trip takes %s, slowed by 15 ms each way %s", before, during)
	if during < 30*time.Millisecond || during > 60*time.Millisecond {
		t.Errorf("a round trip takes %s, want 30 ms and a little", during)
	}
	if other := roundTrip(t, f, "one"); other > 15*time.Millisecond {
		t.Errorf("the other host is slow as well: %s", other)
	}
	sent := make([]byte, 20<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	serve(t, h)
	began := time.Now()
	resp, err := f.HTTP().Post("http://two:7000/", "", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes were sent, %d came back, %v", len(sent), len(got), err)
	}
	t.Logf("20 MiB there and back in %s", time.Since(began))
	h.LinkDown(t)
	reached(t, f, h, false)
	h.LinkUp(t)
	reached(t, f, h, true)
	h.Drop(t)
	reached(t, f, h, false)
	h.Undrop(t)
	reached(t, f, h, true)
	h.Fast(t)
	if after := roundTrip(t, f, "two"); after > 15*time.Millisecond {
		t.Errorf("a round trip still takes %s", after)
	}
}

// loss: of many datagrams the share comes back that survives two ways.
func loss(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	serve(t, h)
	if lost := lostOf(t, f, 500); lost > 5 {
		t.Errorf("without a fault %d of 500 datagrams were lost", lost)
	}
	h.Slow(t, time.Millisecond, 0.2)
	lost := lostOf(t, f, 500) // 36 % of 500 are 180, give or take 11
	t.Logf("of 500 datagrams there and back, with 20 %% lost each way, %d were lost", lost)
	if lost < 125 || lost > 235 {
		t.Errorf("%d were lost, want about 180", lost)
	}
	h.Fast(t)
	if lost := lostOf(t, f, 500); lost > 5 {
		t.Errorf("afterwards %d of 500 datagrams were lost", lost)
	}
}

func lostOf(t *testing.T, f *hosts.Fleet, n int) int {
	t.Helper()
	conn, err := f.Dial(t.Context(), "udp", "two:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	back := make(chan int)
	go func() {
		b, got := make([]byte, 64), 0
		for {
			conn.SetReadDeadline(time.Now().Add(soon))
			if _, err := conn.Read(b); err != nil {
				back <- got
				return
			}
			got++
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		if _, err := conn.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
	}
	return n - <-back
}

// slowReboot: a host is as far away after a boot as it was before.
func slowReboot(t *testing.T, f *hosts.Fleet, h *hosts.Host) {
	h.Slow(t, 10*time.Millisecond, 0)
	h.Reboot(t)
	if took := roundTrip(t, f, "two"); took < 20*time.Millisecond {
		t.Errorf("after a reboot a round trip takes %s, want 20 ms", took)
	}
	h.PowerCut(t)
	h.Fast(t)
	h.Start(t)
	if took := roundTrip(t, f, "two"); took > 10*time.Millisecond {
		t.Errorf("made fast while it was down, a round trip takes %s", took)
	}
}

func delay(t *testing.T, f *hosts.Fleet, _ *hosts.Host) {
	f.Delay(t, 20*time.Millisecond)
	for _, h := range f.Hosts() {
		if took := roundTrip(t, f, h.Name); took < 20*time.Millisecond || took > 45*time.Millisecond {
			t.Errorf("a round trip to %s takes %s, want 20 ms", h.Name, took)
		}
		h.Fast(t)
	}
}

// disk: nobody writes any more, root neither; what is there is read and the host stands; with room again all is well.
func disk(t *testing.T, _ *hosts.Fleet, h *hosts.Host) {
	h.FillDisk(t)
	for _, dir := range []string{"/var/lib", "/home/deploy", "/opt"} {
		if out := says(t, h, "dd if=/dev/zero of="+dir+"/full bs=64k count=16 2>&1 || true"); !strings.Contains(out, "No space left on device") {
			t.Errorf("%s: %s", dir, out)
		}
	}
	t.Logf("full: %s", says(t, h, "df / | tail -1"))
	h.FreeDisk(t)
	says(t, h, "dd if=/dev/zero of=/var/lib/full bs=64k count=16 conv=fsync 2>/dev/null; test $(stat -c %s /var/lib/full) = 1048576; rm /*/*/full")
}
