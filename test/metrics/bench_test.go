package metrics_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/metrics"
	"github.com/fairlead-dev/fairlead/internal/proc"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// serveTargets is this test binary's other life: the instances of the benchmark, so that what they take is not counted as
// the agent's.
const serveTargets = "FAIRLEAD_TEST_TARGETS"

func TestMain(m *testing.M) {
	if os.Getenv(serveTargets) != "" {
		targets()
		return
	}
	rig.Main(m)
}

// targets serves about 50 series under every path, which change at each scrape, until standard input ends.
func targets() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	var n atomic.Int64
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:errcheck // it ends with the process
		v := n.Add(1)
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		b := bufio.NewWriter(w)
		defer b.Flush()
		fmt.Fprint(b, "# TYPE http_requests_total counter\n")
		for _, method := range []string{"GET", "POST", "PUT"} {
			for _, code := range []string{"200", "201", "404", "500", "503"} {
				fmt.Fprintf(b, "http_requests_total{method=%q,code=%q} %d\n", method, code, v*3)
			}
		}
		fmt.Fprint(b, "# TYPE http_request_seconds histogram\n")
		for i := range 20 {
			fmt.Fprintf(b, "http_request_seconds_bucket{le=\"%g\"} %d\n", 0.001*float64(int(1)<<i), v*int64(i))
		}
		fmt.Fprintf(b, "http_request_seconds_bucket{le=\"+Inf\"} %d\nhttp_request_seconds_sum %d\nhttp_request_seconds_count %d\n", v*20, v, v*20)
		for i := range 12 {
			fmt.Fprintf(b, "go_thing_%d %d\n", i, v%int64(1000+i))
		}
	}))
	bufio.NewScanner(os.Stdin).Scan()
}

// BenchmarkAgent scrapes 50 services of 4 instances with 50 series each, every 5 s for two minutes, and asks for the rate of
// one service beside it, as a gate does each second. The memory and the processor time are those of this process alone.
func BenchmarkAgent(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveTargets+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		agent(b, strings.TrimSpace(addr), 2*time.Minute)
	}
}

func agent(b *testing.B, addr string, length time.Duration) {
	db := open(b, metrics.Options{})
	if err := db.Rules(nil); err != nil {
		b.Fatal(err)
	}
	var all []metrics.Target
	for s := range 50 {
		for i := range 4 {
			all = append(all, metrics.Target{URL: fmt.Sprintf("http://%s/%d/%d", addr, s, i), Labels: map[string]string{
				"service": fmt.Sprintf("shop-%d", s), "environment": "production", "release": "1", "instance": fmt.Sprint(i)}})
		}
	}
	if err := db.Targets(all); err != nil {
		b.Fatal(err)
	}
	debug.FreeOSMemory()
	before, err := proc.Use(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var took []time.Duration
	for time.Since(start) < length {
		at := <-tick.C
		began := time.Now()
		if _, err := db.Query(b.Context(), `sum by (release) (rate(http_requests_total{service="shop-7"}[1m]))`, at); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	after, err := proc.Use(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	up, err := db.Query(b.Context(), "sum(up)", time.Now())
	if err != nil || len(up) != 1 || up[0].Value != 200 {
		b.Fatalf("not all targets are up: %v %v", up, err)
	}
	samples, err := db.Query(b.Context(), "sum(sum_over_time(scrape_samples_scraped[2m]))", time.Now())
	if err != nil || len(samples) != 1 {
		b.Fatal(samples, err)
	}
	slices.Sort(took)
	b.ReportMetric(samples[0].Value/time.Since(start).Seconds(), "samples/s")
	b.ReportMetric(100*(after.CPU-before.CPU)/time.Since(start).Seconds(), "%cpu")
	b.ReportMetric(float64(after.Memory)/(1<<20), "MiB-rss")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-query-p50")
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "ms-query-p95")
	b.ReportMetric(0, "ns/op")
}
