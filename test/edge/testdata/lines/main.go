// Lines is a service of plain TCP: it says which release and instance it is, and answers each line with itself. When it is told to
// stop it says goodbye to its clients, and serves them until they hang up.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// grace is how long clients have to hang up.
const grace = 5 * time.Second

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	stopping := make(chan struct{})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		close(stopping)
		l.Close()
	}()
	var clients sync.WaitGroup
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		clients.Go(func() { serve(c, stopping) })
	}
	clients.Wait()
}

func serve(c net.Conn, stopping <-chan struct{}) {
	defer c.Close()
	var mu sync.Mutex
	say := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(c, line)
	}
	say("i am " + os.Getenv("FAIRLEAD_RELEASE") + "." + os.Getenv("FAIRLEAD_INSTANCE"))
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-stopping:
			say("goodbye")
			c.SetReadDeadline(time.Now().Add(grace))
		case <-ended:
		}
	}()
	for sc := bufio.NewScanner(c); sc.Scan(); {
		say(sc.Text())
	}
}
