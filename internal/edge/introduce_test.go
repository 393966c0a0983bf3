package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// second makes a word of version 2.
func second(command, family byte, rest string) string {
	return string(signature) + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func TestIntroductions(t *testing.T) {
	four := "\x0a\x00\x00\x01\x0a\x00\x00\x02\x04\xd2\x00\x50"
	six := strings.Repeat("\x00", 15) + "\x01" + strings.Repeat("\x00", 16) + "\x04\xd2\x00\x50"
	for in, want := range map[string]string{
		"PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n":      "10.0.0.1:1234",
		"PROXY TCP6 ::1 2001:db8::2 1234 80\r\n":        "[::1]:1234",
		"PROXY UNKNOWN\r\n":                             "itself",
		"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": "itself",
		second(0x21, 0x11, four):                        "10.0.0.1:1234",
		second(0x21, 0x21, six):                         "[::1]:1234",
		second(0x21, 0x11, four+"\x03\x00\x04abcd"):     "10.0.0.1:1234",
		second(0x20, 0x00, ""):                          "itself",
		second(0x20, 0x11, four):                        "itself",
		second(0x21, 0x31, strings.Repeat("x", 216)):    "itself", // a unix socket
		second(0x21, 0x00, ""):                          "itself",

		"GET / HTTP/1.1\r\n":                          "",
		"PROXY":                                       "",
		"PROXY \r\n":                                  "",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\n":      "",
		"PROXY TCP4 ::1 10.0.0.2 1234 80\r\n":         "",
		"PROXY TCP6 10.0.0.1 ::1 1234 80\r\n":         "",
		"PROXY TCP4 10.0.0.1 10.0.0.2 65536 80\r\n":   "",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1234 -1\r\n":    "",
		"PROXY TCP4 10.0.0.1  10.0.0.2 1234 80\r\n":   "",
		"PROXY UDP4 10.0.0.1 10.0.0.2 1234 80\r\n":    "",
		"PROXY TCP4 " + strings.Repeat("1", 100):      "",
		second(0x31, 0x11, four):                      "",
		second(0x22, 0x11, four):                      "",
		second(0x21, 0x11, four[:11]):                 "",
		second(0x21, 0x21, six[:35]):                  "",
		second(0x21, 0x11, strings.Repeat("x", 8000)): "",
		"\r\nGET / HTTP/1.1\r\n\r\n":                  "",
		"":                                            "",
	} {
		r := bufio.NewReaderSize(strings.NewReader(in+"GET"), maxIntroduction)
		a, err := readIntroduction(r)
		got := ""
		switch {
		case err != nil:
		case a.IsValid():
			got = a.String()
		default:
			got = "itself"
		}
		if got != want {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
		if rest, _ := io.ReadAll(r); err == nil && string(rest) != "GET" {
			t.Errorf("%q: behind it is %q", in, rest)
		}
	}
}

// FuzzIntroduction holds that no word makes it fail otherwise than by an error, and that what it understood means the same when it is
// said in the other version.
func FuzzIntroduction(f *testing.F) {
	f.Add([]byte("PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\nGET"))
	f.Add([]byte("PROXY TCP6 ::1 ::2 1234 80\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(second(0x21, 0x11, "\x0a\x00\x00\x01\x0a\x00\x00\x02\x04\xd2\x00\x50")))
	f.Add([]byte(second(0x20, 0x21, strings.Repeat("x", 40))))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), maxIntroduction)
		a, err := readIntroduction(r)
		rest, _ := io.ReadAll(r)
		if !bytes.HasSuffix(in, rest) {
			t.Fatalf("behind it is %q", rest)
		}
		if err != nil || !a.IsValid() {
			return
		}
		kind := "TCP6"
		if a.Addr().Is4() {
			kind = "TCP4"
		}
		again, err := readIntroduction(bufio.NewReaderSize(strings.NewReader(fmt.Sprintf("PROXY %s %s %s %d 1\r\n", kind, a.Addr(), a.Addr(), a.Port())), maxIntroduction))
		if err != nil || again != netip.AddrPortFrom(a.Addr(), a.Port()) {
			t.Fatalf("%s is %s in the other version: %v", a, again, err)
		}
	})
}
