//go:build unix

package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// pipes is a listener in memory, whose connections virtual time passes by.
type pipes struct{ conns chan net.Conn }

// Accept implements [net.Listener].
func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close implements [net.Listener].
func (p pipes) Close() error { close(p.conns); return nil }

// Addr implements [net.Listener].
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial implements the DialContext of a transport.
func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	p.conns <- a
	return b, nil
}

// inMemory is an exporter whose collector is a real server that h answers for.
func inMemory(t *testing.T, log io.Writer, h http.HandlerFunc) *exporters {
	p := pipes{make(chan net.Conn)}
	srv := &http.Server{Handler: h}
	go srv.Serve(p)
	all := newExporters(slog.New(slog.NewTextHandler(log, nil)), "test")
	o := newOTLP("test")
	tr := &http.Transport{DialContext: p.dial}
	o.client.Transport = tr
	all.send = o.send
	t.Cleanup(func() { all.close(); tr.CloseIdleConnections(); srv.Close() })
	return all
}

// pass lets virtual time pass, and what is to happen by then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func aSpan() *traced {
	return &traced{span: span{spanContext: newContext(), tries: []try{{id: newSpanID(), end: &endpoint{addr: "127.0.0.1:1", release: &backend{}}}}}, service: "shop", env: "prod", told: told{method: "GET", target: "/"}, outcome: "served"}
}

func to(all *exporters) *exporter {
	return all.of(&traceRules{Traces: Traces{Endpoint: "http://collector:4318/below/"}})
}

func TestSpansAreSentTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		var at []time.Time
		all := inMemory(t, io.Discard, func(_ http.ResponseWriter, r *http.Request) {
			if r.Host != "collector:4318" || r.URL.Path != "/below/v1/traces" || r.Header.Get("User-Agent") != "fairlead/test" {
				t.Errorf("%s %s %v", r.Host, r.URL, r.Header)
			}
			sizes = append(sizes, len(decodeSpans(t, r).ResourceSpans[0].ScopeSpans[0].Spans))
			at = append(at, time.Now())
		})
		start := time.Now()
		c := to(all)
		for range 3 {
			c.add(aSpan())
		}
		pass(2 * spansEvery)
		if len(sizes) != 1 || sizes[0] != 6 || at[0].Sub(start) != spansEvery {
			t.Errorf("%v %v", sizes, at)
		}
		synctest.Wait()
		if c.mu.Lock(); c.runs {
			t.Error("somebody runs with nothing to do")
		}
		c.mu.Unlock()
		start = time.Now()
		for range spansBatch + 1 {
			c.add(aSpan())
		}
		pass(2 * spansEvery)
		if len(sizes) != 3 || sizes[1] != 2*spansBatch || sizes[2] != 2 || !at[1].Equal(start) || at[2].Sub(start) > spansEvery || c.held.Load() != 0 {
			t.Errorf("%v %v after %s", sizes, at, start)
		}
	})
}

// A batch that the collector cannot take now is sent again, when the collector says.
func TestSpansAreSentAgain(t *testing.T) {
	for _, code := range []int{429, 502, 503, 504} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			var at []time.Time
			all := inMemory(t, &said, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				switch at = append(at, time.Now()); len(at) {
				case 1:
					w.WriteHeader(code)
				case 2:
					w.Header().Set("Retry-After", "20")
					w.WriteHeader(code)
				case 3:
					panic(http.ErrAbortHandler)
				}
			})
			to(all).add(aSpan())
			pass(time.Minute)
			if len(at) != 4 || said.Len() > 0 {
				t.Fatalf("%v %s", at, &said)
			}
			if a, b, c := at[1].Sub(at[0]), at[2].Sub(at[1]), at[3].Sub(at[2]); a < otlpFirst/2 || a > otlpFirst || b != 20*time.Second || c < 2*otlpFirst || c > 4*otlpFirst {
				t.Errorf("%d: %s %s %s", code, a, b, c)
			}
		})
	}
}

