//go:build unix

package edge

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// Who the client is an instance is told as HAProxy tells it, and a proxy in front tells us.
func TestPassIntroduced(t *testing.T) {
	g := startEdge(t, newDirs(t))
	words := make(chan introducedAs, 1)
	instance := tcpService(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		client, err := readIntroduction(r)
		rest, _ := io.ReadAll(r)
		words <- introducedAs{client, string(rest), err}
	})
	for version := range 3 {
		for _, front := range []string{"", "PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n", "PROXY TCP6 2001:db8::9 2001:db8::1 1234 80\r\n"} {
			table := passed(Stream{Introduce: version}, instance)
			if front != "" {
				table.Routes[0].Introduced, table.Routes[0].Trusted = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
			g.set(table)
			c := dialRaw(t, g.addr())
			c.send(front + "what follows")
			c.closeWrite()
			c.rest()
			got := receive(t, words)
			want := netip.MustParseAddrPort(c.LocalAddr().String())
			if front != "" {
				want = netip.MustParseAddrPort("192.0.2.9:1234")
				if strings.Contains(front, "TCP6") {
					want = netip.MustParseAddrPort("[2001:db8::9]:1234")
				}
			}
			if version == 0 {
				if got.err == nil {
					t.Errorf("nothing shall be said: %+v", got)
				}
				continue
			}
			if got.err != nil || got.client != want || got.rest != "what follows" {
				t.Errorf("version %d behind %q: %+v, want %s", version, front, got, want)
			}
		}
	}
}

type introducedAs struct {
	client netip.AddrPort
	rest   string
	err    error
}

func TestIntroduction(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.9:1234"), netip.MustParseAddrPort("[2001:db8::9]:443")
	for _, c := range []struct {
		i       introduction
		version int
		want    string
	}{
		{introduction{client: v4, local: netip.MustParseAddrPort("192.0.2.1:80")}, 1, "PROXY TCP4 192.0.2.9 192.0.2.1 1234 80\r\n"},
		{introduction{client: v6, local: v6}, 1, "PROXY TCP6 2001:db8::9 2001:db8::9 443 443\r\n"},
		{introduction{client: v6, local: v4}, 1, "PROXY TCP6 2001:db8::9 ::ffff:192.0.2.9 443 1234\r\n"},
		{introduction{client: v4}, 1, "PROXY UNKNOWN\r\n"},
		{introduction{client: v4, local: v4}, 2, second(0x21, 0x11, "\xc0\x00\x02\x09\xc0\x00\x02\x09\x04\xd2\x04\xd2")},
		{introduction{client: v6, local: v6}, 2, second(0x21, 0x21, strings.Repeat(string(v6.Addr().AsSlice()), 2)+"\x01\xbb\x01\xbb")},
		{introduction{client: v4, local: v4, name: "a.b", protocol: "h2"}, 2, second(0x21, 0x11, "\xc0\x00\x02\x09\xc0\x00\x02\x09\x04\xd2\x04\xd2\x01\x00\x02h2\x02\x00\x03a.b")},
		{introduction{name: "a"}, 2, second(0x21, 0, "\x02\x00\x01a")},
	} {
		if got := c.i.append([]byte("x"), c.version); string(got) != "x"+c.want {
			t.Errorf("%+v: %q, want %q", c.i, got[1:], c.want)
		}
	}
}
