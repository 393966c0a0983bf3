// Package steer holds kernel steering on a real kernel: real processes listen, real clients connect, and nothing of fairlead
// stands between them.
package steer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/internal/steer"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// asBackend in the environment makes this test program a service of that name.
const asBackend = "STEER_TEST_BACKEND"

func TestMain(m *testing.M) {
	if name := os.Getenv(asBackend); name != "" {
		serve(name)
		return
	}
	rig.Main(m)
}

// serve is an ordinary Go service: it knows nothing of steering, and ends in order when its input does.
func serve(name string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if code, err := strconv.Atoi(r.FormValue("status")); err == nil {
			w.WriteHeader(code)
		}
		io.WriteString(w, name)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("under way")
		d, _ := time.ParseDuration(r.FormValue("for"))
		t := time.NewTimer(d)
		<-t.C
		io.WriteString(w, name)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	srv := &http.Server{Handler: mux}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		srv.Shutdown(context.Background())
		os.Exit(0)
	}()
	srv.Serve(l)
	select {}
}

// backend is a running service.
type backend struct {
	steer.Socket
	cmd  *exec.Cmd
	stop io.Closer
	out  *bufio.Reader // a line for each slow request that it has begun
}

func start(t *testing.T, name string, env ...string) *backend {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), asBackend+"="+name, "GODEBUG=multipathtcp=0"), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &backend{cmd: cmd, stop: in, out: bufio.NewReader(out)}
	t.Cleanup(b.kill)
	line, err := b.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	id, err := proc.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	b.Socket = steer.Socket{Process: id, Port: port}
	return b
}

func (b *backend) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// end lets the service end in order, as SIGTERM would.
func (b *backend) end(t *testing.T) {
	t.Helper()
	b.stop.Close()
	if err := b.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

var names atomic.Int32

// named is a name for what the kernel keeps, which is gone after the test.
func named(t *testing.T) string {
	t.Helper()
	rig.LinuxAndRoot(t, "steering by the kernel")
	name := fmt.Sprintf("fairlead-test-%d-%d", os.Getpid(), names.Add(1))
	t.Cleanup(func() {
		if err := os.Remove(pin(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return name
}

func pin(name string) string { return filepath.Join("/sys/fs/bpf", name) }

func open(t *testing.T) *steer.Kernel {
	t.Helper()
	return openAs(t, named(t))
}

func openAs(t *testing.T, name string) *steer.Kernel {
	t.Helper()
	k, err := steer.Open(name)
	if refused := new(ebpf.VerifierError); errors.As(err, &refused) {
		t.Fatalf("%+v", refused) // the program's fault, not the machine's
	}
	if err != nil {
		rig.Missing(t, "this machine cannot steer: %v", err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// public is an address at which nobody listens.
func public(t *testing.T) netip.AddrPort {
	t.Helper()
	return netip.MustParseAddrPort(rig.Free(t))
}

func set(t *testing.T, k *steer.Kernel, s ...steer.Service) {
	t.Helper()
	for _, err := range k.Set(s) {
		t.Fatal(err)
	}
}

// ask makes n requests, each on a connection of its own, and returns who answered how often.
func ask(t *testing.T, at netip.AddrPort, n int) map[string]int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	out := map[string]int{}
	for range n {
		out[get(c, "http://"+at.String())]++
	}
	return out
}

func get(c *http.Client, url string) string {
	res, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func one(release int, b ...*backend) steer.Share {
	s := steer.Share{Release: release, Weight: 100}
	for _, x := range b {
		s.Sockets = append(s.Sockets, x.Socket)
	}
	return s
}

func TestWeights(t *testing.T) {
	k, at := open(t), public(t)
	old, young := start(t, "old"), start(t, "new")
	for _, w := range []int{0, 10, 50, 100} {
		shares := []steer.Share{{Release: 1, Weight: 100 - w, Sockets: []steer.Socket{old.Socket}}, {Release: 2, Weight: w, Sockets: []steer.Socket{young.Socket}}}
		set(t, k, steer.Service{Listen: at, Shares: shares})
		const n = 1000
		got := ask(t, at, n)
		want, slack := n*w/100, 80 // five standard deviations of a binomial distribution: by chance once in two million times
		if w == 0 || w == 100 {
			slack = 0
		}
		if got["new"]+got["old"] != n || got["new"] < want-slack || got["new"] > want+slack {
			t.Errorf("%d %%: %v", w, got)
		}
	}
}

// TestOutlives: connections are steered when the process that began it is gone, and the next one takes over without a gap.
func TestOutlives(t *testing.T) {
	name := named(t)
	k, at := openAs(t, name), public(t)
	a, b := start(t, "a"), start(t, "b")
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(1, a)}})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, at, 50); got["a"] != 50 {
		t.Errorf("without the process: %v", got)
	}
	next := openAs(t, name)
	if got := ask(t, at, 50); got["a"] != 50 {
		t.Errorf("before the next one has said anything: %v", got)
	}
	set(t, next, steer.Service{Listen: at, Shares: []steer.Share{one(1, b)}})
	if got := ask(t, at, 50); got["b"] != 50 {
		t.Errorf("after it: %v", got)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(steer.Forget(name), steer.Forget(name)); err != nil { // nothing is there the second time
		t.Error(err)
	}
	rig.Eventually(t, 5*time.Second, "the kernel to let go", func() bool { return ask(t, at, 1)["b"] == 0 })
	next = openAs(t, name)
	set(t, next, steer.Service{Listen: at, Shares: []steer.Share{one(1, b)}})
	set(t, next)
	if got := ask(t, at, 1); got["b"] != 0 {
		t.Errorf("after the end: %v", got)
	}
	if _, err := os.Stat(pin(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what steered is still there: %v", err)
	}
}

// TestRescue: an instance that dies leaves its connections to the others, and the last one's go to who listens at the address.
func TestRescue(t *testing.T) {
	k, at := open(t), public(t)
	a, b := start(t, "a"), start(t, "b")
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(1, a, b)}})
	if got := ask(t, at, 300); got["a"] < 90 || got["b"] < 90 || got["a"]+got["b"] != 300 {
		t.Errorf("both live: %v", got)
	}
	a.kill()
	if got := ask(t, at, 300); got["b"] != 300 {
		t.Errorf("one died: %v", got)
	}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "edge") })}
	go srv.Serve(l)
	defer srv.Close()
	if got := ask(t, at, 50); got["b"] != 50 {
		t.Errorf("the edge listens, too: %v", got)
	}
	self, err := proc.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	through := steer.Service{Listen: at, Shares: []steer.Share{one(1, b)}, Proxy: steer.Socket{Process: self, Port: int(at.Port())}}
	set(t, k, through)
	if got := ask(t, at, 50); got["edge"] != 50 {
		t.Errorf("through the edge: %v", got)
	}
	srv.Close()
	if got := ask(t, at, 50); got["b"] != 50 {
		t.Errorf("the edge died: %v", got)
	}
}

