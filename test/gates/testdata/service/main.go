// Command canary is a service whose faults are chosen by its environment, so that one source makes good and bad releases:
//
//	FAIL=0.05   share of the requests that are answered 500
//	SLOW=3      every request takes so many times as long
//	LEAK=25     MiB that an instance keeps each second
//	PANIC=0.1   share of the requests whose handler panics, is caught and logged, and is answered 200 all the same
//	SMOKE=500   status of /smoke
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// usual is what a request takes at the least, without SLOW.
const usual = 15 * time.Millisecond

func main() {
	http.HandleFunc("/", answer)
	http.HandleFunc("/smoke", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(max(number("SMOKE"), http.StatusOK)))
		fmt.Fprintln(w, "the smoke test was here")
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if leak := number("LEAK"); leak > 0 {
		go keep(ctx, int(leak))
	}
	srv := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		srv.Shutdown(end)
	}()
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-done
}

// answer takes a while, as a call to a database would: at the 95th percentile 2.5 times as long as at the least.
func answer(w http.ResponseWriter, _ *http.Request) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n", r)
			fmt.Fprintln(w, "all is well")
		}
	}()
	w.Header().Set("X-Release", os.Getenv("FAIRLEAD_RELEASE"))
	time.Sleep(time.Duration(float64(usual) * (1 + rand.ExpFloat64()/2) * max(number("SLOW"), 1)))
	if rand.Float64() < number("PANIC") {
		panic("nobody thought of this order")
	}
	if rand.Float64() < number("FAIL") {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "ok")
}

// keep holds more memory each second and touches it, so that it is really there.
func keep(ctx context.Context, mib int) {
	var held [][]byte
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			fmt.Fprintln(os.Stderr, "held", len(held), "pieces")
			return
		case <-tick.C:
			b := make([]byte, mib<<20/10)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
	}
}

func number(name string) float64 {
	n, _ := strconv.ParseFloat(os.Getenv(name), 64)
	return n
}
