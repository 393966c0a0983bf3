package edge

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// spansEvery is how long a span waits to be sent, together with the others of that time.
	spansEvery = time.Second
	// spansBatch is how many requests' spans are sent at once.
	spansBatch = 512
	// spansMost is how many bytes may wait for one collector. More comes only when it does not keep up, and is dropped: no request
	// waits for a span.
	spansMost = 8 << 20
	// spansSay is how often, at most, the process says that spans were dropped.
	spansSay = 10 * time.Second
	// spansEnd is how long the end of the process waits for what is not sent yet.
	spansEnd = 2 * time.Second
)

// traced are the spans of one exchange, as they wait to be sent.
type traced struct {
	span
	service, env string
	told         told // strings of its own
	agent        string
	scheme       string
	start, end   time.Time
	outcome      string
	why          string
	status       int // that the client was told; 0 for none
	answered     int // that the last try was answered; 0 for none
	failed       bool
	release      int // who served it; 0 for nobody
	instance     int
}

// spans counts how many spans x is.
func (x *traced) spans() int { return 1 + len(x.tries) }

// size is about what x takes.
func (x *traced) size() int64 {
	return int64(512 + 128*len(x.tries) + len(x.state) + len(x.told.method) + len(x.told.host) + len(x.told.target) + len(x.agent))
}

// hand hands the spans of an exchange that has ended to the one who sends them. It waits for nothing.
func (p *proxy) hand(ex *exchange, o outcome, t teller) {
	rule := ex.route.traces
	if rule == nil { // the route of a later table has none
		return
	}
	e := endingOf(ex, o)
	x := &traced{span: *ex.span, service: ex.route.Service, env: ex.route.Environment, told: t.told(ex), scheme: "http", start: ex.start, end: ex.start.Add(o.took),
		outcome: e.outcome, why: e.why, status: o.status, failed: o.failed || o.status >= 500}
	for _, s := range []*string{&x.told.method, &x.told.host, &x.told.target} {
		*s = strings.Clone(cutText(*s)) // they lie in buffers that are used again
	}
	x.told.trace = ""
	if v, ok := t.header("User-Agent", 0); ok {
		x.agent = strings.Clone(cutText(v))
	}
	if x.told.tls != 0 {
		x.scheme = "https"
	}
	if ex.gotHead {
		x.answered = ex.status
	}
	if ex.end != nil {
		x.release, x.instance = ex.end.release.release, ex.end.instance
	}
	p.exporters.of(rule).add(x)
}

// exporters send spans to the collectors that routes name.
type exporters struct {
	log     *slog.Logger
	version string
	send    sender
	every   time.Duration // spansEvery

	mu     sync.Mutex
	byURL  map[string]*exporter
	closed bool
	ctx    context.Context // of what is sent; ends some time after close
	cancel context.CancelFunc
}

// sender sends a batch. It returns how many of its spans were not taken, and why; wait is how long the collector wants to be left alone.
type sender func(ctx context.Context, endpoint string, batch []*traced) (lost int, wait time.Duration, err error)

func newExporters(log *slog.Logger, version string) *exporters {
	c := &exporters{log: log, version: version, every: spansEvery, byURL: map[string]*exporter{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.send = newOTLP(version).send
	return c
}

// of returns the exporter of a route.
func (c *exporters) of(r *traceRules) *exporter {
	if to := r.to.Load(); to != nil {
		return to
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.byURL[r.Endpoint]
	if to == nil {
		to = &exporter{all: c, endpoint: r.Endpoint, full: make(chan struct{}, 1), stop: make(chan struct{})}
		if c.closed {
			to.end()
		}
		c.byURL[r.Endpoint] = to
	}
	r.to.Store(to)
	return to
}

// close sends what waits, if the collectors take it in time. What comes later is dropped.
func (c *exporters) close() {
	c.mu.Lock()
	all := make([]*exporter, 0, len(c.byURL))
	for _, to := range c.byURL {
		all = append(all, to)
	}
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if !first {
		return
	}
	t := time.AfterFunc(spansEnd, c.cancel)
	defer t.Stop()
	for _, to := range all {
		to.end()
	}
	for _, to := range all {
		to.running.Wait()
	}
	c.cancel()
}

// errSpanFlood says why spans were dropped before they were sent.
var errSpanFlood = errors.New("more came than the collector took")

// exporter is what waits to be sent to one endpoint. Somebody sends only while there is something: one that no route names any
// more costs nothing.
type exporter struct {
	all      *exporters
	endpoint string
	held     atomic.Int64  // bytes that wait
	full     chan struct{} // a batch is there
	stop     chan struct{}
	running  sync.WaitGroup

	mu     sync.Mutex
	queue  []*traced
	runs   bool
	closed bool
	unsaid int       // spans dropped that the log does not tell of
	why    error     // the last of them were
	said   time.Time // when the log was told last
}

func (c *exporter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.stop)
	}
}

// add takes the spans of one exchange.
func (c *exporter) add(x *traced) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := x.size()
	if c.closed || c.held.Load()+n > spansMost {
		c.drop(x.spans(), errSpanFlood)
		return
	}
	c.held.Add(n)
	c.queue = append(c.queue, x)
	if !c.runs {
		c.runs = true
		c.running.Go(c.run)
	}
	if len(c.queue) >= spansBatch {
		signal(c.full)
	}
}

// drop counts spans that are not sent. c.mu is held.
func (c *exporter) drop(n int, err error) {
	c.unsaid += n
	c.why = err
}

// run sends until nothing waits.
func (c *exporter) run() {
	for {
		c.pause(c.all.every, c.full)
		batch := c.take()
		if batch == nil {
			return
		}
		lost, wait, err := c.all.send(c.all.ctx, c.endpoint, batch)
		c.mu.Lock()
		if lost > 0 {
			c.drop(lost, err)
		}
		for _, x := range batch {
			c.held.Add(-x.size())
		}
		c.mu.Unlock()
		c.tell()
		c.pause(wait, nil)
	}
}

// take takes the next batch off the queue. With none it ends the running.
func (c *exporter) take() []*traced {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), spansBatch)
	if n == 0 {
		c.queue, c.runs = nil, false
		return nil
	}
	batch := c.queue[:n:n]
	c.queue = append([]*traced(nil), c.queue[n:]...)
	if len(c.queue) >= spansBatch {
		signal(c.full)
	}
	return batch
}

// pause waits for d or for wake, but not while the process ends.
func (c *exporter) pause(d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-c.stop:
	}
}

// tell tells the log what was dropped.
func (c *exporter) tell() {
	c.mu.Lock()
	n, why := c.unsaid, c.why
	say := n > 0 && (c.closed || time.Since(c.said) >= spansSay)
	if say {
		c.unsaid, c.said = 0, time.Now()
	}
	c.mu.Unlock()
	if say {
		c.all.log.Warn("spans were dropped", "collector", c.endpoint, "spans", n, "error", why)
	}
}