// TestSticky: a client stays where it is while the new release's share grows, but for those it grows by.
func TestSticky(t *testing.T) {
	k, at := open(t), public(t)
	old, young := start(t, "old"), start(t, "new")
	clients := 60
	at = netip.AddrPortFrom(netip.MustParseAddr("0.0.0.0"), at.Port())
	before := map[int]string{}
	for _, w := range []int{10, 40, 70} {
		shares := []steer.Share{{Release: 1, Weight: 100 - w, Sockets: []steer.Socket{old.Socket}}, {Release: 2, Weight: w, Sockets: []steer.Socket{young.Socket}}}
		set(t, k, steer.Service{Listen: at, Sticky: true, Shares: shares})
		for i := range clients {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: d.DialContext}}
			url := fmt.Sprintf("http://127.0.0.1:%d", at.Port())
			got, again := get(c, url), get(c, url)
			if got != again || got != "old" && got != "new" || before[i] == "new" && got == "old" {
				t.Errorf("%d %%: client %d was at %q, then at %q and %q", w, i, before[i], got, again)
			}
			before[i] = got
		}
	}
}

// TestObserved: what instances answer is counted as a proxy would have counted it.
func TestObserved(t *testing.T) {
	k, at := open(t), public(t)
	old, young := start(t, "old"), start(t, "new")
	service := steer.Service{Listen: at, Shares: []steer.Share{one(1, old)}}
	set(t, k, service)
	kept := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 5 * time.Second}
	url := "http://" + at.String()
	if got := get(kept, url); got != "old" {
		t.Fatal(got) // a connection from before
	}
	service.Observe = true
	set(t, k, service)
	for i := range 40 {
		if got := get(kept, url+"/?status="+[]string{"200", "500"}[i%2]); got != "old" {
			t.Fatal(got)
		}
	}
	service.Shares = []steer.Share{{Release: 1, Sockets: []steer.Socket{old.Socket}}, one(2, young)}
	set(t, k, service)
	if got := get(kept, url) + get(kept, url+"/?status=404"); got != "oldnew" {
		t.Errorf("a connection is placed anew behind its next answer: %s", got)
	}
	fresh := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 5 * time.Second}
	for range 30 {
		if got := get(fresh, url+"/?status=404"); got != "new" {
			t.Fatal(got)
		}
	}
	// Who asks the instance itself, as a probe does, is not the service's client.
	if got := get(fresh, fmt.Sprintf("http://127.0.0.1:%d", young.Port)); got != "new" {
		t.Fatal(got)
	}
	if got := get(fresh, url+"/slow?for=100ms"); got != "new" {
		t.Fatal(got)
	}
	got := k.Take()
	o, n := got[old.Socket], got[young.Socket]
	if o.Classes != [6]uint64{2: 21, 5: 20} || o.Last != 1 {
		t.Errorf("the old one, on a connection that was there before: %+v", o)
	}
	if n.Classes != [6]uint64{2: 1, 4: 31} || n.Connections != 2 {
		t.Errorf("the new one: %+v", n)
	}
	var answers uint64
	slowest := 0
	for i, c := range n.Hist {
		if answers += c; c > 0 {
			slowest = i
		}
	}
	if end := time.Duration(steer.BucketEnd(slowest)); answers != 32 || end < 100*time.Millisecond || end > time.Second {
		t.Errorf("%d latencies, the slowest up to %s", answers, end)
	}
	if again := k.Take(); len(again) != 0 {
		t.Errorf("taken twice: %v", again)
	}
	// A service that dies owes the answers that it had begun to work on.
	gone := make(chan string)
	go func() { gone <- get(fresh, url+"/slow?for=1m") }()
	for range 2 { // the first one was answered above
		if _, err := young.out.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	young.kill()
	<-gone
	if got := k.Take()[young.Socket]; got.Unanswered != 1 || got.Classes[0] != 1 {
		t.Errorf("after it was killed: %+v", got)
	}
}

