//go:build unix

package badbackend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// outcome is what a client saw of a request.
type outcome int

const (
	answered outcome = iota // well: 200 and the whole body
	failed                  // the instance's own 500
	badGateway
	unavailable
	gatewayTimeout
	broken // an answer that broke off, or none
	gaveUp // the client went away after patience
	outcomes
)

// load is a bounded number of requests that come at their own pace, however long the answers take: clients do not know of each other.
type load struct {
	requests int
	every    time.Duration
}

// seen is what the clients of a load saw.
type seen struct {
	get, post [outcomes]int
	took      []time.Duration // sorted
	wrong     []string        // what must never be, whatever the instances do
	again     uint64          // how often the edge sent a request once more
	atBad     int             // requests that came to the bad instances
	text      map[string]int  // of the edge's own answers
}

func (s *seen) sum(o outcome) int { return s.get[o] + s.post[o] }

// share is the percentage of an outcome.
func share(n [outcomes]int, o outcome) float64 {
	all := 0
	for _, x := range n {
		all += x
	}
	return 100 * float64(n[o]) / float64(max(all, 1))
}

func (s *seen) share(o outcome) float64 {
	both := s.get
	for i, n := range s.post {
		both[i] += n
	}
	return share(both, o)
}

func (s *seen) quantile(q float64) time.Duration { return s.took[int(q*float64(len(s.took)-1))] }

func (s *seen) longest() time.Duration { return s.took[len(s.took)-1] }

// One request in four is a POST, one in ten goes to badPath.
func isPost(n int) bool { return n%4 == 1 }

func pathOf(n int) string {
	if n%10 == 5 {
		return badPath
	}
	return "/"
}

// idOf names a request of a service; no two are the same.
func idOf(host string, n int) string {
	if isPost(n) {
		return fmt.Sprintf("%s-POST-%d", host, n)
	}
	return fmt.Sprintf("%s-GET-%d", host, n)
}

// run sends the load to a service.
func (l load) run(ctx context.Context, w *world, tr *http.Transport, host string) seen {
	s := seen{text: map[string]int{}}
	var mu sync.Mutex
	var done sync.WaitGroup
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for n := range l.requests {
		<-tick.C
		done.Go(func() {
			a := w.ask(ctx, tr, host, n)
			mu.Lock()
			defer mu.Unlock()
			s.add(n, a)
		})
	}
	done.Wait()
	slices.Sort(s.took)
	return s
}

// answer is what became of one request.
type answer struct {
	outcome
	took  time.Duration
	text  string // of the edge
	wrong string
}

func (s *seen) add(n int, a answer) {
	if isPost(n) {
		s.post[a.outcome]++
	} else {
		s.get[a.outcome]++
	}
	s.took = append(s.took, a.took)
	if a.wrong != "" {
		s.wrong = append(s.wrong, a.wrong)
	}
	if a.text != "" {
		s.text[a.text]++
	}
}

// ask sends the n-th request to a service.
func (w *world) ask(ctx context.Context, tr *http.Transport, host string, n int) (a answer) {
	begin := time.Now()
	defer func() { a.took = time.Since(begin) }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// net/http sends a GET again by itself when a kept connection ends under it. The client would not see that the edge hung up on it.
	var conns atomic.Int64
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { conns.Add(1) }})
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if isPost(n) {
		method, body = http.MethodPost, strings.NewReader("an order")
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+w.addr+pathOf(n), body)
	if err != nil {
		return answer{outcome: broken, wrong: err.Error()}
	}
	id := idOf(host, n)
	r.Host = host
	r.Header.Set(idHeader, id)
	res, err := tr.RoundTrip(r)
	if err == nil {
		defer res.Body.Close()
		a = judge(res, id)
	}
	if conns.Load() > 1 {
		a.wrong = fmt.Sprintf("%s: the edge ended %d connections without an answer", id, conns.Load()-1)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil && a.outcome == broken:
		a.outcome = gaveUp
	case err != nil:
		a = answer{outcome: broken, wrong: fmt.Sprintf("%s: no answer at all: %v", id, err)}
	}
	return a
}

// judge reads an answer to its end.
func judge(res *http.Response, id string) answer {
	b, err := io.ReadAll(res.Body)
	text := string(b)
	switch res.StatusCode {
	case http.StatusOK:
		switch whole := page(id); {
		case !strings.HasPrefix(whole, text):
			return answer{outcome: broken, wrong: fmt.Sprintf("%s got %.60q", id, text)}
		case err != nil:
			return answer{outcome: broken}
		case text != whole:
			return answer{outcome: broken, wrong: fmt.Sprintf("%s got %d bytes as if they were all", id, len(text))}
		}
		return answer{outcome: answered}
	case http.StatusInternalServerError:
		return answer{outcome: failed}
	case http.StatusBadGateway:
		return answer{outcome: badGateway, text: text}
	case http.StatusServiceUnavailable:
		return answer{outcome: unavailable, text: text}
	case http.StatusGatewayTimeout:
		return answer{outcome: gatewayTimeout, text: text}
	}
	return answer{outcome: broken, wrong: fmt.Sprintf("%s got status %d", id, res.StatusCode)}
}
