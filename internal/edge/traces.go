package edge

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	mrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Traces says which requests of a route leave spans, and who gets them.
type Traces struct {
	Endpoint string  `json:"endpoint"` // of a collector, by OTLP over HTTP; without /v1/traces
	Sample   float64 `json:"sample"`   // percent of the traces that begin here, 0 to 100; of the others who began them says
}

func (t *Traces) check(route string) error {
	if t == nil {
		return nil
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !(t.Sample >= 0 && t.Sample <= 100) {
		return fail.New(fail.Internal, "routing table", "%s: spans go nowhere by %+v", route, *t)
	}
	return nil
}

// traceRules is a [Traces] made ready for requests.
type traceRules struct {
	Traces
	least uint64 // what the random part of a trace's number must at least be
	apart bool   // the route takes the client's traceparent off
	to    atomic.Pointer[exporter]
}

// randomBits are the last ones of a trace's number: who goes by them decides as everybody else who does ("TraceState: Probability
// Sampling" of OpenTelemetry).
const randomBits = 56

func compileTraces(r *Route) *traceRules {
	if r.Traces == nil {
		return nil
	}
	out := &traceRules{Traces: *r.Traces, least: uint64(math.Round((1 - r.Traces.Sample/100) * (1 << randomBits)))}
	out.apart = slices.ContainsFunc(r.Headers.Request.Remove, func(name string) bool { return strings.EqualFold(name, "traceparent") })
	return out
}

// spanContext is what a span tells those below it (W3C Trace Context, section 3.2).
type spanContext struct {
	trace [16]byte
	span  [8]byte
	flags byte
}

const (
	flagSampled = 1
	flagsKnown  = flagSampled | 2 // that the trace's number is random is said by level 2
)

// newContext begins a trace. Its number need not be a secret, only unlikely to come twice.
func newContext() spanContext {
	c := spanContext{span: newSpanID()}
	binary.BigEndian.PutUint64(c.trace[:], mrand.Uint64())
	binary.BigEndian.PutUint64(c.trace[8:], mrand.Uint64())
	return c
}

func newSpanID() (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], mrand.Uint64())
	return id
}

// random is the part of the trace's number that decides whether it is in a sample.
func (c spanContext) random() uint64 {
	return binary.BigEndian.Uint64(c.trace[8:]) & (1<<randomBits - 1)
}

// traceparentLength is that of version 00. Later ones may go on behind a dash.
const traceparentLength = 55

// String writes c as a traceparent.
func (c spanContext) String() string {
	var buf [traceparentLength]byte
	b := hex.AppendEncode(append(buf[:0], "00-"...), c.trace[:])
	b = hex.AppendEncode(append(b, '-'), c.span[:])
	return string(hex.AppendEncode(append(b, '-'), []byte{c.flags}))
}

// parseTraceparent reports false for what is none.
func parseTraceparent(s string) (c spanContext, ok bool) {
	if len(s) < traceparentLength || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return c, false
	}
	if len(s) > traceparentLength && (s[:2] == "00" || s[traceparentLength] != '-') {
		return c, false
	}
	if !lowerHex(s[:2]) || !lowerHex(s[3:35]) || !lowerHex(s[36:52]) || !lowerHex(s[53:55]) {
		return c, false
	}
	var flags [1]byte
	hex.Decode(c.trace[:], []byte(s[3:35]))
	hex.Decode(c.span[:], []byte(s[36:52]))
	hex.Decode(flags[:], []byte(s[53:55]))
	c.flags = flags[0] & flagsKnown
	return c, c.trace != [16]byte{} && c.span != [8]byte{}
}

// span is the edge's own of one request that is sampled, with one below it for each try.
type span struct {
	spanContext
	parent [8]byte // zeros for none
	state  string  // the tracestate that goes with it
	tries  []try
}

// try is one request to an instance.
type try struct {
	id    [8]byte
	end   *endpoint
	start time.Time
	ended time.Time // zero: with the exchange
	why   string    // it failed and was not the last one

	overtaken bool // another one was answered first
}

