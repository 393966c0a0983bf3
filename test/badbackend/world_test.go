//go:build unix

// Package badbackend measures what clients see when an instance is bad: it hangs, breaks off, talks nonsense, is slow now and then, or
// answers 500; with and without each protection of the edge. `make bench-backends` writes docs/backends-table.md by it; as an ordinary
// test it asks less of each and checks what must hold whatever the times are.
package badbackend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/edge"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// asEdge names the folder of the edge that this test binary is to be, when it is started again as one.
const asEdge = "BADBACKEND_EDGE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asEdge); dir != "" {
		if err := beEdge(dirs(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func dirs(dir string) home.Dirs {
	return home.Dirs{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r")}
}

// beEdge is the life of the edge's process, which is one of its own as on a machine: neither the clients nor the instances take its
// files and its memory. It ends with its standard input, so with its parent whatever becomes of that.
func beEdge(d home.Dirs) error {
	if err := d.Make(); err != nil {
		return err
	}
	lock, err := keeper.Hold(d, home.Edge)
	if err != nil {
		return err
	}
	defer lock.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := edge.Start(ctx, edge.Options{Dirs: d, Version: "test", Log: slog.New(slog.DiscardHandler), Lock: lock})
	if err != nil {
		return err
	}
	defer s.Shut(0)
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// world is an edge before the instances of many cells, each a service of its own that is found by its host.
type world struct {
	addr   string
	client *edge.Client
	stats  *edge.Stats

	mu     sync.Mutex
	routes map[string]edge.Route // by service
	cells  int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	// The name is short since the path of a unix socket may not have more than about 100 bytes.
	dir, err := os.MkdirTemp("", "bb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), asEdge+"="+dir), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the edge: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the edge said %q, %v", line, err)
	}
	stats, err := edge.OpenStats(dirs(dir).Stats(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stats.Close() })
	return &world{addr: freeAddr(t), client: edge.NewClient(dirs(dir).Sock(home.Edge)), stats: stats, routes: map[string]edge.Route{}}
}

// freeAddr is an address for the edge, which is told where to listen. It is none of those that the kernel gives to clients: one of
// ours could take it meanwhile.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+mrand.IntN(10000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port between 20000 and 30000")
	return ""
}

// service puts a service with these instances before clients, until leave is called. Its name is also its host.
func (w *world) service(t testing.TB, g *edge.Guard, all []*instance) (name string, leave func()) {
	t.Helper()
	w.mu.Lock()
	w.cells++
	name = fmt.Sprintf("cell-%d", w.cells)
	w.mu.Unlock()
	b := edge.Backend{Release: 1, Weight: 100}
	for n, i := range all {
		b.Endpoints = append(b.Endpoints, edge.Endpoint{Instance: n + 1, Addr: i.addr})
	}
	set := func(change func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		change()
		table := edge.Table{}
		for _, r := range w.routes {
			table.Routes = append(table.Routes, r)
		}
		if _, err := w.client.Set(context.WithoutCancel(t.Context()), table); err != nil {
			t.Error(err)
		}
	}
	r := edge.Route{Service: name, Environment: "prod", Listen: w.addr, Hosts: []string{name}, Guard: g, Backends: []edge.Backend{b}}
	set(func() { w.routes[name] = r })
	return name, func() { set(func() { delete(w.routes, name) }) }
}

// again is how often the edge sent requests of a service once more.
func (w *world) again(name string) uint64 {
	var n uint64
	for _, c := range w.stats.Read() {
		if c.Service == name && c.Release != 0 {
			n += c.Counts.Retried
		}
	}
	return n
}

// newClient returns what speaks to the edge. It keeps connections, as browsers and other services do: an answer that broke off must
// not be found in the next one.
func newClient(t testing.TB) *http.Transport {
	tr := &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// patience is how long a client waits before it goes away.
const patience = 3 * time.Second
