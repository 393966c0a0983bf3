package proc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestParseTCP(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the fixtures come from a little-endian machine")
	}
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	const tail = " 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0\n"
	for _, c := range []struct{ name, table, want string }{
		{"loopback", head + "   0: 0100007F:1F90 00000000:0000 0A" + tail, "127.0.0.1:8080 1000 4711"},
		{"every address", head + "   0: 00000000:0050 00000000:0000 0A" + tail, "0.0.0.0:80 1000 4711"},
		{"IPv6", head + "   0: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A" + tail, "[::1]:443 1000 4711"},
		{"IPv4 in IPv6", head + "   0: 0000000000000000FFFF00000100007F:01BB 00000000000000000000000000000000:0000 0A" + tail, "127.0.0.1:443 1000 4711"},
		{"a connection", head + "   0: 0100007F:1F90 0100007F:AAAA 01" + tail, ""},
		{"nothing", "", ""},
		{"only the head", head, ""},
		{"no address", "   0: - - 0A" + tail, ""},
		{"letters in the address", "   0: 0100zz7F:1F90 00000000:0000 0A" + tail, ""},
		{"a short address", "   0: 01007F:1F90 00000000:0000 0A" + tail, ""},
		{"a port out of range", "   0: 0100007F:1F90F 00000000:0000 0A" + tail, ""},
		{"cut off", "   0: 0100007F:1F90 00000000:0000 0A 0000", ""},
		{"letters in the inode", strings.Replace("   0: 0100007F:1F90 00000000:0000 0A"+tail, "4711", "x", 1), ""},
		{"noise", "\x00\xff 1 2 3 4 5 6 7 8 9 10 0A\n\n:::\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			socks, err := parseSockets(strings.NewReader(c.table), overTCP.state)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, s := range socks {
				got += fmt.Sprint(s.addr, " ", s.uid, " ", s.inode)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestParseBootTime(t *testing.T) {
	for stat, want := range map[string]int64{
		"cpu  1 2 3\nbtime 1700000000\nprocesses 5\n": 1700000000,
		"btime soon\n": time.Time{}.Unix(),
		"":             time.Time{}.Unix(),
	} {
		if got := parseBootTime(stat).Unix(); got != want {
			t.Errorf("%q: got %d, want %d", stat, got, want)
		}
	}
}

func listen(t *testing.T, addr string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func find(ls []Listener, addr string, pid int) (Listener, bool) {
	for _, l := range ls {
		if l.Addr == addr && l.PID == pid {
			return l, true
		}
	}
	return Listener{}, false
}

func TestListenersSeesOurs(t *testing.T) {
	addr := listen(t, "127.0.0.1:0").Addr().String()
	for name, list := range map[string]func() ([]Listener, error){
		"all":  func() ([]Listener, error) { return Listeners(t.Context()) },
		"ours": func() ([]Listener, error) { return ListenersOf(t.Context(), os.Getpid()) },
	} {
		ls, err := list()
		if err != nil {
			t.Fatal(name, err)
		}
		l, ok := find(ls, addr, os.Getpid())
		if !ok {
			t.Fatalf("%s: %s is not among %v", name, addr, ls)
		}
		if !strings.Contains(l.Command, ".test") || l.User == "" || fmt.Sprintf("127.0.0.1:%d", l.Port) != addr {
			t.Errorf("%s: %+v", name, l)
		}
		if age := time.Since(l.Since); age < -5*time.Second || age > time.Hour {
			t.Errorf("%s: started %s ago", name, age)
		}
	}
}

// A child that inherited the socket is listed beside its parent, and is found from the parent's number.
func TestListenersOfDescendant(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.ExtraFiles = []*os.File{f}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	ls, err := ListenersOf(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{os.Getpid(), cmd.Process.Pid} {
		if _, ok := find(ls, l.Addr().String(), pid); !ok {
			t.Errorf("process %d is not among %v", pid, ls)
		}
	}
	child, err := ListenersOf(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := find(child, l.Addr().String(), os.Getpid()); ok || len(child) != 1 {
		t.Errorf("the child's own: %v", child)
	}
}

func TestListenersErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Listeners(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := ListenersOf(t.Context(), 1<<22+1); err == nil {
		t.Error("no error for a process that is not there")
	}
}

func TestOn(t *testing.T) {
	for _, c := range []struct {
		at, to string
		want   bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "0.0.0.0:80", true},
		{"[::]:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "[::]:80", true},
		{"[::1]:80", "0.0.0.0:80", false},
		{"[::1]:80", "[::]:80", true},
		{"rubbish", "[::]:80", false},
	} {
		if got := (Listener{Addr: c.at}).On(netip.MustParseAddrPort(c.to)); got != c.want {
			t.Errorf("%s on %s: %v", c.at, c.to, got)
		}
	}
}

func TestFamily(t *testing.T) {
	parent := map[int]int{1: 0, 2: 1, 3: 2, 4: 3, 5: 1}
	got := family(parent, 2)
	if len(got) != 3 || !got[2] || !got[3] || !got[4] {
		t.Errorf("%v", got)
	}
	if got := family(map[int]int{7: 7}, 7); len(got) != 1 {
		t.Errorf("its own parent: %v", got)
	}
}
