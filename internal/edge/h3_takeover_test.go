//go:build unix

package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// load3 is [load] over HTTP/3. It tells how many connections were made, too.
func (g *rig) load3(clients int) (sent, failed, made func() int64, stop func()) {
	var n, bad, dials atomic.Int64
	var all sync.WaitGroup
	done := make(chan bool)
	for range clients {
		c := g.client3(nil)
		tr := c.Transport.(*http3.Transport)
		dial := tr.Dial
		tr.Dial = func(ctx context.Context, addr string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			dials.Add(1)
			return dial(ctx, addr, t, q)
		}
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				n.Add(1)
				if err := post3(c); err != nil {
					g.t.Log(err)
					bad.Add(1)
				}
			}
		})
	}
	return n.Load, bad.Load, dials.Load, sync.OnceFunc(func() { close(done); all.Wait() })
}

func post3(c *http.Client) error {
	res, err := c.Post("https://shop.localhost/", "text/plain", strings.NewReader("x"))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "x" {
		return fmt.Errorf("%s %q %w", res.Status, b, err)
	}
	return nil
}

// TestHTTP3TakeOver replaces the edge five times under load, and no request is lost: not those of clients that are busy, of one that
// waits for its answer all the while, and of one whose handshake began with the edge before.
func TestHTTP3TakeOver(t *testing.T) {
	g := startEdge(t, newDirs(t))
	began, wait := make(chan bool, 1), make(chan bool)
	g.set(quickly("", serveOn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			io.WriteString(w, "first,")
			w.(http.Flusher).Flush()
			began <- true
			<-wait
			io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20)))
			return
		}
		if r.URL.Path == "/upload" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
			return
		}
		echo(w, r)
	})))
	const clients = 6
	sent, failed, made, stop := g.load3(clients)
	defer stop()
	in, out := io.Pipe()
	uploaded := make(chan string)
	go func() {
		res, err := g.client3(nil).Post("https://shop.localhost/upload", "", in)
		if err != nil {
			uploaded <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		uploaded <- string(b)
	}()
	long := make(chan string)
	go func() {
		res, err := g.client3(nil).Get("https://shop.localhost/long")
		if err != nil {
			long <- err.Error()
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		long <- fmt.Sprint(len(b), " ", err)
	}()
	receive(t, began)
	reached := sent()
	eventually(t, func() bool { return sent() > reached+100 })
	for i := range 5 {
		_, lines, _ := g.successor("serve")
		if line := receive(t, lines); line != "serving" {
			t.Fatal(i, line)
		}
		if _, err := out.Write(make([]byte, 1<<20)); err != nil { // the first edge gets it through each of the others
			t.Fatal(i, err)
		}
		eventually(t, func() bool { return made() >= int64(clients*(i+2)) }) // all have come to the new one
		reached := sent()
		eventually(t, func() bool { return sent() > reached+100 })
	}
	select {
	case got := <-long:
		t.Error("the long answer ended early:", got)
	default:
	}
	socks, err := filepath.Glob(g.dirs.Sock("edge-????????"))
	if err != nil || len(socks) < 2 {
		t.Errorf("%v %v: the first edge, which answers still, and the last one should be there", socks, err)
	}
	close(wait)
	if got, want := receive(t, long), fmt.Sprint(len("first,")+1<<20, " <nil>"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	out.Close()
	if got := receive(t, uploaded); got != "5242880 <nil>" {
		t.Error("of 5 MiB sent up came", got)
	}
	stop()
	receive(t, g.s.Done())
	if failed() != 0 {
		t.Errorf("%d of %d requests failed", failed(), sent())
	}
	if got := g.settled(uint64(sent()) + 2); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
}

// A successor that dies before it serves costs nobody anything.
func TestHTTP3TakeOverThatDies(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(quickly("", serveOn(t, echo)))
	sent, failed, _, stop := g.load3(2)
	defer stop()
	for range 2 {
		_, lines, end := g.successor("die")
		if line := receive(t, lines); line != "unready" {
			t.Fatal(line)
		}
		reached := sent()
		eventually(t, func() bool { return sent() > reached+50 })
		end()
		if err := post3(g.client3(nil)); err != nil {
			t.Error(err)
		}
	}
	stop()
	if failed() != 0 {
		t.Errorf("%d of %d requests failed", failed(), sent())
	}
}

// The clients of an edge that was killed learn at once that their connections are no more, from the next one: they need not wait until
// nothing has come for long enough.
func TestHTTP3AfterCrash(t *testing.T) {
	d := newDirs(t)
	if err := keeper.ServeStore(d, home.Supervisor); err != nil {
		t.Fatal(err)
	}
	first := startEdge(t, d)
	first.set(quickly("", serveOn(t, echo)))
	at := first.udp()
	cmd, lines, _ := first.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	conf := first.trusting()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	conf.ServerName, conf.NextProtos = "shop.localhost", []string{"h3"}
	conn, err := (&quic.Transport{Conn: udp}).Dial(t.Context(), at, conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := conn.AcceptUniStream(t.Context())
	if err == nil {
		_, err = settings.Read(make([]byte, 1))
	}
	if err != nil { // only now the handshake is over on both sides
		t.Fatal(err)
	}
	receive(t, first.s.Done())
	eventually(t, func() bool { // the supervisor has its copies
		files, err := keeper.GetFiles(d, home.Supervisor)
		for _, f := range files {
			f.Close()
		}
		return err == nil && files[udpName+anyPort] != nil
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !keeper.Running(d, home.Edge) })
	next := startEdge(t, d)
	if next.udp().String() != at.String() {
		t.Errorf("the next edge takes packets at %s, the first one did at %s", next.udp(), at)
	}
	// Whatever the client says now tells it.
	if str, err := conn.OpenUniStream(); err == nil { // or it has been told
		str.Write(append([]byte{0x21}, make([]byte, 100)...)) // a stream of a type that nobody knows
	}
	select {
	case <-conn.Context().Done():
		var reset *quic.StatelessResetError
		if err := context.Cause(conn.Context()); !errors.As(err, &reset) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the client was not told")
	}
	if err := post3(next.client3(nil)); err != nil {
		t.Error(err)
	}
	if socks, err := filepath.Glob(d.Sock("edge-????????")); err != nil || len(socks) != 1 {
		t.Errorf("%v %v: what the killed edge left should be gone", socks, err)
	}
}