// TestDrain: 16 clients that post again and again lose nothing when the service ends.
func TestDrain(t *testing.T) {
	k, at := open(t), public(t)
	old, young := start(t, "old"), start(t, "new")
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(1, old)}})
	var wg sync.WaitGroup
	var answers, byNew atomic.Int64
	until, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for i := range 16 {
		wg.Go(func() {
			pause := time.NewTicker(time.Duration(1+i%2*40) * time.Millisecond) // some are idle for a moment
			defer pause.Stop()
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 10 * time.Second}
			for ; until.Err() == nil; <-pause.C {
				// A body that cannot be sent again: the client must not repeat the request by itself.
				res, err := c.Post("http://"+at.String(), "text/plain", io.NopCloser(strings.NewReader("x")))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					t.Error(res.Status, err)
					return
				}
				answers.Add(1)
				if string(b) == "new" {
					byNew.Add(1)
				}
			}
		})
	}
	idle := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}
	if got := get(idle, "http://"+at.String()); got != "old" {
		t.Error(got)
	}
	rig.Eventually(t, 10*time.Second, "load", func() bool { return answers.Load() > 500 })
	set(t, k, steer.Service{Listen: at, Shares: []steer.Share{one(2, young)}})
	if err := k.Drain(t.Context(), at, old.Socket); err != nil {
		t.Error(err)
	}
	old.end(t)
	rig.Eventually(t, 10*time.Second, "the new one's answers", func() bool { return byNew.Load() > 500 })
	stop()
	wg.Wait()
	if n := k.Take()[old.Socket]; n.Last < 16 {
		t.Errorf("%d answers were the last ones of their connections: %+v", n.Last, n)
	}
}

// TestMultipath: a service that steering cannot reach is named, and left to who listens at its address.
func TestMultipath(t *testing.T) {
	if b, err := os.ReadFile("/proc/sys/net/mptcp/enabled"); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Skip("this kernel has no Multipath TCP")
	}
	k, at := open(t), public(t)
	b := start(t, "b", "GODEBUG=multipathtcp=2")
	err := k.Set([]steer.Service{{Listen: at, Shares: []steer.Share{one(1, b)}}})[at]
	if err == nil || !strings.Contains(err.Error(), "multipathtcp=0") {
		t.Error(err)
	}
	gone := b.Socket
	b.kill()
	if err := k.Set([]steer.Service{{Listen: at, Shares: []steer.Share{{Weight: 100, Sockets: []steer.Socket{gone}}}}})[at]; err == nil {
		t.Error("a process that ended was steered to")
	}
}
