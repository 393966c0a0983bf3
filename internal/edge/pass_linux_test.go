package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// openFiles counts this process's descriptors of a kind.
func openFiles(t *testing.T, kind string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, kind) {
			n++
		}
	}
	return n
}

// The kernel moves the bytes through pipes; a connection that is silent has none.
func TestSilentConnectionsKeepNoPipes(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.set(passed(Stream{Idle: time.Hour}, tcpService(t, func(c *net.TCPConn) { // not by io.Copy, which would use pipes itself
		io.WriteString(c, "one\n")
		for sc := bufio.NewScanner(c); sc.Scan(); {
			fmt.Fprintln(c, sc.Text())
		}
	})))
	const few = 10 // of the runtime's own, and of what earlier tests have not given back
	before := few
	eventually(t, func() bool {
		runtime.GC()
		return openFiles(t, "pipe:") <= before
	})
	var conns []*raw
	for range 40 {
		c := dialRaw(t, g.addr())
		c.send("hello\n")
		conns = append(conns, c)
	}
	most := 0
	for _, c := range conns {
		if got := c.line() + c.line(); got != "onehello" {
			t.Fatalf("%q", got)
		}
		most = max(most, openFiles(t, "pipe:"))
	}
	if most <= 2*before {
		t.Errorf("%d pipes before, %d while bytes went over: the kernel did not move them", before, most)
	}
	eventually(t, func() bool {
		runtime.GC() // those that are kept to be used again
		return openFiles(t, "pipe:") <= before
	})
	for _, c := range conns {
		c.send("there\n")
		if got := c.line(); got != "there" {
			t.Fatalf("%q", got)
		}
	}
}
