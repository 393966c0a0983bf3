//go:build linux || darwin

package proc

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

// Who takes datagrams from anybody is listed, and who only talks with somebody is not.
func TestReceivers(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := net.DialUDP("udp", nil, c.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	all, err := Receivers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ReceiversOf(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string][]Listener{"all": all, "ours": ours} {
		found := 0
		for _, l := range list {
			if l.Addr == c.LocalAddr().String() && l.PID == os.Getpid() {
				found++
			}
			if l.Addr == peer.LocalAddr().String() {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if found != 1 {
			t.Errorf("%s: %s is there %d times", name, c.LocalAddr(), found)
		}
	}
	for at, want := range map[string]bool{c.LocalAddr().String(): true, peer.LocalAddr().String(): false} {
		if got, err := Receives(t.Context(), netip.MustParseAddrPort(at)); got != want || err != nil {
			t.Errorf("%s: %v %v", at, got, err)
		}
	}
	if _, err := ReceiversOf(t.Context(), 1<<22+1); err == nil {
		t.Error("no error for a process that is not there")
	}
}
