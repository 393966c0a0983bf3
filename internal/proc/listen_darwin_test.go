package proc

import (
	"net"
	"os"
	"testing"
)

func TestParseLsof(t *testing.T) {
	got := parseLsof("p12\nLbob\nf3\ntIPv4\nn127.0.0.1:8080\nf4\ntIPv6\nn*:443\nf5\ntIPv4\nn*:80\np13\nLeve\nf1\ntIPv6\nn[::1]:9\n\nnrubbish\nx\n")
	want := []Listener{
		{Addr: "127.0.0.1:8080", Port: 8080, PID: 12, User: "bob"}, {Addr: "[::]:443", Port: 443, PID: 12, User: "bob"},
		{Addr: "0.0.0.0:80", Port: 80, PID: 12, User: "bob"}, {Addr: "[::1]:9", Port: 9, PID: 13, User: "eve"},
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

func TestParsePS(t *testing.T) {
	got := parsePS("    1     0 root     Sat Nov 21 08:45:53 2026 /sbin/launchd -s\nrubbish\n 2 x root Sat Nov 21 08:45:53 2026 y\n")
	if p := got[1]; len(got) != 1 || p.user != "root" || p.command != "/sbin/launchd -s" || p.since.Minute() != 45 {
		t.Errorf("%v", got)
	}
}

func TestListenersSeesOurs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ls, err := ListenersOf(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range ls {
		if x.Addr == l.Addr().String() && x.PID == os.Getpid() && x.Command != "" {
			return
		}
	}
	t.Errorf("%s is not among %v", l.Addr(), ls)
}
