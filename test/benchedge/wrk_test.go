package benchedge

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// A load is one run of wrk.
type load struct {
	shape
	lasts time.Duration
}

// result is what testdata/report.lua prints.
type result struct {
	Requests, Micros, Bytes               int
	P50, P99                              int // µs
	Connect, Read, Write, Status, Timeout int // errors
}

// run loads r and returns what it saw. Anything that failed fails the benchmark: fast and wrong is not fast.
func (l load) run(b *testing.B, w *world, r running) sample {
	b.Helper()
	args := []string{"-s", "testdata/report.lua"}
	if l.close {
		args = append(args, "-H", "Connection: close")
	}
	before := cpuSeconds(b, r.pid)
	memory := make(chan float64, 1)
	// While the load is on, as a proxy may give back what it used as soon as it is over.
	at := time.AfterFunc(l.lasts*3/4, func() { memory <- residentMB(b, r.pid) })
	defer at.Stop()
	var got result
	w.beside.during(b, func() { got = wrk(b, l.lasts, append(args, r.url(l.tls, l.size))) })
	if size := map[string]int{"1k": 1 << 10, "100k": 100 << 10}[l.size]; got.Bytes < got.Requests*size {
		b.Errorf("%s %s: %d answers in %d bytes: not all had the body", r.name, l.shape, got.Requests, got.Bytes)
	}
	got.check(b, r.name+" "+l.String())
	return sample{rate: float64(got.Requests) / (float64(got.Micros) / 1e6), p50: time.Duration(got.P50) * time.Microsecond,
		p99: time.Duration(got.P99) * time.Microsecond, memory: <-memory, cpu: (cpuSeconds(b, r.pid) - before) / float64(got.Requests) * 1e5}
}

func (r result) check(b *testing.B, what string) {
	if r.Requests == 0 || r.Connect+r.Read+r.Write+r.Status+r.Timeout > 0 {
		b.Errorf("%s: of %d requests failed: %d to connect, %d to read, %d to write, %d by status, %d by time",
			what, r.Requests, r.Connect, r.Read, r.Write, r.Status, r.Timeout)
	}
}

// wrk runs it with two threads, as the machine for which the table was first made has two cores.
func wrk(b *testing.B, lasts time.Duration, args []string) result {
	b.Helper()
	tool := rig.Tool(b, "wrk", "wrk")
	common := []string{"-t2", "-c" + strconv.Itoa(connections), fmt.Sprintf("-d%ds", int(lasts.Seconds()))}
	out, err := exec.CommandContext(b.Context(), tool, append(common, args...)...).CombinedOutput()
	_, line, ok := bytes.Cut(out, []byte("RESULT "))
	var got result
	if err != nil || !ok || json.Unmarshal(line, &got) != nil {
		b.Fatalf("wrk %v: %v\n%s", args, err, out)
	}
	return got
}

// handshake says which version of TLS r speaks, and whether a client that comes again, as wrk's do, may resume its session, which costs
// much less.
func handshake(b *testing.B, w *world, r running) string {
	b.Helper()
	conf := w.clientTLS()
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	var last tls.ConnectionState
	for range 2 {
		c, err := tls.Dial("tcp", r.addr, conf)
		if err != nil {
			b.Fatalf("%s: %v", r.name, err)
		}
		err = ask(c, "localhost") // a ticket comes with the answer
		last = c.ConnectionState()
		if err = errors.Join(err, c.Close()); err != nil {
			b.Fatalf("%s: %v", r.name, err)
		}
	}
	text := strings.TrimPrefix(tls.VersionName(last.Version), "TLS ")
	if last.DidResume {
		return text + ", resumed"
	}
	return text + ", anew"
}

// answers waits until r does, rightly.
func answers(b *testing.B, w *world, r running, s shape) {
	b.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: w.clientTLS(), DisableKeepAlives: true}, Timeout: 5 * time.Second}
	rig.Eventually(b, 15*time.Second, r.name+" answers", func() bool {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.url(s.tls, s.size), nil)
		if err != nil {
			b.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}
