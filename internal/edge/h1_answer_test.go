//go:build unix

package edge

import (
	"net/http"
	"strings"
	"testing"
)

// What can become no head any more is not waited for, by either HTTP path.
func TestNoHTTP(t *testing.T) {
	onBothPaths(t, func(t *testing.T, client clients) {
		for _, text := range []string{"SSH-2.0-OpenSSH_9.9\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 abc fine\r\n\r\n", "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
			strings.Repeat("nonsense", 2<<20)} {
			g := startEdge(t, newDirs(t))
			g.set(oneRoute(scripted(t, text)))
			for _, method := range []string{"GET", "POST"} {
				if a := receive(t, ask(t, client(t), method, g.url())); a.status != http.StatusBadGateway {
					t.Errorf("%.20q to %s: %+v", text, method, a)
				}
			}
		}
	})
	// Heads of lines that end in LF alone: the edge's own path does not take them, and says so.
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(scripted(t, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")))
	if a := receive(t, ask(t, client(t), "GET", g.url())); a.status != http.StatusBadGateway {
		t.Errorf("%+v", a)
	}
}

// An answer whose end cannot be told is none, and another instance is asked.
func TestOddAnswerIsSentAgain(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(scripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello"), serveOn(t, says("fine"))))
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
