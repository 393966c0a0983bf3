package edge

import (
	"cmp"
	"crypto/tls"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/jsonl"
)

// Access says which requests of a route are written down, and what of them. Those that failed always are.
type Access struct {
	Sample  float64       `json:"sample"`            // percent of the others, 0 to 100
	Slow    time.Duration `json:"slow,omitempty"`    // what takes longer is always written down, too; 0 for nothing
	Query   bool          `json:"query,omitempty"`   // with the target's query
	Headers []string      `json:"headers,omitempty"` // of the request
	Size    int64         `json:"size"`              // of what is kept, in bytes
	Age     time.Duration `json:"age,omitempty"`     // and since when; 0 for ever
}

// AccessLog opens a service's access log for [Options]. What is written to it is whole lines, by one goroutine at a time; what an error
// says was not written is lost.
type AccessLog func(service, env string, size int64, age time.Duration) io.WriteCloser

func (a *Access) check(route string) error {
	if a != nil && (!(a.Sample >= 0 && a.Sample <= 100) || a.Slow < 0 || a.Size <= 0 || a.Age < 0) {
		return fail.New(fail.Internal, "routing table", "%s: %+v is no access log", route, *a)
	}
	return nil
}

// accessRules is an [Access] made ready for requests.
type accessRules struct {
	Access
	all     bool
	below   uint64 // what a draw must be below for a request to be in the sample
	weight  string // for how many requests a line of the sample stands
	whose   string // the members that all lines of the route have
	headers []accessHeader
	journal atomic.Pointer[journal]
}

type accessHeader struct{ name, before, behind string }

func compileAccess(r *Route) *accessRules {
	a := r.Access
	if a == nil {
		return nil
	}
	out := &accessRules{Access: *a, all: a.Sample >= 100}
	if a.Sample > 0 {
		out.below, out.weight = uint64(min(a.Sample/100, 0.9999999)*math.MaxUint64), strconv.FormatFloat(100/a.Sample, 'f', -1, 64)
	}
	whose := jsonl.AppendMember(nil, `,"service":`, r.Service)
	whose = jsonl.AppendMember(whose, `,"environment":`, r.Environment)
	out.whose = string(whose) + `,"release":`
	for _, h := range a.Headers {
		x := accessHeader{http.CanonicalHeaderKey(h), `,"http.request.header.` + strings.ToLower(h) + `":[`, "]"}
		if x.name == "User-Agent" {
			x.before, x.behind = `,"user_agent.original":`, ""
		}
		out.headers = append(out.headers, x)
	}
	return out
}

// told is what a request says of itself, however it was read.
type told struct {
	method, host, target string
	version              string // of HTTP
	tls                  uint16 // 0 for none
	client               netip.Addr
	trace                string // the traceparent that it came with
	body                 int64  // bytes
}

// teller is a request that can be asked. What it says may lie in buffers that are used again: it holds until the exchange has ended.
type teller interface {
	told(*exchange) told
	header(name string, i int) (value string, ok bool) // the i-th line of a header
}

// ending is how an exchange ended, in the words of the log.
type ending struct{ level, outcome, why string }

func endingOf(ex *exchange, o outcome) ending {
	e := ending{"info", "served", ex.why}
	or := func(why string) {
		if e.why == "" {
			e.why = why
		}
	}
	switch {
	case o.refused:
		e.level, e.outcome = "warn", "refused"
		or("body_too_large") // whatever else it is was said
	case o.aborted:
		e.level, e.outcome = "warn", "aborted"
		or("client_gone")
	case o.failed:
		e.level, e.outcome = "error", "failed"
		or("broken_off")
	case o.status >= http.StatusInternalServerError:
		e.level, e.outcome = "error", "failed"
		or(strconv.Itoa(o.status))
	}
	return e
}

// record writes an exchange down that has ended, where its route wants it to be.
func (p *proxy) record(ex *exchange, o outcome, t teller) {
	r := ex.route.access
	if r == nil || p.access.open == nil {
		return
	}
	failed := !o.refused && !o.aborted && (o.failed || o.status >= http.StatusInternalServerError)
	slow := r.Slow > 0 && o.took > r.Slow && o.status != http.StatusSwitchingProtocols && ex.route.Stream == nil && ex.route.Datagrams == nil // how long a connection lasts is nobody's fault
	weight := "1"
	if !failed && !slow && !r.all {
		if p.access.draw() >= r.below {
			return
		}
		weight = r.weight
	}
	e := endingOf(ex, o)
	if slow && e.level == "info" {
		e.level = "warn"
	}
	buf := lineBuffers.Get().(*[]byte)
	*buf = append(append(append(r.append((*buf)[:0], ex, o, e, t), `,"weight":`...), weight...), "}\n"...)
	p.access.add(ex.route, *buf)
	if cap(*buf) <= maxLine { // one client's long headers shall not be kept room for
		lineBuffers.Put(buf)
	}
}

// maxLine is how long a line may be whose buffer is used again.
const maxLine = 16 << 10

var lineBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// append writes a line but for its weight. The members have the names of OpenTelemetry's semantic conventions where there is one, and
// stand in the order in which the log's reader writes them: what it prints is then what stands in the file.
func (r *accessRules) append(b []byte, ex *exchange, o outcome, e ending, t teller) []byte {
	q := t.told(ex)
	b = jsonl.AppendTime(append(b, `{"time":"`...), ex.start.Add(o.took), 9)
	b = append(append(b, `","level":"`...), e.level...)
	b = append(append(b, '"'), r.whose...)
	release, instance := 0, 0
	if end := cmp.Or(ex.end, ex.by); end != nil {
		release, instance = end.release.release, end.instance
	}
	b = strconv.AppendInt(b, int64(release), 10)
	b = strconv.AppendInt(append(b, `,"instance":`...), int64(instance), 10)
	b = append(b, `,"stream":"access"`...)
	if ex.trace != "" {
		q.trace = ex.trace
	}
	b = appendTrace(b, q.trace)
	b = append(append(append(b, `,"outcome":"`...), e.outcome...), '"')
	if e.why != "" {
		b = append(append(append(b, `,"error.type":"`...), e.why...), '"')
	}
	if q.client.IsValid() {
		b = append(q.client.AppendTo(append(b, `,"client.address":"`...)), '"')
	}
	if l, ok := t.(liner); ok {
		return l.line(b, ex, o)
	}
	b = jsonl.AppendMember(b, `,"http.request.method":`, cutText(q.method))
	b = r.appendURL(b, q)
	b = append(append(append(b, `,"network.protocol.version":"`...), q.version...), '"')
	if v := tlsVersion(q.tls); v != "" {
		b = append(append(append(b, `,"tls.protocol.version":"`...), v...), '"')
	}
	if o.status > 0 {
		b = strconv.AppendInt(append(b, `,"http.response.status_code":`...), int64(o.status), 10)
	}
	if o.status != http.StatusSwitchingProtocols { // what goes over such a connection is not seen
		b = strconv.AppendInt(append(b, `,"http.response.body.size":`...), o.bytes, 10)
		b = strconv.AppendInt(append(b, `,"http.request.body.size":`...), q.body, 10)
	}
	b = appendSeconds(append(b, `,"http.server.request.duration":`...), o.took)
	if ex.gotHead {
		b = appendSeconds(append(b, `,"first_byte":`...), ex.first)
	}
	if ex.repeated > 0 {
		b = strconv.AppendInt(append(b, `,"http.request.resend_count":`...), int64(ex.repeated), 10)
	}
	if ex.preview {
		b = append(b, `,"preview":true`...)
	}
	if ex.shadow != nil {
		b = append(b, `,"mirrored":true`...)
	}
	if ex.cache != "" {
		b = append(append(append(b, `,"cache":"`...), ex.cache...), '"')
	}
	for _, h := range r.headers {
		b = h.append(b, t)
	}
	return b
}

func (r *accessRules) appendURL(b []byte, q told) []byte {
	scheme := `,"url.scheme":"http"`
	if q.tls != 0 {
		scheme = `,"url.scheme":"https"`
	}
	b = append(b, scheme...)
	name, port := q.host, ""
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.IndexByte(name[i:], ']') < 0 {
		name, port = name[:i], name[i+1:]
	}
	b = jsonl.AppendMember(b, `,"server.address":`, cutText(name))
	if port != "" { // to find out that it is no number costs an allocation
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			b = strconv.AppendUint(append(b, `,"server.port":`...), n, 10)
		}
	}
	path, query, _ := strings.Cut(q.target, "?")
	b = jsonl.AppendMember(b, `,"url.path":`, cutText(path))
	if r.Query && query != "" {
		b = jsonl.AppendMember(b, `,"url.query":`, cutText(query))
	}
	return b
}

// maxValues is how many lines of one header are written down.
const maxValues = 8

func (h accessHeader) append(b []byte, t teller) []byte {
	for i := range maxValues {
		v, ok := t.header(h.name, i)
		if !ok && i == 0 {
			return b
		}
		if !ok {
			break
		}
		before := ","
		if i == 0 {
			before = h.before
		}
		b = jsonl.AppendMember(b, before, cutText(v))
		if h.behind == "" { // it is one value by its convention
			break
		}
	}
	return append(b, h.behind...)
}

// maxText is how much of what a client wrote a line has of each kind: it may write 64 KiB, and the disk is ours.
const maxText = 2 << 10

func cutText(s string) string { return s[:min(len(s), maxText)] }

// appendTrace writes both parts of a traceparent that is one (W3C Trace Context, section 3.2).
func appendTrace(b []byte, s string) []byte {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || !lowerHex(s[:2]) || !lowerHex(s[3:35]) || !lowerHex(s[36:52]) {
		return b
	}
	b = append(append(append(b, `,"trace_id":"`...), s[3:35]...), `","span_id":"`...)
	return append(append(b, s[36:52]...), '"')
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// appendSeconds writes d to the microsecond.
func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, max(d, 0).Seconds(), 'f', 6, 64)
}

func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	}
	return ""
}

// told implements [teller] for what net/http read.
func (w *countingWriter) told(ex *exchange) told {
	r := w.r
	t := told{method: r.Method, host: r.Host, target: r.RequestURI, version: "1.1", client: ex.route.client(r), trace: r.Header.Get("Traceparent"),
		body: ex.upload.Load()}
	if !strings.HasPrefix(t.target, "/") && t.target != "*" { // the absolute form
		t.target = r.URL.RequestURI()
	}
	switch {
	case r.ProtoMajor == 3:
		t.version = "3"
	case r.ProtoMajor == 2:
		t.version = "2"
	case r.ProtoMinor == 0:
		t.version = "1.0"
	}
	if r.TLS != nil {
		t.tls = r.TLS.Version
	}
	return t
}

// header implements [teller].
func (w *countingWriter) header(name string, i int) (string, bool) {
	if all := w.r.Header[name]; i < len(all) {
		return all[i], true
	}
	return "", false
}
