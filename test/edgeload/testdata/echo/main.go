// Echo answers each datagram with itself. When it is told to stop it answers what came before, and ends.
package main

import (
	"errors"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// rest is how long it looks for what came before it was told to stop.
const rest = 50 * time.Millisecond

func main() {
	c, err := net.ListenPacket("udp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		c.SetReadDeadline(time.Now().Add(rest))
	}()
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			c.WriteTo(b[:n], from)
		}
	}
}
