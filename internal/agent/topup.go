package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/fairlead-dev/fairlead/internal/rollout"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

const (
	topUpWait = 10 * time.Second // for one answer
	topUpOpen = 32               // so many at once; a service that hangs gets no more
)

// topUp asks the service through its edge for as long as a rollout runs, so often that clients' requests and these together make
// the rate that the spec wants. Chance gives them out between the releases as it does with all others, so what gates
// conclude from them is right; that they are all alike is what they cannot make up for.
func (a *Agent) topUp(ctx context.Context, p rollout.Plan, listen string, s *spec.Spec) {
	key := counterKey{p.Service, p.Environment, 0}
	before, own := a.count()[key].Requests, uint64(0)
	client := &http.Client{Timeout: topUpWait, Transport: &http.Transport{MaxIdleConnsPerHost: topUpOpen, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	open := make(chan struct{}, topUpOpen)
	for {
		now := a.count()[key].Requests
		clients := now - before - min(own, now-before)
		before, own = now, 0
		missing := s.Release.Evidence.Probe.Rate - int(clients)
		for range max(missing, 0) {
			if wait.For(ctx, time.Second/time.Duration(missing)) != nil {
				return
			}
			select {
			case open <- struct{}{}:
				own++
				go func() {
					defer func() { <-open }()
					probe(ctx, client, listen, s)
				}()
			default:
			}
		}
		if missing <= 0 && wait.For(ctx, time.Second) != nil {
			return
		}
	}
}

// probe asks once. What comes back is counted by the edge, as everybody's.
func probe(ctx context.Context, client *http.Client, listen string, s *spec.Spec) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+s.Release.Evidence.Probe.HTTP, nil)
	if err != nil {
		return
	}
	r.Header.Set("User-Agent", "fairlead-probe")
	if len(s.Route.Hosts) > 0 {
		r.Host = s.Route.Hosts[0]
	}
	if res, err := client.Do(r); err == nil {
		io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
		res.Body.Close()
	}
}
