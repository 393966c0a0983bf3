//go:build unix

package edge_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What HTTP/2 can carry and HTTP/1.1 cannot say must not be written to an instance: it would be read as something else there.
func TestAttackDowngrade(t *testing.T) {
	f := ours(t)
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for i, c := range []struct {
		name   string
		fields []string // name and value in turn, after or instead of the usual ones
		body   string
		may    string // what may arrive whole
	}{
		{"a plain request", []string{"x", "y"}, "hello", "POST /c|hello"},
		{"a length that is right", []string{"content-length", "5"}, "hello", "POST /c|hello"},
		// The body that was not announced resets the stream, perhaps after the instance got the request without it.
		{"a length of nothing", []string{"content-length", "0"}, hidden, "POST /c|"},
		{"a length too short", []string{"content-length", "4"}, "0\r\n\r\n" + hidden, ""},
		{"a length too long", []string{"content-length", "500"}, hidden, ""},
		{"two lengths", []string{"content-length", "0", "content-length", "33"}, hidden, "POST /c|"},
		// net/http takes that for nothing; whether the body that comes all the same is sent on is a matter of time.
		{"a length with a plus", []string{"content-length", "+5"}, "hello", "POST /c|hello or POST /c|"},
		{"an encoding", []string{"transfer-encoding", "chunked"}, "0\r\n\r\n" + hidden, ""},
		{"a connection", []string{"connection", "transfer-encoding"}, "hello", ""},
		{"an upgrade", []string{"upgrade", "websocket"}, "hello", ""},
		{"a line end in a value", []string{"x", "y\r\ntransfer-encoding: chunked"}, "0\r\n\r\n" + hidden, ""},
		{"LF in a value", []string{"x", "y\nz: 1"}, "hello", ""},
		{"NUL in a value", []string{"x", "y\x00"}, "hello", ""},
		{"a line end in a name", []string{"x: y\r\nz", "1"}, "hello", ""},
		{"a colon in a name", []string{"content-length:5\r\nx", "1"}, "hello", ""},
		{"upper case in a name", []string{"X", "y"}, "hello", ""},
		{"a space in a name", []string{"content-length ", "5"}, "hello", ""},
		{"a host beside the authority", []string{"host", "b"}, "hello", "POST /c|hello"},
		{"a line end in the path", []string{":path", "/c HTTP/1.1\r\nHost: a\r\n\r\nGET /hidden"}, "", ""},
		{"a space in the path", []string{":path", "/c HTTP/1.1"}, "hello", "POST /c%20HTTP/1.1|hello"},
		{"a path without a slash", []string{":path", "c"}, "hello", ""},
		{"a line end in the method", []string{":method", "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\nGET"}, "", ""},
		{"a space in the method", []string{":method", "GET /hidden"}, "", ""},
		{"a line end in the authority", []string{":authority", "a\r\nx: y"}, "hello", ""},
		{"a path in the authority", []string{":authority", "a/b"}, "hello", ""},
		{"a user in the authority", []string{":authority", "b@a"}, "hello", ""},
		{"two paths", []string{":path", "/c", ":path", "/hidden"}, "", ""},
		{"CONNECT", []string{":method", "CONNECT"}, "hello", ""},
		{"PRI", []string{":method", "PRI", ":path", "*"}, "", ""},
	} {
		from := f.rec.len()
		answered := f.two(t, c.fields, c.body)
		if err := f.innocent(t, "GET /other"); err != nil {
			t.Errorf("%s: another client: %v", c.name, err)
		}
		for _, a := range f.rec.since(from) {
			switch {
			case a.line == "GET /other":
			case a.wrong != "":
				t.Errorf("%s: a head that can be read in two ways arrived: %s", c.name, a.wrong)
			case a.host != "a":
				t.Errorf("%s: it arrived for the host %q", c.name, a.host)
			case a.whole && !slices.Contains(strings.Split(c.may, " or "), a.what()):
				t.Errorf("%s: %q arrived, where %q may", c.name, a.what(), c.may)
			}
		}
		if got := f.rec.since(from); i < 2 && (len(got) != 2 || got[0].what() != c.may) {
			t.Errorf("%s: this arrived: %+v", c.name, got)
		}
		if !answered {
			t.Errorf("%s: no answer and no end", c.name)
		}
	}
}

// two sends one request by HTTP/2 as it is told, and reports whether the edge answered it or ended the stream or connection.
func (f front) two(t *testing.T, fields []string, body string) bool {
	t.Helper()
	c := newTwo(t, dial(t, f.addr))
	defer c.Close()
	given := map[string]bool{}
	for i := 0; i < len(fields); i += 2 {
		given[fields[i]] = true
	}
	all := fields
	for _, usual := range [][2]string{{":path", "/c"}, {":authority", "a"}, {":scheme", "http"}, {":method", "POST"}} {
		if !given[usual[0]] && (usual[0] == ":authority" || usual[0] == ":method" || !given[":method"] || !strings.HasPrefix(strings.Join(fields, " "), ":method CONNECT")) {
			all = append([]string{usual[0], usual[1]}, all...)
		}
	}
	for i := 0; i < len(all); i += 2 {
		c.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	c.AllowIllegalWrites = true
	if err := c.WriteData(1, true, []byte(body)); err != nil {
		return true // the edge has ended the connection already
	}
	for {
		fr, err := c.ReadFrame()
		if err != nil {
			ne, ok := err.(interface{ Timeout() bool })
			return !ok || !ne.Timeout()
		}
		switch fr := fr.(type) {
		case *http2.HeadersFrame:
			if fr.StreamEnded() {
				return true
			}
		case *http2.DataFrame:
			if fr.StreamEnded() {
				return true
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return true
		}
	}
}
