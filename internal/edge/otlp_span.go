package edge

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

// schemaURL names the semantic conventions that the attributes below follow: "Semantic conventions for HTTP spans".
const schemaURL = "https://opentelemetry.io/schemas/1.37.0"

// appendTo appends x as spans: the edge's own and those of its tries.
func (x *traced) appendTo(all []*trace.Span) []*trace.Span {
	method, known := methodOf(x.told.method)
	name, port := splitHost(x.told.host)
	path, _, _ := strings.Cut(x.told.target, "?")
	out := &trace.Span{
		TraceId: x.trace[:], SpanId: x.span.span[:], TraceState: x.state, Flags: flagsOf(x.flags), Name: method, Kind: trace.Span_SPAN_KIND_SERVER,
		StartTimeUnixNano: nanos(x.start), EndTimeUnixNano: nanos(x.end),
	}
	if x.parent != [8]byte{} {
		out.ParentSpanId = x.parent[:]
		out.Flags |= uint32(trace.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK) // it is the client's
	}
	a := attributes{}
	a.method(method, known, x.told.method)
	a.text("url.scheme", x.scheme)
	a.text("url.path", path)
	a.text("server.address", name)
	a.number("server.port", port)
	if x.told.client.IsValid() {
		a.text("client.address", x.told.client.String())
	}
	a.text("network.protocol.name", "http")
	a.text("network.protocol.version", x.told.version)
	a.text("user_agent.original", x.agent)
	a.number("http.response.status_code", x.status)
	a.text("fairlead.service", x.service)
	a.text("fairlead.outcome", x.outcome)
	a.number("fairlead.release", x.release)
	a.number("fairlead.instance", x.instance)
	if x.failed || x.outcome == "aborted" {
		a.text("error.type", x.why)
	}
	out.Attributes = a
	if x.failed {
		out.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR}
	}
	if !known {
		out.Name = "HTTP"
	}
	all = append(all, out)
	for i := range x.tries {
		all = append(all, x.try(i, out.Name))
	}
	return all
}

// try makes the span of the i-th try.
func (x *traced) try(i int, name string) *trace.Span {
	t := &x.tries[i]
	out := &trace.Span{
		TraceId: x.trace[:], SpanId: t.id[:], ParentSpanId: x.span.span[:], TraceState: x.state, Flags: flagsOf(x.flags), Name: name, Kind: trace.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: nanos(t.start), EndTimeUnixNano: nanos(t.ended),
	}
	status, why := 0, t.why
	if t.ended.IsZero() {
		out.EndTimeUnixNano = nanos(x.end)
		status = x.answered
		switch {
		case status >= http.StatusBadRequest:
			why = strconv.Itoa(status)
		case status == 0 || x.outcome != "served":
			why = x.why
		}
	}
	method, known := methodOf(x.told.method)
	addr, port := splitHost(t.end.addr)
	path, _, _ := strings.Cut(x.told.target, "?")
	a := attributes{}
	a.method(method, known, x.told.method)
	a.text("url.full", "http://"+t.end.addr+path)
	a.text("server.address", addr)
	a.number("server.port", port)
	a.number("http.response.status_code", status)
	a.number("http.request.resend_count", i)
	a.text("fairlead.service", x.service)
	a.number("fairlead.release", t.end.release.release)
	a.number("fairlead.instance", t.end.instance)
	a.text("error.type", why)
	if t.overtaken {
		a.text("fairlead.outcome", "overtaken")
	}
	out.Attributes = a
	if why != "" {
		out.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR}
	}
	return out
}

// missedFor says in a word why a try failed.
func missedFor(err error) string {
	var de *dialError
	switch {
	case errors.As(err, &de):
		return "no_connection"
	case errors.Is(err, errTryTime):
		return "try_timeout"
	case errors.Is(err, errRequestTime):
		return "request_timeout"
	}
	return "no_answer"
}

// flagsOf are the flags that a span carries: those of its context, and that it is known whether its parent is remote.
func flagsOf(b byte) uint32 {
	return uint32(b) | uint32(trace.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
}

func nanos(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }

// methodOf is a method as the conventions have it: one that nobody knows must not become a name of its own.
func methodOf(s string) (string, bool) {
	switch s {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodPatch, http.MethodConnect:
		return s, true
	}
	return "_OTHER", false
}

// splitHost is a host without its port, and the port; 0 for none.
func splitHost(s string) (name string, port int) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return s, 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return h, 0
	}
	return h, int(n)
}

// attributes are a span's. What is empty or 0 is left out.
type attributes []*common.KeyValue

func (a *attributes) text(key, v string) {
	if v != "" {
		*a = append(*a, text(key, v))
	}
}

func (a *attributes) number(key string, n int) {
	if n != 0 {
		*a = append(*a, &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(n)}}})
	}
}

func (a *attributes) method(method string, known bool, original string) {
	a.text("http.request.method", method)
	if !known {
		a.text("http.request.method_original", original)
	}
}

// text makes an attribute. A message holds only UTF-8, and a client may write anything.
func text(key, v string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(v, "\ufffd")}}}
}
