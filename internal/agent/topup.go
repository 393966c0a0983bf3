package agent

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
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
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, loopback(listen))
	}
	client := &http.Client{Timeout: topUpWait, Transport: &http.Transport{MaxIdleConnsPerHost: topUpOpen, DialContext: dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // it is this machine's own edge, by its address
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
					probe(ctx, client, s)
				}()
			default:
			}
		}
		if missing <= 0 && wait.For(ctx, time.Second) != nil {
			return
		}
	}
}

// loopback is the address at which a listener is reached from its own machine.
func loopback(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// probe asks once. What comes back is counted by the edge, as everybody's.
func probe(ctx context.Context, client *http.Client, s *spec.Spec) {
	host, scheme := "localhost", "http://"
	if len(s.Route.Hosts) > 0 {
		host = strings.Replace(s.Route.Hosts[0], "*.", "probe.", 1)
	}
	if s.Route.TLS != "off" && s.Route.TLS != "" {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+host+s.Release.Evidence.Probe.HTTP, nil)
	if err != nil {
		return
	}
	r.Header.Set("User-Agent", "fairlead-probe")
	if res, err := client.Do(r); err == nil {
		io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
		res.Body.Close()
	}
}
