//go:build unix

package edge

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// upgraded answers like a WebSocket server and then echoes lines.
func upgraded(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Sec-Websocket-Key") != "a2V5" {
		http.Error(w, fmt.Sprint(r.Header), http.StatusBadRequest)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: yes\r\n\r\n")
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		io.WriteString(c, "echo "+line)
	}
}

const upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a2V5\r\n\r\n"

func TestWebSocket(t *testing.T) {
	g := newRig(t, upgraded)
	c := dialRaw(t, g.addr())
	c.send(upgrade)
	if res := c.response("GET"); res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != "yes" {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	for i := range 3 {
		c.send(fmt.Sprintf("line %d\n", i))
		if got, err := c.r.ReadString('\n'); err != nil || got != fmt.Sprintf("echo line %d\n", i) {
			t.Fatalf("%q %v", got, err)
		}
	}
	if got := g.counts(0, 0); got.Open != 1 || got.Requests != 0 {
		t.Errorf("while it is open: %+v", got)
	}
	c.Close()
	if got := g.settled(1); got.Classes[1] != 1 || got.Failed+got.Aborted != 0 {
		t.Errorf("after its end: %+v", got)
	}
}

// Each event arrives before the next one is made: nothing is kept back.
func TestEventsArriveOneByOne(t *testing.T) {
	next := make(chan bool)
	g := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			if !<-next {
				return
			}
		}
	})
	for name, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": h2c(t)} {
		res, err := c.Do(request(t, http.MethodGet, g.url(), nil))
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(res.Body)
		for i := range 3 {
			if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("%s: %q %v", name, line, err)
			}
			r.ReadString('\n')
			next <- i < 2
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		res.Body.Close()
	}
}

func TestH2Client(t *testing.T) {
	g := newRig(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto+" "+r.Host+" "+r.URL.Path) })
	r := request(t, http.MethodGet, g.url()+"/p", nil)
	r.Host = "shop.example.com"
	res, body := do(t, h2c(t), r)
	if res.ProtoMajor != 2 || body != "HTTP/1.1 shop.example.com /p" {
		t.Errorf("%s: %s", res.Proto, body)
	}
}

// A gRPC stream: HTTP/2 to the instance too, messages both ways in turn, the status in the trailers.
func TestGRPCEndToEnd(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			http.Error(w, r.Proto+" te="+r.Header.Get("Te"), http.StatusHTTPVersionNotSupported)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		http.NewResponseController(w).Flush()
		sc := bufio.NewScanner(r.Body)
		for sc.Scan() {
			fmt.Fprintf(w, "got %s\n", sc.Text())
			http.NewResponseController(w).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.CloseClientConnections)
	g := startEdge(t, newDirs(t))
	g.set(oneRoute(srv.Listener.Addr().String()))
	pr, pw := io.Pipe()
	r := request(t, http.MethodPost, g.url()+"/pkg.Service/Method", pr)
	r.Header = http.Header{"Content-Type": {"application/grpc+proto"}, "Te": {"trailers"}}
	res, err := h2c(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("%s %s", res.Status, b)
	}
	in := bufio.NewReader(res.Body)
	for i := range 3 {
		fmt.Fprintf(pw, "message %d\n", i)
		if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintf("got message %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
	}
	pw.Close()
	if _, err := io.ReadAll(in); err != nil {
		t.Fatal(err)
	}
	if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "fine" {
		t.Errorf("trailers: %v", res.Trailer)
	}
	if got := g.settled(1); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
}

// An open stream that nobody waits for is no gap, however long it says nothing.
func TestStreamIsNoGap(t *testing.T) {
	g := newRig(t, upgraded)
	c := dialRaw(t, g.addr())
	c.send(upgrade)
	c.response("GET")
	if err := g.s.stats.ResetGap("shop", "prod"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, func() bool { return time.Since(begin) > 60*time.Millisecond })
	if gap := g.s.stats.Gap("shop", "prod"); gap > 40*time.Millisecond {
		t.Errorf("the gap is %s while a stream is open", gap)
	}
	// The next request is answered at once: the stream's silence before it is not its wait.
	get(t, client(t), g.url())
	if gap := g.s.stats.Gap("shop", "prod"); gap > 40*time.Millisecond {
		t.Errorf("the gap is %s after a request was answered at once", gap)
	}
}

// Who leaves a stream on which nothing happens ends it: the instance hears of it, and it counts as the client's doing.
func TestWhoLeavesAStreamEndsIt(t *testing.T) {
	for _, begun := range []bool{false, true} {
		left := make(chan string, 1)
		g := newRig(t, func(w http.ResponseWriter, r *http.Request) {
			if begun {
				w.WriteHeader(http.StatusOK)
				http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
			left <- "the client"
		})
		c := dialRaw(t, g.addr())
		c.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
		if begun {
			c.r.ReadString(0x0a)
		}
		for end := time.Now().Add(patience); g.counts(1, 1).Open == 0 && time.Now().Before(end); {
		}
		c.Close()
		if got := receive(t, left); got != "the client" {
			t.Errorf("begun %v: %s left", begun, got)
		}
		if got := g.settled(1); got.Aborted != 1 || got.Failed != 0 {
			t.Errorf("begun %v: %+v", begun, got)
		}
	}
}
