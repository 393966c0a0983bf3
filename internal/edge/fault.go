package edge

import (
	"context"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Fault is something that goes wrong on purpose with a share of the requests of a release: to rehearse what follows.
type Fault struct {
	Share  float64       `json:"share"`            // percent of the requests that match, 0 to 100
	Header Header        `json:"header,omitzero"`  // only requests with it; none for all
	Delay  time.Duration `json:"delay,omitempty"`  // before the request is handed to the instance
	Abort  int           `json:"abort,omitempty"`  // the status that is answered in place of the instance; 0 for none
	Reason string        `json:"reason,omitempty"` // said in the answer's body
}

// Header is a request's header and the value it must have; an empty value stands for any.
type Header struct {
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
}

// in reports whether h has it.
func (x Header) in(h http.Header) bool {
	for _, v := range h.Values(x.Name) {
		if x.Value == "" || v == x.Value {
			return true
		}
	}
	return false
}

func (f Fault) check(route string) error {
	if !(f.Share > 0 && f.Share <= 100) || f.Delay < 0 || f.Abort != 0 && (f.Abort < 400 || f.Abort > 599) {
		return fail.New(fail.Internal, "routing table", "%s: %+v is no fault", route, f)
	}
	return nil
}

// whyFault is what the access log says of an answer that a fault gave.
const whyFault = "fault"

// strike lets the release's faults happen to a request. An answer is given in place of the instance's; an error is that the
// client did not wait.
func strike(ctx context.Context, faults []Fault, r *http.Request) (*http.Response, error) {
	for _, f := range faults {
		if f.Header.Name != "" && !f.Header.in(r.Header) || mrand.Float64()*100 >= f.Share {
			continue
		}
		if f.Delay > 0 && !sleep(ctx, nil, f.Delay) {
			return nil, ctx.Err()
		}
		if f.Abort != 0 {
			return f.answer(r), nil
		}
	}
	return nil, nil //nolint:nilnil // nothing happened to it
}

func (f Fault) answer(r *http.Request) *http.Response {
	text := f.Reason
	if text == "" {
		text = "a fault of fairlead.yaml (route.faults)"
	}
	text += "\n"
	return &http.Response{StatusCode: f.Abort, Status: strconv.Itoa(f.Abort) + " " + http.StatusText(f.Abort), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)), Request: r}
}
