// Names is a DNS server: every name has one address, which says which release and instance was asked (RFC 1035, section 4). When it is
// told to stop it answers what came before, and ends.
package main

import (
	"errors"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
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
	release, _ := strconv.Atoi(os.Getenv("FAIRLEAD_RELEASE"))
	instance, _ := strconv.Atoi(os.Getenv("FAIRLEAD_INSTANCE"))
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			log.Print(err)
			continue
		}
		if out := answer(b[:n], byte(release), byte(instance)); out != nil {
			c.WriteTo(out, from)
		}
	}
}

// answer makes the answer to a question, nil for what is none.
func answer(q []byte, release, instance byte) []byte {
	const head = 12
	end := head
	for end < len(q) && q[end] != 0 {
		end += 1 + int(q[end])
	}
	if end += 5; end > len(q) || q[2]&0x80 != 0 {
		return nil
	}
	out := append([]byte{q[0], q[1], 0x84 | q[2]&1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, q[head:end]...)
	if kind := q[end-3]; kind != 1 { // it has addresses of IPv4 alone
		return out
	}
	out[7] = 1
	return append(out, 0xc0, head, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, release, 0, instance)
}
