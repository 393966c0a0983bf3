package hosts

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// echo serves HTTP, which says who asked and sends back a body, and UDP, which sends back each datagram, until its standard
// input ends. It says so when both listen.
func echo(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(buf[:n], from)
		}
	}()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set("From", host)
		io.Copy(w, r.Body)
	}))
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin)
}
