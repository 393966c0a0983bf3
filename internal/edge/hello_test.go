package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloOf is what Go's client says first.
func helloOf(t testing.TB, conf *tls.Config) []byte {
	t.Helper()
	var said bytes.Buffer
	conf.InsecureSkipVerify = true
	if err := tls.Client(&scriptConn{r: strings.NewReader(""), w: &said}, conf).Handshake(); err == nil {
		t.Fatal("a handshake with nobody")
	}
	return said.Bytes()
}

// scriptConn is a connection whose other end says what it says, whatever it is told.
type scriptConn struct {
	net.Conn
	r io.Reader
	w io.Writer
}

func (c *scriptConn) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *scriptConn) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c *scriptConn) Close() error                     { return nil }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *scriptConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }

var errHeard = errors.New("heard")

// heardBy is what Go's server makes of the beginning of a connection; nil for nothing.
func heardBy(b []byte) *tls.ClientHelloInfo {
	var out *tls.ClientHelloInfo
	tls.Server(&scriptConn{r: bytes.NewReader(b), w: io.Discard}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		out = h
		return nil, errHeard
	}}).HandshakeContext(context.Background())
	return out
}

// inRecords cuts the message of b, which is one record, into records of n bytes.
func inRecords(b []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(b[recordHead:], n) {
		out = append(append(out, b[0], b[1], b[2], byte(len(part)>>8), byte(len(part))), part...)
	}
	return out
}

func TestParseHello(t *testing.T) {
	for _, c := range []struct {
		conf *tls.Config
		want hello
	}{
		{&tls.Config{ServerName: "Shop.Example.com", NextProtos: []string{"h2", "http/1.1"}}, hello{"Shop.Example.com", []string{"h2", "http/1.1"}}},
		{&tls.Config{ServerName: "a", MaxVersion: tls.VersionTLS12}, hello{name: "a"}},
		{&tls.Config{NextProtos: []string{"x"}}, hello{protocols: []string{"x"}}},
	} {
		whole := helloOf(t, c.conf)
		for _, b := range [][]byte{whole, inRecords(whole, 100), inRecords(whole, 1)} {
			for n := range b {
				if _, need, err := parseHello(b[:n]); err != nil || need <= n || need > len(b) {
					t.Fatalf("%d of %d bytes: %d are needed, %v", n, len(b), need, err)
				}
			}
			got, need, err := parseHello(append(slices.Clip(b), "what follows"...))
			if err != nil || need != 0 || got.name != c.want.name || !slices.Equal(got.protocols, c.want.protocols) {
				t.Errorf("%+v %d %v, want %+v", got, need, err, c.want)
			}
		}
	}
}

func TestParseHelloRefuses(t *testing.T) {
	good := helloOf(t, &tls.Config{ServerName: "shop.example.com"})
	at := bytes.Index(good, []byte("shop.example.com"))
	change := func(i int, v byte) string {
		b := slices.Clone(good)
		b[i] = v
		return string(b)
	}
	for name, c := range map[string]struct {
		bytes string
		want  error
	}{
		"plain HTTP":              {"GET / HTTP/1.1\r\n", errNoTLS},
		"another version":         {"\x16\x02\x00", errNoTLS},
		"an empty record":         {"\x16\x03\x01\x00\x00", errHello},
		"a record too long":       {"\x16\x03\x01\x40\x01", errHello},
		"another message":         {change(recordHead, 2), errHello},
		"a message too long":      {change(recordHead+1, 1), errHello},
		"a message too short":     {change(recordHead+3, 50), errHello},
		"a name too long":         {change(at-1, 17), errHello},
		"an empty name":           {change(at-1, 0), errHello},
		"alert after the first":   {string(inRecords(good, 100)[:105]) + "\x15", errNoTLS},
		"extensions out of bound": {change(recordHead+handshakeHead+2+32, 0), errHello},
	} {
		if h, need, err := parseHello([]byte(c.bytes)); !errors.Is(err, c.want) || need != 0 {
			t.Errorf("%s: %+v %d %v", name, h, need, err)
		}
	}
}

// What the parser takes Go's server reads in the same way, and what Go's server takes at once the parser does, too.
func FuzzHello(f *testing.F) {
	for _, conf := range []*tls.Config{
		{ServerName: "shop.example.com", NextProtos: []string{"h2", "http/1.1"}}, {NextProtos: []string{"acme-tls/1"}}, {ServerName: "a", MaxVersion: tls.VersionTLS12},
	} {
		b := helloOf(f, conf)
		f.Add(b)
		f.Add(inRecords(b, 200))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, need, err := parseHello(b)
		if err == nil && need != 0 && need <= len(b) {
			t.Fatalf("%q has %d bytes, and %d are needed", b, len(b), need)
		}
		theirs := heardBy(b)
		if theirs == nil {
			return // stricter, or it would not have heard all of it either
		}
		if err != nil || need != 0 {
			if len(b) > maxHello || len(theirs.ServerName) > maxName || errors.Is(err, errNoTLS) {
				return // an alert that Go passes over, or a version that never was
			}
			t.Fatalf("%q is heard as %+v, and not here: %d %v", b, theirs, need, err)
		}
		if h.name != theirs.ServerName || !slices.Equal(h.protocols, theirs.SupportedProtos) {
			t.Fatalf("%q is %+v, for Go %q %q", b, h, theirs.ServerName, theirs.SupportedProtos)
		}
	})
}
