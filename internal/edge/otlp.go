package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// otlpPath is where a collector takes spans, below its endpoint (OTLP specification, "OTLP/HTTP Request").
	otlpPath = "/v1/traces"
	// otlpTime bounds one request to a collector.
	otlpTime = 10 * time.Second
	// otlpFirst is the wait before a batch is sent again. It doubles each time, up to otlpLongest.
	otlpFirst, otlpLongest = time.Second, 30 * time.Second
	// otlpGiveUp is when a batch that is not taken is dropped.
	otlpGiveUp = time.Minute
	// otlpQuiet bounds how long a collector is left alone because it asks for it.
	otlpQuiet = time.Hour
	// otlpAnswer bounds what is read of an answer.
	otlpAnswer = 64 << 10
)

// otlp sends spans by OTLP over HTTP, as protobuf under gzip.
type otlp struct {
	client  *http.Client
	process []*common.KeyValue // of each resource
	version string
}

func newOTLP(version string) *otlp {
	dial := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	o := &otlp{version: version, process: []*common.KeyValue{text("service.name", "fairlead"), text("service.version", version)}}
	if name, err := os.Hostname(); err == nil {
		o.process = append(o.process, text("host.name", name))
	}
	o.client = &http.Client{
		Timeout:       otlpTime,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dial.DialContext, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: otlpAnswer},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // spans go where the spec says
	}
	return o
}

// send implements [sender]. A batch is sent again while that may help.
func (o *otlp) send(ctx context.Context, endpoint string, batch []*traced) (lost int, wait time.Duration, err error) {
	for _, x := range batch {
		lost += x.spans()
	}
	body, err := o.encode(batch)
	if err != nil {
		return lost, 0, err
	}
	until := time.Now().Add(otlpGiveUp)
	for next := otlpFirst; ; next = min(2*next, otlpLongest) {
		rejected, after, err := o.post(ctx, endpoint, body)
		if after < 0 || err == nil {
			if err != nil && rejected == 0 {
				rejected = lost
			}
			return rejected, 0, err
		}
		again := max(after, next/2+mrand.N(next/2)) // not in step with the other machines' edges
		if ctx.Err() != nil {
			return lost, 0, err
		}
		if time.Now().Add(again).After(until) {
			return lost, min(after, otlpQuiet), err
		}
		t := time.NewTimer(again)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return lost, 0, err
		}
	}
}

// never says that it would not help to send a batch again.
const never = time.Duration(-1)

// post sends a batch once. It returns how many spans of one that was taken were not, and after what time it may be sent again.
func (o *otlp) post(ctx context.Context, endpoint string, body []byte) (rejected int, after time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(endpoint, "/")+otlpPath, bytes.NewReader(body))
	if err != nil {
		return 0, never, err
	}
	r.Header = http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"gzip"}, "User-Agent": {"fairlead/" + o.version}}
	res, err := o.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, otlpAnswer))
	switch {
	case res.StatusCode/100 == 2:
		// What is wrong with the answer does not undo that they were taken.
		rejected, err = partial(answer)
		return rejected, never, err
	case res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusBadGateway, res.StatusCode == http.StatusServiceUnavailable, res.StatusCode == http.StatusGatewayTimeout:
		return 0, retryAfter(res.Header.Get("Retry-After"), time.Now()), fmt.Errorf("the collector answered %s", res.Status)
	}
	return 0, never, errors.Join(fmt.Errorf("the collector answered %s", res.Status), err)
}

// retryAfter reads a Retry-After (RFC 9110, section 10.2.3), 0 for none.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// partial reads from an ExportTraceServiceResponse how many spans were rejected, and why. Its generated type would bring gRPC's gateway
// into the program.
func partial(b []byte) (rejected int, err error) {
	var n uint64
	var why []byte
	eachField(b, func(num protowire.Number, in []byte, _ uint64) {
		if num != 1 { // partial_success
			return
		}
		eachField(in, func(num protowire.Number, b []byte, v uint64) {
			switch num {
			case 1: // rejected_spans
				n = v
			case 2: // error_message
				why = b
			}
		})
	})
	if n == 0 || n > spansMost {
		return 0, nil
	}
	return int(n), fmt.Errorf("the collector did not take them: %.200q", why)
}

// eachField calls f for the fields of a message, up to the first that is none.
func eachField(b []byte, f func(num protowire.Number, in []byte, v uint64)) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		var in []byte
		var v uint64
		switch kind {
		case protowire.BytesType:
			in, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return
		}
		f(num, in, v)
		b = b[n:]
	}
}

// encode makes a batch's message.
func (o *otlp) encode(batch []*traced) ([]byte, error) {
	// On the wire it is the same as an ExportTraceServiceRequest.
	var all trace.TracesData
	byEnv := map[string]*trace.ScopeSpans{}
	for _, x := range batch {
		to := byEnv[x.env]
		if to == nil {
			to = &trace.ScopeSpans{Scope: &common.InstrumentationScope{Name: "fairlead/edge", Version: o.version}, SchemaUrl: schemaURL}
			byEnv[x.env] = to
			whose := append(o.process[:len(o.process):len(o.process)], text("deployment.environment.name", x.env))
			all.ResourceSpans = append(all.ResourceSpans, &trace.ResourceSpans{Resource: &resource.Resource{Attributes: whose}, ScopeSpans: []*trace.ScopeSpans{to}, SchemaUrl: schemaURL})
		}
		to.Spans = x.appendTo(to.Spans)
	}
	b, err := proto.Marshal(&all)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err = z.Write(b); err == nil {
		err = z.Close()
	}
	return buf.Bytes(), err
}
