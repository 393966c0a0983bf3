package edge

import (
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Compress says which of a route's answers are compressed for clients that take them so.
type Compress struct {
	Types []string `json:"types,omitempty"` // "text/html", "text/*", "*/*+json"; the usual ones when empty
	Min   int64    `json:"min"`             // bytes; what is shorter goes as it is
}

func (c *Compress) check(route string) error {
	if c != nil && (c.Min <= 0 || slices.ContainsFunc(c.Types, func(t string) bool { return strings.Count(t, "/") != 1 })) {
		return fail.New(fail.Internal, "routing table", "%s: nothing is compressed by %+v", route, *c)
	}
	return nil
}

// compressible are the types that are worth it. What is compressed in itself (pictures, films, archives) is not, and text/event-stream
// is not among them, as few bytes at a time make no use of it.
var compressible = []string{"text/*", "*/*+json", "*/*+xml", "*/*+text", "application/json", "application/javascript", "application/xml", "application/wasm",
	"application/x-javascript", "application/x-ndjson", "application/ndjson", "application/yaml", "application/toml", "application/x-www-form-urlencoded",
	"application/vnd.ms-fontobject", "font/ttf", "font/otf", "font/collection", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon"}

// takes reports whether an answer of a media type may be compressed.
func (c *Compress) takes(contentType string) bool {
	is, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		is, _, _ = strings.Cut(strings.ToLower(contentType), ";") // a parameter that cannot be read does not change the type
		is = strings.TrimSpace(is)
	}
	main, sub, ok := strings.Cut(is, "/")
	if !ok {
		return false
	}
	list := c.Types
	if len(list) == 0 {
		if list = compressible; is == "text/event-stream" {
			return false
		}
	}
	return slices.ContainsFunc(list, func(t string) bool {
		m, s, _ := strings.Cut(t, "/")
		suffix, has := strings.CutPrefix(s, "*")
		return (m == "*" || m == main) && (s == sub || has && strings.HasSuffix(sub, suffix))
	})
}

// coding is a way to compress.
type coding string

const (
	identity   coding = ""
	codingZstd coding = "zstd"
	codingGzip coding = "gzip"
)

// codings are those that the edge knows, the best first.
var codings = []coding{codingZstd, codingGzip}

// preferred is the coding for a client, by what it accepts (RFC 9110, section 12.5.3): the one with the greatest weight, the better one
// where weights are equal, and none where the client likes that more.
func preferred(lines []string) coding {
	weights, others, none := map[coding]int{}, -1, -1
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			q := weight(params)
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case "":
			case "*":
				others = q
			case "identity":
				none = q
			case "x-gzip": // RFC 9110, section 8.4.1.3
				weights[codingGzip] = q
			default:
				weights[coding(name)] = q
			}
		}
	}
	best, most := identity, max(none, 0)
	for _, c := range codings {
		q, ok := weights[c]
		if !ok {
			q = others
		}
		if q > most || q == most && q > 0 && best == identity {
			best, most = c, q
		}
	}
	return best
}

// weight reads ";q=0.5" in thousandths; what cannot be read is 0.
func weight(params string) int {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1000
	}
	name, value, _ := strings.Cut(params, "=")
	if !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0
	}
	whole, part, _ := strings.Cut(strings.TrimSpace(value), ".")
	if whole != "0" && whole != "1" || len(part) > 3 || strings.Trim(part, "0123456789") != "" {
		return 0
	}
	q := 0
	for _, c := range (part + "000")[:3] {
		q = q*10 + int(c-'0')
	}
	if whole == "1" {
		return 1000
	}
	return q
}

// encoder compresses what is written to it.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

const (
	// maxEncoders bounds the memory that answers take which are compressed at once: an encoder needs some 0.8 to 1 MiB. What comes beyond
	// that goes as it is.
	maxEncoders = 256
	// zstdWindow is how far back a client must remember; it is most of an encoder's memory, too.
	zstdWindow = 256 << 10
	gzipLevel  = 5
)

// encoders are those that are in use, and those that are kept for the next answer.
type encoders struct {
	busy chan struct{}
	kept map[coding]*sync.Pool
}

var theEncoders = encoders{busy: make(chan struct{}, maxEncoders), kept: map[coding]*sync.Pool{
	codingGzip: {New: func() any {
		w, err := gzip.NewWriterLevel(io.Discard, gzipLevel)
		if err != nil {
			return nil
		}
		return w
	}},
	codingZstd: {New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
		if err != nil {
			return nil
		}
		return w
	}},
}}

// get returns an encoder that writes to w, nil where too many are in use.
func (e *encoders) get(c coding, w io.Writer) encoder {
	select {
	case e.busy <- struct{}{}:
	default:
		return nil
	}
	enc, ok := e.kept[c].Get().(encoder)
	if !ok {
		<-e.busy
		return nil
	}
	enc.Reset(w)
	return enc
}

// put gives an encoder back.
func (e *encoders) put(c coding, enc encoder) {
	enc.Reset(nil) // it shall not hold on to a connection
	e.kept[c].Put(enc)
	<-e.busy
}

// transformed reports whether an answer's head forbids that its body is changed, or has a word on the body that would not be true then.
func transformed(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		if h.Get(name) != "" {
			return true
		}
	}
	return noTransform(h)
}

func noTransform(h http.Header) bool {
	return slices.ContainsFunc(h["Cache-Control"], func(line string) bool { return lists(line, "no-transform") })
}

// lists reports whether a header's line, which is a list, has a word in it (RFC 9110, section 5.6.1).
func lists(line, word string) bool {
	for x := range strings.SplitSeq(line, ",") {
		if strings.EqualFold(strings.TrimSpace(x), word) {
			return true
		}
	}
	return false
}
