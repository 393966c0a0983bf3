//go:build unix

package edge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// speaks is an instance that answers each request with a text and then waits.
func speaks(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() // when the edge has enough of it
				for r := bufio.NewReader(c); ; {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, text)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// What can become no head any more is not waited for, by either HTTP path.
func TestNoHTTP(t *testing.T) {
	onBothPaths(t, func(t *testing.T, client clients) {
		for _, text := range []string{"SSH-2.0-OpenSSH_9.9\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 abc fine\r\n\r\n", "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
			strings.Repeat("nonsense", 2<<20)} {
			g := startEdge(t, newDirs(t))
			g.set(oneRoute(speaks(t, text)))
			for _, method := range []string{"GET", "POST"} {
				if a := receive(t, ask(t, client(t), method, g.url())); a.status != http.StatusBadGateway {
					t.Errorf("%.20q to %s: %+v", text, method, a)
				}
			}
		}
	})
	// Heads of lines that end in LF alone: the edge's own path does not take them, and says so.
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(speaks(t, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")))
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != http.StatusBadGateway {
		t.Errorf("%+v", a)
	}
}

// An answer whose end cannot be told is none, and another instance is asked.
func TestOddAnswerIsSentAgain(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(speaks(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello"), serveOn(t, says("fine"))))
	c := client(t)
	for range 40 {
		if res, text := get(t, c, g.url()); res.StatusCode != http.StatusOK || text != "fine" {
			t.Fatalf("%s %q", res.Status, text)
		}
	}
	if g.counts(1, 1).Retried == 0 {
		t.Error("nothing was ever sent again")
	}
}
