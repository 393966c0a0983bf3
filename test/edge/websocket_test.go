//go:build unix

package edge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// megabyte is the longest message here.
const megabyte = 1 << 20

// sockets is an instance that answers by WebSocket: it sends each message back, in pieces; by some of them it is told what else to do.
// It hands out how each socket ended.
func sockets(t *testing.T) (addr string, ended <-chan error, pongs *atomic.Int64) {
	t.Helper()
	ends := make(chan error, 10)
	pongs = new(atomic.Int64)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"shop.v2", "shop.v1"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(2 * megabyte)
		ends <- answer(context.WithoutCancel(r.Context()), c, pongs)
	}), ends, pongs
}

// answer serves one socket until its end.
func answer(ctx context.Context, c *websocket.Conn, pongs *atomic.Int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		kind, b, err := c.Read(ctx)
		if err != nil {
			return err
		}
		switch string(b[:min(len(b), 20)]) {
		case "ping me":
			go func() {
				if c.Ping(ctx) == nil {
					pongs.Add(1)
					c.Write(ctx, websocket.MessageText, []byte("you are there"))
				}
			}()
			continue
		case "bye":
			return c.Close(4001, "by order")
		case "break off":
			return errors.Join(c.CloseNow(), io.ErrUnexpectedEOF)
		}
		w, err := c.Writer(ctx, kind)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			n := (len(b) + 2) / 3
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
}

// A WebSocket library talks to another through the edge, which is to be as good as a wire.
func TestWebSocket(t *testing.T) {
	instance, ended, pongs := sockets(t)
	b := inBoth(t, instance)
	for _, scheme := range []string{"ws", "wss"} {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s compressed=%v", scheme, compressed), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				open := func() *websocket.Conn { return openSocket(ctx, t, b, scheme, compressed) }
				c := open()
				messages(ctx, t, c)
				pings(ctx, t, c, pongs)
				ends(ctx, t, c, open, ended)
			})
		}
	}
}

// messages of all the lengths that are written differently, in pieces, in both directions at once.
func messages(ctx context.Context, t *testing.T, c *websocket.Conn) {
	t.Helper()
	noise := make([]byte, megabyte)
	rand.NewChaCha8([32]byte{}).Read(noise)
	sent := make(chan error, 1)
	for _, n := range []int{0, 1, 125, 126, 65_535, 65_536, megabyte} {
		for kind, message := range map[websocket.MessageType][]byte{websocket.MessageText: bytes.Repeat([]byte("x"), n), websocket.MessageBinary: noise[:n]} {
			go func() { sent <- send(ctx, c, kind, message) }()
			got, back, err := c.Read(ctx)
			if err != nil || got != kind || !bytes.Equal(back, message) {
				t.Fatalf("%d bytes of %s: %d bytes of %s %v", len(message), kind, len(back), got, err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
	}
}

// pings from both sides.
func pings(ctx context.Context, t *testing.T, c *websocket.Conn, pongs *atomic.Int64) {
	t.Helper()
	before := pongs.Load()
	if err := c.Write(ctx, websocket.MessageText, []byte("ping me")); err != nil {
		t.Fatal(err)
	}
	if _, back, err := c.Read(ctx); err != nil || string(back) != "you are there" || pongs.Load() != before+1 {
		t.Fatalf("%q %v, %d pongs", back, err, pongs.Load()-before)
	}
	back := make(chan error, 1)
	go func() {
		_, _, err := c.Read(ctx) // whoever pings must read to see the answer
		back <- err
	}()
	if err := c.Ping(ctx); err != nil {
		t.Fatalf("no answer to a ping: %v", err)
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("enough")); err != nil {
		t.Fatal(err)
	}
	if err := <-back; err != nil {
		t.Fatal(err)
	}
}

// ends from both sides, with their codes and without any.
func ends(ctx context.Context, t *testing.T, c *websocket.Conn, open func() *websocket.Conn, ended <-chan error) {
	t.Helper()
	if err := c.Close(4002, "\u00e4\u00f6\u00fc"); err != nil {
		t.Error(err)
	}
	expectEnd(t, <-ended, 4002, "\u00e4\u00f6\u00fc")
	told := func(what string) error {
		c := open()
		if err := c.Write(ctx, websocket.MessageText, []byte(what)); err != nil {
			t.Fatal(err)
		}
		_, _, err := c.Read(ctx)
		return err
	}
	expectEnd(t, told("bye"), 4001, "by order")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := told("break off"); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("an instance that broke off: %v", err)
	}
	<-ended
	open().CloseNow()
	if err := <-ended; err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("a client that broke off: %v", err)
	}
}

// openSocket opens one through the edge.
func openSocket(ctx context.Context, t *testing.T, b both, scheme string, compressed bool) *websocket.Conn {
	t.Helper()
	one := new(http.Protocols)
	one.SetHTTP1(true)
	o := &websocket.DialOptions{HTTPClient: b.client(t, one), Subprotocols: []string{"shop.v1"}}
	if compressed {
		o.CompressionMode = websocket.CompressionContextTakeover
	}
	addr := b.plain
	if scheme == "wss" {
		addr = b.secure
	}
	c, res, err := websocket.Dial(ctx, scheme+"://"+addr+"/ws", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	if got := strings.Contains(res.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate"); got != compressed || c.Subprotocol() != "shop.v1" {
		t.Fatalf("extensions %q, subprotocol %q", res.Header.Get("Sec-Websocket-Extensions"), c.Subprotocol())
	}
	c.SetReadLimit(2 * megabyte)
	return c
}

// send sends a message in pieces.
func send(ctx context.Context, c *websocket.Conn, kind websocket.MessageType, message []byte) error {
	w, err := c.Writer(ctx, kind)
	if err != nil {
		return err
	}
	for len(message) > 0 {
		n := (len(message) + 4) / 5
		if _, err := w.Write(message[:n]); err != nil {
			return err
		}
		message = message[n:]
	}
	return w.Close()
}

func expectEnd(t *testing.T, err error, code websocket.StatusCode, reason string) {
	t.Helper()
	e, ok := errors.AsType[websocket.CloseError](err)
	if !ok || e.Code != code || e.Reason != reason {
		t.Errorf("it ended with %v, want %d %s", err, code, reason)
	}
}