// What is never taken is dropped, counted and told of.
func TestSpansThatNobodyTakes(t *testing.T) {
	rejects := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
	rejects = protowire.AppendString(protowire.AppendTag(rejects, 2, protowire.BytesType), "too old")
	rejects = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), rejects)
	for name, x := range map[string]struct {
		answer http.HandlerFunc
		tries  int // at least
		says   string
	}{
		"bad request": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }, 1, "spans=4 error=\"the collector answered 400 Bad Request\""},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 1, "spans=4 error=\"the collector answered 307"},
		"rejected": {func(w http.ResponseWriter, _ *http.Request) { w.Write(rejects) }, 1, `spans=3 error="the collector did not take them: \"too old\""`},
		"nonsense": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "thank you") }, 1, ""},
		"for ever": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, 5, "spans=4 error=\"the collector answered 503"},
		"dead":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 5, "spans=4"},
		"an age": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 1, "spans=4 error=\"the collector answered 429"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			var at []time.Time
			all := inMemory(t, &said, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				at = append(at, time.Now())
				x.answer(w, r)
			})
			c := to(all)
			c.add(aSpan())
			c.add(aSpan())
			pass(2 * time.Minute)
			if len(at) < x.tries || x.tries == 1 && len(at) > 1 || len(at) > 10 || at[len(at)-1].Sub(at[0]) > otlpGiveUp || !strings.Contains(said.String(), x.says) || (x.says == "") != (said.Len() == 0) {
				t.Errorf("%s: sent %d times, %s", name, len(at), &said)
			}
			// A collector that wants to be left alone is.
			n := len(at)
			c.add(aSpan())
			pass(time.Minute)
			if quiet := name == "an age"; quiet != (len(at) == n) {
				t.Errorf("%s: sent %d times, then %d", name, n, len(at))
			}
		})
	}
}

// While the collector hangs, nobody waits for it, and what is held stays bounded.
func TestSpanFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		goOn, sent := make(chan struct{}), 0
		all := newExporters(slog.New(slog.NewTextHandler(&said, nil)), "test")
		all.send = func(_ context.Context, _ string, batch []*traced) (int, time.Duration, error) {
			<-goOn
			sent += len(batch)
			return 0, 0, nil
		}
		c, start, n := to(all), time.Now(), 0
		for range 2 * spansMost / int(aSpan().size()) {
			c.add(aSpan())
			n++
		}
		if !time.Now().Equal(start) || c.held.Load() > spansMost || c.held.Load() < spansMost/2 {
			t.Errorf("%d held after %s", c.held.Load(), time.Since(start))
		}
		close(goOn)
		pass(time.Hour)
		all.close()
		if sent >= n || sent < n/3 || c.held.Load() != 0 || !strings.Contains(said.String(), errSpanFlood.Error()) {
			t.Errorf("%d of %d were sent, %d held: %s", sent, n, c.held.Load(), &said)
		}
		c.add(aSpan()) // it is too late
		if c.held.Load() != 0 {
			t.Error("a process that has ended holds spans")
		}
	})
}

// A process that shall end does so, whatever the collector does, and says what it leaves.
func TestSpansEndWithAHungCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		all := inMemory(t, &said, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() })
		for range spansBatch + 1 {
			to(all).add(aSpan())
		}
		start := time.Now()
		all.close()
		if took := time.Since(start); took != spansEnd || !strings.Contains(said.String(), "spans=1024") {
			t.Errorf("%s: %s", took, &said)
		}
		all.close()
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-7": 0, "x": 0, "99999999999999": 0, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:00:00 GMT": 0} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q is %s", s, got)
		}
	}
}

func FuzzPartial(f *testing.F) {
	f.Add([]byte{10, 2, 8, 3})
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := partial(b); n < 0 || (n > 0) != (err != nil) || errors.Is(err, io.EOF) {
			t.Error(n, err)
		}
	})
}
