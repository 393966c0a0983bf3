package supervise

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

type probeKind int

const (
	startupProbe probeKind = iota
	readyProbe
	liveProbe
)

func (k probeKind) String() string { return [...]string{"startup", "ready", "live"}[k] }

// answer is what one round of a probe found.
type answer struct {
	kind probeKind
	err  error
}

// firstQuestion is the wait before a starting instance is asked for the first time; it doubles up to the interval, so
// that a service that is up in 5 ms is seen in 5 ms, and one that takes a minute is not bothered.
const firstQuestion = time.Millisecond

// startProbes asks the instance's questions until ctx is done.
func (in *instance) startProbes(ctx context.Context) <-chan answer {
	out := make(chan answer)
	q := &prober{in: in, addr: in.snapshot().Addr(), out: out}
	go q.run(ctx)
	return out
}

type prober struct {
	in   *instance
	addr string
	out  chan<- answer
}

func (q *prober) run(ctx context.Context) {
	p := q.in.prog.Probes
	if q.in.snapshot().State != Ready { // an adopted one that was ready need not start again
		first, kind := p.Ready, readyProbe
		if p.Startup != nil {
			first, kind = p.Startup, startupProbe
		}
		if !q.untilFirst(ctx, *first, kind) {
			return
		}
	}
	if p.Live != nil {
		go q.loop(ctx, *p.Live, liveProbe)
	}
	q.loop(ctx, *p.Ready, readyProbe)
}

// untilFirst asks until the answer is yes once; false when ctx was done before.
func (q *prober) untilFirst(ctx context.Context, p spec.Probe, kind probeKind) bool {
	if wait.For(ctx, p.Delay.D()) != nil {
		return false
	}
	for d := firstQuestion; ; d = min(2*d, p.Interval.D()) {
		err := q.ask(ctx, p)
		if !q.tell(ctx, answer{kind, err}) {
			return false
		}
		if err == nil {
			return true
		}
		if wait.For(ctx, d) != nil {
			return false
		}
	}
}

// loop asks at the probe's interval and tells when its threshold is reached.
func (q *prober) loop(ctx context.Context, p spec.Probe, kind probeKind) {
	if kind == liveProbe && wait.For(ctx, p.Delay.D()) != nil {
		return
	}
	bad, good := 0, 0
	for ctx.Err() == nil {
		err := q.ask(ctx, p)
		if err != nil {
			bad, good = bad+1, 0
		} else {
			bad, good = 0, good+1
		}
		if bad >= p.Failures || good >= p.Successes {
			if !q.tell(ctx, answer{kind, err}) {
				return
			}
		}
		if wait.For(ctx, p.Interval.D()) != nil {
			return
		}
	}
}

func (q *prober) tell(ctx context.Context, a answer) bool {
	select {
	case q.out <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// probed changes the instance's state by an answer.
func (in *instance) probed(c *child, a answer) {
	now := in.snapshot()
	switch {
	case now.State == Stopping:
		return
	case a.kind == liveProbe && a.err != nil:
		in.note("error", "live probe failed: "+a.err.Error()+"; started again")
		c.kill()
		return
	case a.kind == liveProbe:
		return
	}
	next := now.State
	switch {
	case a.err == nil && a.kind == readyProbe:
		next = Ready
	case a.err != nil && now.State == Ready:
		next = Unready
		in.note("warn", "not ready any more: "+a.err.Error())
	}
	text := ""
	if a.err != nil {
		text = a.err.Error()
	}
	if next == now.State && text == now.Probe {
		return
	}
	if next == Ready {
		in.wasReady = true
	}
	at := time.Now()
	change := func(i *Instance) {
		i.Probe = text
		if next == Ready && i.State != Ready {
			i.Exits = 0
			if i.ReadyAt.IsZero() {
				i.ReadyAt = at
			}
		}
		i.State = next
	}
	if next != now.State {
		i := in.snapshot()
		change(&i)
		in.save(i) // before anybody is told: adoption must not take a ready instance out of traffic
	}
	in.update(change)
}

// ask puts one question.
func (q *prober) ask(ctx context.Context, p spec.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout.D())
	defer cancel()
	var err error
	switch {
	case p.HTTP != "":
		err = askHTTP(ctx, q.addr, p.HTTP)
	case p.GRPC != nil:
		err = askGRPC(ctx, q.addr, *p.GRPC)
	case len(p.Exec) > 0:
		err = Ask(ctx, q.in.prog, q.in.number, q.in.snapshot().Port, p.Exec)
	case p.UDP:
		err = askUDP(ctx, q.addr)
	default:
		err = askTCP(ctx, q.addr)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", p.Timeout)
	}
	return err
}

func askTCP(ctx context.Context, addr string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

var probeHTTP = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func askHTTP(ctx context.Context, addr, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/"+strings.TrimPrefix(path, "/"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "fairlead-probe")
	res, err := probeHTTP.Do(req)
	if err != nil {
		if o, ok := errors.AsType[*net.OpError](err); ok {
			return o
		}
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("GET %s answered %s", path, res.Status)
	}
	return nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return s[:min(len(s), 200)]
}

var probeGRPC = func() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p, DisableKeepAlives: true}}
}()

// askGRPC calls grpc.health.v1.Health/Check. The two messages have one field each, so they are written by hand here:
// gRPC's own library would add ten megabytes (grpc/grpc: doc/health-checking.md, PROTOCOL-HTTP2.md).
func askGRPC(ctx context.Context, addr, service string) error {
	var msg []byte
	if service != "" {
		msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", strings.NewReader(string(frame)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	res, err := probeGRPC.Do(req)
	if err != nil {
		if o, ok := errors.AsType[*net.OpError](err); ok && o.Op == "dial" {
			return o
		}
		// What a server without HTTP/2 does with the first bytes is its own affair: it answers in HTTP/1.1, closes or resets.
		return fmt.Errorf("no answer in gRPC (does it speak HTTP/2 without TLS on this port?): %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	status := res.Trailer.Get("Grpc-Status")
	if status == "" {
		status = res.Header.Get("Grpc-Status")
	}
	if res.StatusCode != http.StatusOK || status != "0" {
		return fmt.Errorf("gRPC health answered HTTP %d, grpc-status %q %s", res.StatusCode, status, res.Trailer.Get("Grpc-Message"))
	}
	// HealthCheckResponse: field 1, an enum; 1 is SERVING.
	const serving = 1
	if len(body) < 7 || body[5] != 1<<3 || body[6] != serving {
		return errors.New("gRPC health answered that it is not serving")
	}
	return nil
}
