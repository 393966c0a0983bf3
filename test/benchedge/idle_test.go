package benchedge

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// idleLoad is clients that asked for something once and stay.
type idleLoad struct {
	tls   bool
	conns int
}

// idleRow is what they cost a proxy.
type idleRow struct {
	name        string
	base, whole float64 // MB without them and with them
}

// perConn is the cost of one, in kB.
func (r idleRow) perConn(n int) float64 { return (r.whole - r.base) * 1024 / float64(n) }

func (t *table) idleRows(b *testing.B, w *world, peers []peer, l idleLoad) {
	h := held{conns: l.conns}
	for _, p := range peers {
		if p.name == direct || p.name == kernel {
			continue
		}
		b.Run(p.name, func(b *testing.B) { // ends it, too, before the next one begins
			r := p.start(b, w, l.tls)
			if r.addr == "" {
				return
			}
			r.name = p.name
			answers(b, w, r, shape{false, "1k", l.tls})
			row := idleRow{name: p.name, base: residentMB(b, r.pid)}
			conns := l.open(b, w, r.addr, "localhost")
			pause(b, 2*time.Second) // what opening them took is given back, or is not
			row.whole = residentMB(b, r.pid)
			conns.stillServed(b, 100)
			h.rows = append(h.rows, row)
			fmt.Printf("idle-%s  %s: %.1f MB, with %d connections %.1f MB, %.1f kB each\n", scheme(l.tls), p.name, row.base, l.conns, row.whole, row.perConn(l.conns))
			b.ReportMetric(row.whole, "MB")
			b.ReportMetric(row.perConn(l.conns), "kB/conn")
		})
	}
	t.idle[scheme(l.tls)] = h
}

// idle are open connections, to which host is said.
type idle struct {
	host  string
	conns []net.Conn
}

// open makes them, some at once, each with one request; they are closed with the benchmark.
func (l idleLoad) open(b *testing.B, w *world, addr, host string) *idle {
	b.Helper()
	all := &idle{host: host, conns: make([]net.Conn, l.conns)}
	b.Cleanup(func() {
		for _, c := range all.conns {
			if c != nil {
				c.Close()
			}
		}
	})
	errs := make(chan error, l.conns)
	var wg sync.WaitGroup
	const atOnce = 32
	for first := range atOnce {
		wg.Go(func() {
			for i := first; i < l.conns; i += atOnce {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					errs <- err
					return
				}
				if l.tls {
					c = tls.Client(c, w.clientTLS())
				}
				all.conns[i] = c
				if err := ask(c, host); err != nil {
					errs <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		b.Fatalf("%d idle connections to %s: %v", l.conns, addr, err)
	default:
	}
	return all
}

// ask sends one request and reads its answer.
func ask(c net.Conn, host string) error {
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET /1k HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	n, err := drain(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || n != 1<<10) {
		err = fmt.Errorf("%s with %d bytes", res.Status, n)
	}
	return err
}

// stillServed asks by every nth connection again: a proxy may close what is idle, but then it does not hold so many.
func (i *idle) stillServed(b *testing.B, nth int) {
	b.Helper()
	for n := 0; n < len(i.conns); n += nth {
		if err := ask(i.conns[n], i.host); err != nil {
			b.Errorf("idle connection %d of %d was not kept: %v", n, len(i.conns), err)
			return
		}
	}
}
