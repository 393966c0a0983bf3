// Command app is the service that the load is put on: it answers GET and POST, and sends back what it is told by WebSocket.
package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		io.WriteString(w, "ok")
	})
	mux.HandleFunc("/ws", socket)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		// Nothing is under way any more when an instance is told to end. Without the bound a connection that was opened and not used
		// would be waited for five seconds.
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.Shutdown(end)
	}()
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	<-done
}

// socket sends every short frame back, the one that ends it too (RFC 6455, sections 4.2.2 and 5.2).
func socket(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	for {
		var head [6]byte // kind, length, mask
		if _, err := io.ReadFull(rw, head[:]); err != nil || head[1]&0x7f > 125 {
			return
		}
		frame := make([]byte, 2+head[1]&0x7f)
		frame[0], frame[1] = head[0], head[1]&0x7f
		if _, err := io.ReadFull(rw, frame[2:]); err != nil {
			return
		}
		for i := range frame[2:] {
			frame[2+i] ^= head[2+i%4]
		}
		if _, err := c.Write(frame); err != nil || head[0]&0xf == 8 {
			return
		}
	}
}
