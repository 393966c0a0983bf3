// Backend is what every proxy of the benchmark stands before: two fixed bodies, and nothing else that could cost time.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
)

func main() {
	cert := flag.String("cert", "", "PEM `file`; with it the same is served with TLS, too")
	key := flag.String("key", "", "its key's `file`")
	more := flag.Int("more", 0, "further `ports` that serve the same")
	flag.Parse()
	for path, size := range map[string]int{"/1k": 1 << 10, "/100k": 100 << 10} {
		body := bytes.Repeat([]byte("x"), size)
		http.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", strconv.Itoa(size))
			w.Write(body)
		})
	}
	var at struct {
		Plain, TLS string
		More       []string
	}
	l := listen()
	at.Plain = l.Addr().String()
	go http.Serve(l, nil)
	for range *more {
		l := listen()
		at.More = append(at.More, l.Addr().String())
		go http.Serve(l, nil)
	}
	if *cert != "" {
		l := listen()
		at.TLS = l.Addr().String()
		go func() { log.Fatal(http.ServeTLS(l, nil, *cert, *key)) }()
	}
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		log.Fatal(err)
	}
	select {}
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}
