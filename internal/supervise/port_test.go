package supervise

import (
	"net"
	"testing"
)

// An instance's port is for both transports: whoever has it for one keeps it from being given.
func TestPortFree(t *testing.T) {
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	if portFree(port) {
		t.Errorf("UDP port %d is taken", port)
	}
	c.Close()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if port := l.Addr().(*net.TCPAddr).Port; portFree(port) {
		t.Errorf("TCP port %d is taken", port)
	}
	l.Close()
	if port := l.Addr().(*net.TCPAddr).Port; !portFree(port) {
		t.Errorf("port %d is free", port)
	}
}
