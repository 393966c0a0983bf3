//go:build unix

package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/logs"
)

// successorEnv makes the test binary an edge that takes over in the folders it names, and says how: "serve" or "die".
const successorEnv = "FAIRLEAD_TEST_SUCCESSOR"

func TestMain(m *testing.M) {
	if how := os.Getenv(successorEnv); how != "" {
		if err := succeed(how); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// succeed is the life of the successor: it says "serving" and ends with its standard input.
func succeed(how string) error {
	d := home.Dirs{State: os.Getenv("TEST_STATE"), Run: os.Getenv("TEST_RUN")}
	lock, given, ready, err := TakeOver(d)
	if err != nil {
		return err
	}
	if how == "die" {
		ready = func() error { // with everything open and nothing confirmed
			fmt.Println("unready")
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
			return nil
		}
	}
	s, err := Start(context.Background(), Options{Dirs: d, Version: "successor", Log: quiet(), Lock: lock, Given: given, Ready: ready, Access: kept(d)})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	io.Copy(io.Discard, os.Stdin)
	s.Shut(time.Second)
	return nil
}

// kept is where the agent has access logs kept.
func kept(d home.Dirs) AccessLog {
	return func(service, env string, size int64, age time.Duration) io.WriteCloser {
		return logs.NewLines(logs.AccessDir(d.Logs(), service, env), size, age)
	}
}

// Each request has one line, whole and in one of the log's segments, also while two edges write to it and rotate it.
func TestTakeOverOfAccessLog(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.proxy.access.open = kept(g.dirs)
	a := everyRequest
	a.Size = 2 << 20
	g.set(logged(a, serveOn(t, echo)))
	stop := load(t, g.url())
	eventually(t, func() bool { return g.counts(0, 0).Requests > 300 })
	_, lines, end := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	before := g.counts(0, 0).Requests
	eventually(t, func() bool { return g.counts(0, 0).Requests > before+300 })
	sent, failed := stop()
	receive(t, g.s.Done())
	end()
	found, traces := 0, map[string]bool{}
	q := logs.Query{Service: "shop", Env: "prod", Access: true}
	if err := logs.Read(t.Context(), g.dirs.Logs(), q, func(r logs.Record) error {
		if r.Stream != logs.Access || r.Level != "info" || r.Instance != 1 {
			t.Errorf("%+v", r)
		}
		found++
		traces[r.TraceID] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	dropped := g.counts(0, 0).Unlogged
	segs, _ := filepath.Glob(filepath.Join(logs.AccessDir(g.dirs.Logs(), "shop", "prod"), "0*"))
	if int64(found) != sent || len(traces) != found || failed != 0 || dropped != 0 {
		t.Errorf("%d lines of %d traces in %d segments for %d requests, of which %d failed; %d dropped", found, len(traces), len(segs), sent, failed, dropped)
	}
}

// What the log's reader prints is, byte for byte, what the edge wrote.
func TestAccessLinesAreRecords(t *testing.T) {
	g := startEdge(t, newDirs(t))
	g.s.proxy.access.open = kept(g.dirs)
	a := everyRequest
	a.Query, a.Headers = true, []string{"User-Agent", "X-Id"}
	g.set(logged(a, serveOn(t, says("x"))))
	r := request(t, http.MethodGet, g.url()+"/%22?a=\\", nil)
	r.Header.Set("X-Id", "\"\xff")
	do(t, client(t), r)
	g.s.Shut(patience) // the line is written when the request has ended, a moment after its answer
	dir := logs.AccessDir(g.dirs.Logs(), "shop", "prod")
	want, err := os.ReadFile(filepath.Join(dir, "00000001.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var rec logs.Record
	if err := rec.UnmarshalJSON(want); err != nil {
		t.Fatal(err)
	}
	if got, err := rec.MarshalJSON(); err != nil || string(got)+"\n" != string(want) {
		t.Errorf("%s is read as %s (%v)", want, got, err)
	}
}

// successor starts a process that takes over from g. Its standard output comes line by line; it ends when end is called.
func (g *rig) successor(how string) (cmd *exec.Cmd, lines <-chan string, end func()) {
	g.t.Helper()
	cmd = exec.CommandContext(g.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), successorEnv+"="+how, "TEST_STATE="+g.dirs.State, "TEST_RUN="+g.dirs.Run)
	in, err := cmd.StdinPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	said, ended := make(chan string, 10), make(chan bool)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			said <- sc.Text()
		}
		close(said)
		cmd.Wait()
		close(ended)
	}()
	end = func() {
		in.Close()
		<-ended
	}
	g.t.Cleanup(end)
	return cmd, said, end
}

// load posts on keep-alive connections until it is stopped; it returns how many requests were sent and how many failed.
func load(t *testing.T, url string) (stop func() (sent, failed int64)) {
	var n, bad atomic.Int64
	var wg sync.WaitGroup
	done := make(chan bool)
	for range 8 {
		c := client(t)
		wg.Go(func() {
			for {
				select {
				case <-done:
					c.CloseIdleConnections()
					return
				default:
				}
				n.Add(1)
				res, err := c.Post(url, "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Log(err)
					bad.Add(1)
					continue
				}
				if b, err := io.ReadAll(res.Body); err != nil || string(b) != "x" {
					t.Log(res.Status, string(b), err)
					bad.Add(1)
				}
				res.Body.Close()
			}
		})
	}
	return func() (int64, int64) {
		close(done)
		wg.Wait()
		return n.Load(), bad.Load()
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Write(b)
}

func TestTakeOver(t *testing.T) {
	g := newRig(t, echo)
	url, admin := g.url(), NewClient(g.dirs.Sock(home.Edge))
	stop := load(t, url)
	eventually(t, func() bool { return g.counts(0, 0).Requests > 100 })
	// One connection says nothing and one waits for an instance that comes only after the takeover.
	quietConn := dialRaw(t, g.addr())
	quietConn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	io.Copy(io.Discard, quietConn.response("GET").Body)
	g.s.mu.Lock()
	table := *g.s.last
	g.s.mu.Unlock()
	empty := oneRoute()
	empty.Routes[0].Service, empty.Routes[0].Hosts = "late", []string{"late.example"}
	table.Routes = append(table.Routes, empty.Routes...)
	g.set(table)
	held := dialRaw(t, g.addr())
	held.send("POST / HTTP/1.1\r\nHost: late.example\r\nContent-Length: 4\r\n\r\nlate")
	eventually(t, func() bool { return g.s.stats.Open("late", "prod", 0, 0) == 1 })

	cmd, lines, _ := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	before := g.counts(0, 0).Requests
	eventually(t, func() bool { return g.counts(0, 0).Requests > before+200 })
	info, err := admin.Info(t.Context())
	if err != nil || info.PID != cmd.Process.Pid || info.Version != "successor" {
		t.Errorf("%+v %v", info, err)
	}
	if pid := keeper.PID(g.dirs, home.Edge); pid != cmd.Process.Pid || !keeper.Running(g.dirs, home.Edge) {
		t.Errorf("the lock is with %d, running %v", pid, keeper.Running(g.dirs, home.Edge))
	}
	if _, err := g.s.Set(table); err == nil {
		t.Error("the replaced edge takes a table")
	}
	select {
	case <-g.s.Done():
		t.Error("the replaced edge ended with two connections open")
	default:
	}
	// The replaced edge follows the new one's tables: for the request it holds and for the next on an old connection.
	table.Routes[1].Backends[0].Endpoints = ends(serveOn(t, echo))
	if _, err := admin.Set(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	res := held.response("POST")
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "late" {
		t.Errorf("held: %s %q %v", res.Status, b, err)
	}
	held.Close()
	quietConn.send("POST / HTTP/1.1\r\nHost: late.example\r\nContent-Length: 1\r\n\r\nx")
	if res := quietConn.response("POST"); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("an old connection: %s, close %v", res.Status, res.Close)
	}
	sent, failed := stop()
	receive(t, g.s.Done())
	if failed != 0 {
		t.Errorf("%d of %d requests failed", failed, sent)
	}
	if got := g.settled(uint64(sent) + 1); got.Failed+got.Aborted != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTakeOverThatDies(t *testing.T) {
	g := newRig(t, echo)
	url := g.url() // the socket, and so the address, outlives every takeover
	stop := load(t, url)
	for range 3 {
		_, lines, end := g.successor("die")
		if line := receive(t, lines); line != "unready" {
			t.Fatal(line)
		}
		// Connections that are made now must be the old one's: whatever the new one takes dies with it.
		var conns []*raw
		for range 20 {
			conns = append(conns, dialRaw(t, strings.TrimPrefix(url, "http://")))
		}
		for i := range 2 {
			for _, c := range conns {
				c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
				io.Copy(io.Discard, c.response("POST").Body)
			}
			if i == 0 {
				end()
			}
		}
		for _, c := range conns {
			c.Close()
		}
		// It is served on, at its sockets too.
		info, err := NewClient(g.dirs.Sock(home.Edge)).Info(t.Context())
		if err != nil || info.PID != os.Getpid() {
			t.Errorf("%+v %v", info, err)
		}
	}
	g.set(*g.s.last)
	sent, failed := stop()
	if failed != 0 {
		t.Errorf("%d of %d requests failed", failed, sent)
	}
	if pid := keeper.PID(g.dirs, home.Edge); pid != os.Getpid() || !keeper.Running(g.dirs, home.Edge) {
		t.Errorf("the lock is with %d", pid)
	}
	// The next one succeeds.
	_, lines, _ := g.successor("serve")
	if line := receive(t, lines); line != "serving" {
		t.Fatal(line)
	}
	receive(t, g.s.Done())
	if _, body := do(t, client(t), request(t, http.MethodPost, url, strings.NewReader("y"))); body != "y" {
		t.Errorf("%q", body)
	}
}
