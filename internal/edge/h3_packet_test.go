//go:build unix

package edge

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv4"
)

func testKeys(t testing.TB) *quicKeys {
	t.Helper()
	k, err := newKeys(make([]byte, secretLength))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// inLong and inShort are the beginnings of packets for a connection ID.
func inLong(id []byte) []byte {
	return append(append([]byte{0xc0, 0, 0, 0, 1, byte(len(id))}, id...), 0, 0, 0, 0)
}
func inShort(id []byte) []byte { return append(append([]byte{0x40}, id...), 1, 2, 3) }

func TestMarks(t *testing.T) {
	k := testKeys(t)
	var room [markLength]byte
	seen := map[string]bool{}
	for _, gen := range []generation{0, 1, 1<<32 - 1} {
		for range 100 {
			id, err := marker{k, gen}.GenerateConnectionID()
			if err != nil || id.Len() != (marker{}).ConnectionIDLen() || seen[string(id.Bytes())] {
				t.Fatal(id, err)
			}
			seen[string(id.Bytes())] = true
			for _, p := range [][]byte{inLong(id.Bytes()), inShort(id.Bytes())} {
				if got, ok := k.of(destination(p), &room); !ok || got != gen {
					t.Errorf("%x is of %d (%v), want %d", p, got, ok, gen)
				}
			}
		}
	}
	// What a client chose for its first packet is nobody's, whatever its length.
	for n := range 21 {
		if gen, ok := k.of(destination(inLong(bytes.Repeat([]byte{7}, n))), &room); ok {
			t.Errorf("%d bytes are of %d", n, gen)
		}
	}
}

// TestPassOn holds that what stays keeps its order and its parts, in the buffers that were there.
func TestPassOn(t *testing.T) {
	d := newDirs(t)
	k := testKeys(t)
	got := make(chan packet, 10)
	old, err := openOthers(d, 1, k, quiet(), func(p packet) { got <- p })
	if err != nil {
		t.Fatal(err)
	}
	own, err := openOthers(d, 2, k, quiet(), func(packet) {})
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	c := newPacketConn(udp, ":443", own)
	from := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 7}
	packets := func(gens ...generation) (ms []ipv4.Message, data [][]byte) {
		for _, g := range gens {
			id, _ := marker{k, g}.GenerateConnectionID()
			p := inShort(id.Bytes())
			data = append(data, p)
			m := ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, 128), Addr: from}
			m.N, m.NN = copy(m.Buffers[0], p), copy(m.OOB, []byte{byte(g), 9})
			ms = append(ms, m)
		}
		return ms, data
	}
	ms, data := packets(1, 2, 3, 1, 2)
	first := &ms[0].Buffers[0][0]
	if n := c.passOn(ms); n != 3 || &ms[0].Buffers[0][0] != first {
		t.Fatalf("%d stayed", n)
	}
	for i, want := range []int{1, 2, 4} { // the third generation is no more: who took its place resets
		if m := ms[i]; !bytes.Equal(m.Buffers[0][:m.N], data[want]) || m.NN != 2 || m.OOB[1] != 9 || m.Addr != from {
			t.Errorf("%d: %x %x %v", i, m.Buffers[0][:m.N], m.OOB[:m.NN], m.Addr)
		}
	}
	for _, want := range []int{0, 3} {
		p := receive(t, got)
		if !bytes.Equal(p.data, data[want]) || !bytes.Equal(p.oob, []byte{1, 9}) || p.addr != ":443" || p.from != from.AddrPort() {
			t.Errorf("%+v", p)
		}
		var m ipv4.Message
		m.Buffers, m.OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
		if p.fill(&m); m.N != len(p.data) || m.NN != 2 || m.Addr.String() != from.String() {
			t.Errorf("%+v", m)
		}
	}
	// Once the other one has ended its packets stay here.
	old.close()
	eventually(t, func() bool {
		ms, _ := packets(1)
		return c.passOn(ms) == 1
	})
}

// Whatever another process says costs at most its connection.
func FuzzReadPacket(f *testing.F) {
	f.Add(packet{addr: ":443", from: netip.MustParseAddrPort("[::1]:7"), oob: []byte{1}, data: []byte("data")}.append(nil))
	f.Add([]byte{0, 3, 255, 0, 0})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		p, err := readPacket(r)
		if err != nil {
			return
		}
		again, err := readPacket(bufio.NewReader(bytes.NewReader(p.append(nil))))
		if err != nil || again.addr != p.addr || again.from != p.from || !bytes.Equal(again.oob, p.oob) || !bytes.Equal(again.data, p.data) {
			t.Errorf("%+v came back as %+v, %v", p, again, err)
		}
	})
}

// Whatever comes from the network is sorted: it is of whom its connection ID names, and of nobody else.
func FuzzDestination(f *testing.F) {
	k := testKeys(f)
	id, _ := marker{k, 5}.GenerateConnectionID()
	f.Add(inLong(id.Bytes()))
	f.Add(inShort(id.Bytes()))
	f.Add([]byte{0x80, 0, 0, 0, 0, 255})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var room [markLength]byte
		d := destination(b)
		if d != nil && (len(d) != markLength || !bytes.Contains(b, d)) {
			t.Errorf("%x is for %x", b, d)
		}
		if gen, ok := k.of(d, &room); ok && gen != 5 {
			t.Errorf("%x is of %d", b, gen)
		}
	})
}