// trace decides whether a request is sampled. In a trace that somebody began that was decided; what is not sampled is left as it
// came. Otherwise one is begun here.
func (r *traceRules) trace(ex *exchange, t teller) {
	parent, ok := r.parent(t)
	if ok && parent.flags&flagSampled == 0 {
		return
	}
	c := spanContext{trace: parent.trace, flags: parent.flags}
	if !ok {
		ex.renewed = true
		c = newContext()
		if c.random() < r.least {
			ex.trace = c.String()
			return
		}
	}
	c.span, c.flags = newSpanID(), c.flags|flagSampled
	ex.span = &span{spanContext: c, parent: parent.span}
	if ok {
		ex.span.state = stateOf(t)
	}
	ex.trace = c.String()
}

// parent is the span of the client's that a request belongs to.
func (r *traceRules) parent(t teller) (spanContext, bool) {
	s, ok := t.header("Traceparent", 0)
	if _, twice := t.header("Traceparent", 1); !ok || twice || r.apart || takenBack(t, "traceparent") {
		return spanContext{}, false
	}
	return parseTraceparent(s)
}

// takenBack reports whether a client named a header in Connection: it goes no further.
func takenBack(t teller, name string) bool {
	for i := 0; ; i++ {
		list, ok := t.header("Connection", i)
		if !ok {
			return false
		}
		if lists(list, name) {
			return true
		}
	}
}

// stateOf is the tracestate of a request, whose lines are one list.
func stateOf(t teller) string {
	var all strings.Builder
	for i := 0; ; i++ {
		v, ok := t.header("Tracestate", i)
		if !ok || all.Len()+len(v) > maxText {
			return strings.ToValidUTF8(all.String(), "")
		}
		if all.Len() > 0 {
			all.WriteByte(',')
		}
		all.WriteString(v)
	}
}

// retraces reports whether a header of the client's is not for the instance, as the edge writes its own: the traceparent; and the
// tracestate, where the trace does not go on.
func (ex *exchange) retraces(name string) bool {
	return (ex.renewed || ex.span != nil) && (strings.EqualFold(name, "traceparent") || ex.renewed && strings.EqualFold(name, "tracestate"))
}

// mark puts the edge's own context in place of the client's, where there is one.
func (ex *exchange) mark(h http.Header) {
	if ex.renewed {
		h.Del("Tracestate")
	}
	if ex.renewed || ex.span != nil {
		h.Set("Traceparent", ex.trace)
	}
}

// attempt begins a try at ex.end.
func (ex *exchange) attempt() {
	s := ex.span
	if s == nil {
		return
	}
	t := try{id: newSpanID(), end: ex.end, start: time.Now()}
	s.tries = append(s.tries, t)
	ex.trace = spanContext{s.trace, t.id, s.flags}.String()
}

// attemptBy begins a try with r, which is a copy whose headers are not.
func (ex *exchange) attemptBy(r *http.Request) {
	if ex.attempt(); ex.span == nil {
		ex.trace = r.Header.Get("Traceparent")
		return
	}
	h := make(http.Header, len(r.Header)) // another try's may be on their way still
	for name, values := range r.Header {
		h[name] = values
	}
	h.Set("Traceparent", ex.trace)
	r.Header = h
}

// last is the number of the last try.
func (s *span) last() int {
	if s == nil {
		return 0
	}
	return len(s.tries) - 1
}

// drop ends a try that another one has overtaken.
func (s *span) drop(i int, now time.Time) {
	if s != nil {
		s.tries[i].ended, s.tries[i].overtaken = now, true
	}
}

// failed ends a try that another one stands in for: err is nil where it was answered, by an error.
func (s *span) failed(i int, err error, now time.Time) {
	if s != nil {
		s.tries[i].ended, s.tries[i].why = now, missedFor(err)
	}
}

// missed ends a try that failed, and is followed by another one or by none.
func (s *span) missed(err error) {
	if s == nil {
		return
	}
	for i := range s.tries {
		if s.tries[i].ended.IsZero() {
			s.failed(i, err, time.Now())
		}
	}
}
