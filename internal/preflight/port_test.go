package preflight

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/proc"
)

func TestPort(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("who listens is known on Linux and macOS")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	held := l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	check := func(listen string, ours func(int) bool) Finding {
		t.Helper()
		return one(t, checkPort(t.Context(), &run{Params: Params{Listen: listen, Ours: ours}}))
	}
	me := fmt.Sprintf("process %d (", os.Getpid())
	expect(t, check(held, nil), Error, me, "since 20", fmt.Sprintf("kill %d", os.Getpid()), "set route.listen to 127.0.0.1:")
	expect(t, check(fmt.Sprintf(":%d", port), nil), Error, me, "set route.listen to :")
	expect(t, check(fmt.Sprintf("localhost:%d", port), nil), Error, me)
	expect(t, check(held, func(pid int) bool { return pid == os.Getpid() }), OK, "fairlead's edge")
	l.Close()
	expect(t, check(held, nil), OK, held+" is free")
	expect(t, check("127.0.0.1:0", nil), OK)
	expect(t, check("127.0.0.1", nil), Error, "missing port")
	expect(t, check("192.0.2.1:8080", nil), Error, "not an address of this machine")
	if fs := checkPort(t.Context(), &run{}); fs != nil {
		t.Errorf("no address: %v", fs)
	}
}

func TestUDPPort(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("who receives is known on Linux and macOS")
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	held := c.LocalAddr().String()
	check := func(udp bool, ours func(int) bool) Finding {
		t.Helper()
		return one(t, checkPort(t.Context(), &run{Params: Params{Listen: held, UDP: udp, Ours: ours}}))
	}
	expect(t, check(true, nil), Error, fmt.Sprintf("process %d (", os.Getpid()), "set route.listen to 127.0.0.1:")
	expect(t, check(true, func(pid int) bool { return pid == os.Getpid() }), OK, "fairlead's edge")
	expect(t, check(false, nil), OK, held+" is free")
	c.Close()
	expect(t, check(true, nil), OK, held+" is free")
	for _, goos := range []string{"linux", "darwin"} {
		if got := lookUDP.Replace(lookCommand(goos, 53)); strings.Contains(got, "-ltnp") || strings.Contains(got, "TCP") {
			t.Error(got)
		}
	}
}

func TestJudgeHolders(t *testing.T) {
	stranger := []proc.Listener{{Addr: "0.0.0.0:80", Port: 80, User: "root"}}
	f := judgeHolders(":80", stranger, func(int) bool { return true }, 1024)
	expect(t, f, Error, "of root that cannot be seen from here", "set route.listen to :1024")
	if strings.Contains(f.Fix, "kill") {
		t.Errorf("kill whom? %q", f.Fix)
	}
	long := []proc.Listener{{Port: 80, PID: 7, User: "bob", Command: strings.Repeat("é", 100), Since: time.Date(2027, 1, 2, 3, 4, 5, 0, time.Local)}}
	f = judgeHolders(":80", long, nil, 0)
	expect(t, f, Error, "process 7", strings.Repeat("é", 79)+"…)", "since 2027-01-02 03:04:05")
	if f.Fix != "type `kill 7`" {
		t.Errorf("%q", f.Fix)
	}
	expect(t, judgeHolders(":80", []proc.Listener{{PID: 7}}, nil, 0), Error, "no command line")
}

func TestJudgeBind(t *testing.T) {
	denied := &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)}
	f := judgeBind(":80", denied, 1024)
	expect(t, f, Error, "only take ports from 1024", "run as root")
	if runtime.GOOS == "linux" {
		expect(t, f, Error, "ip_unprivileged_port_start=80")
	}
	if openCommand("darwin", ":80") != "" || lookCommand("linux", 80) == lookCommand("darwin", 80) {
		t.Error("each system has its own commands")
	}
	expect(t, judgeBind(":80", syscall.EADDRINUSE, 1024), Error, "cannot be taken")
	expect(t, judgeBind(":80", nil, 1024), OK)
	if n := firstOpenPort(); n < 0 || n > 65535 {
		t.Errorf("%d", n)
	}
}
