// Command program is a service with one flaw, which MODE names. Without one it serves and says which release it is.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

var mode = os.Getenv("MODE")

func main() {
	fmt.Println("starting in mode", mode)
	addr := "127.0.0.1:" + os.Getenv("PORT")
	switch mode {
	case "exit":
		fmt.Fprintln(os.Stderr, "cannot open the ledger: no such file")
		os.Exit(7)
	case "secret-exit":
		fmt.Println("the password is", os.Getenv("PLAIN"))
		os.Exit(7)
	case "eat":
		eat()
	case "elsewhere":
		addr = os.Getenv("ELSEWHERE")
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "flood":
		go flood()
	case "binary":
		binary()
	case "secret":
		go secrets()
	}
	http.HandleFunc("/ready", ready)
	http.HandleFunc("/", root)
	if err := http.ListenAndServe(addr, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ready(w http.ResponseWriter, _ *http.Request) {
	if mode == "unready" {
		http.Error(w, "the ledger is not open yet", http.StatusServiceUnavailable)
	}
}

var hits atomic.Int64

// enough is how many requests prove that traffic came.
const enough = 3

func root(w http.ResponseWriter, _ *http.Request) {
	if hits.Add(1) == enough {
		switch mode {
		case "eat-later":
			time.AfterFunc(5*time.Millisecond, eat) // behind this answer: what is lost is not this request's fault
		case "panic-later":
			time.AfterFunc(5*time.Millisecond, func() { outer("the ledger is closed") })
		}
	}
	_, leftover := os.LookupEnv("PLAIN")
	fmt.Fprintf(w, "release %s secret=%v\n", os.Getenv("FAIRLEAD_RELEASE"), leftover)
}

func outer(why string) { inner(why) }

func inner(why string) { panic(why) }

var kept [][]byte

func eat() {
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		kept = append(kept, b)
	}
}

// flood prints 100 MB that do not compress well, as fast as it goes.
func flood() {
	const size, line = 100 << 20, 200
	src := rand.New(rand.NewPCG(1, 2))
	raw := make([]byte, 3<<20)
	for i := range raw {
		raw[i] = byte(src.Uint32())
	}
	text := []byte(base64.StdEncoding.EncodeToString(raw))
	for i := line - 1; i < len(text); i += line {
		text[i] = '\n'
	}
	for n := 0; n < size; n += len(text) {
		os.Stdout.Write(text)
	}
	fmt.Fprintln(os.Stderr, "the flood is over")
}

func binary() {
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = byte(i * 7)
	}
	os.Stdout.Write(b)
	fmt.Println(`{"level":"warn","msg":"the ` + "\x1b" + ` byte is not allowed in JSON"}`)
	fmt.Println("\n\xff\xfe half a rune: \xe2\x82 and behind it a whole one: \u20ac")
	fmt.Println(`{"level":"info","msg":"a title for your terminal: \u001b]0;owned\u0007 \u009b2J"}`)
	fmt.Println("binary is over")
}

// secrets prints each of them in the ways a careless program does.
func secrets() {
	for _, name := range []string{"PLAIN", "QUOTED", "MARKUP", "LINES"} {
		v := os.Getenv(name)
		fmt.Println(name, "plain", v, "end")
		if b, err := json.Marshal(map[string]string{"msg": name + " in json " + v, "value": v}); err == nil {
			os.Stdout.Write(append(b, '\n'))
		}
	}
	v := os.Getenv("PLAIN")
	fmt.Print("PLAIN in two writes ", v[:10])
	<-time.After(200 * time.Millisecond)
	fmt.Println(v[10:], "end")
	fmt.Println("secrets are over")
}
