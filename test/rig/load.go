package rig

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Load is a bounded stream of GET requests to this machine. Zero fields have modest values.
type Load struct {
	URL     string
	Clients int           // at once, each with connections of its own; 4
	Every   time.Duration // one request of each client; 20 ms
	Most    int           // requests in all; 50,000
	For     time.Duration // time in all; 5 minutes

	// Dial connects in another network than this machine's, a fleet's, and takes any address there. Nil is this machine.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Count is what the clients of a load saw.
type Count struct {
	Requests int
	Failed   int // of them: no answer, a broken one, or a status that is not 2xx
	Status   map[int]int
	First    string // what the first failure was, for the test's message
}

// Traffic is a load under way.
type Traffic struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	mu    sync.Mutex
	left  int
	count Count
}

// Start begins the load, which ends by Stop, with the test, or at its bounds. Without a Dial of its own it refuses any
// address but a loopback one.
func (l Load) Start(t testing.TB) *Traffic {
	t.Helper()
	if l.Clients == 0 {
		l.Clients = 4
	}
	if l.Every == 0 {
		l.Every = 20 * time.Millisecond
	}
	if l.Most == 0 {
		l.Most = 50_000
	}
	if l.For == 0 {
		l.For = 5 * time.Minute
	}
	u, err := url.Parse(l.URL)
	if err != nil {
		t.Fatal(err)
	}
	if ip := net.ParseIP(u.Hostname()); l.Dial == nil && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		t.Fatalf("a load goes to loopback addresses only, not to %s", l.URL)
	}
	ctx, cancel := context.WithTimeout(t.Context(), l.For)
	tr := &Traffic{stop: cancel, left: l.Most, count: Count{Status: map[int]int{}}}
	for range l.Clients {
		tr.done.Go(func() { tr.client(ctx, l) })
	}
	t.Cleanup(func() { tr.Stop() })
	return tr
}

// Stop ends the load, waits for the answers under way and says what there was. It may be called again.
func (tr *Traffic) Stop() Count {
	tr.stop()
	tr.done.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.count
}

// client sends one request after the other. The one under way when ctx ends is let finish: a request that the load itself
// cut off would be counted as failed.
func (tr *Traffic) client(ctx context.Context, l Load) {
	c := &http.Client{Transport: &http.Transport{DialContext: l.Dial}, Timeout: 30 * time.Second}
	defer c.CloseIdleConnections()
	tick := time.NewTicker(l.Every)
	defer tick.Stop()
	for tr.take() {
		status, err := get(context.WithoutCancel(ctx), c, l.URL)
		tr.add(status, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (tr *Traffic) take() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.left--
	return tr.left >= 0
}

func (tr *Traffic) add(status int, err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.count.Requests++
	if status != 0 {
		tr.count.Status[status]++
	}
	if err == nil && status/100 == 2 {
		return
	}
	tr.count.Failed++
	if tr.count.First == "" {
		tr.count.First = fmt.Sprintf("request %d: status %d, %v", tr.count.Requests, status, err)
	}
}

// get reads the whole answer: one that breaks off in its body is no answer.
func get(ctx context.Context, c *http.Client, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// Get fetches a page of this machine and returns its body, or an error unless the status is 200.
func Get(t testing.TB, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.200s", url, resp.Status, b)
	}
	return string(b), err
}
