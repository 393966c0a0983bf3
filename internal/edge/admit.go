package edge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
)

// asked is what limits go by, however the request was read.
type asked struct {
	client netip.Addr
	header interface{ Get(name string) string }
	length int64 // of its body; -1 where it does not say
}

// admit asks what can be said of a request before anything is done for it; what costs least comes first.
func (p *proxy) admit(ex *exchange, a asked) *refusal {
	g := ex.route.Guard
	if len(g.Allow) > 0 && !allowed(g.Allow, a.client) {
		return &refusal{status: http.StatusForbidden, why: "address", text: "this service does not answer to your address (route.allow)"}
	}
	if len(g.Rates) > 0 {
		if f := p.recall(ex.route).rates.admit(a, ex.start); f != nil {
			return f
		}
	}
	if g.Body > 0 && a.length > g.Body {
		return tooBig(g.Body)
	}
	return nil
}

// allowed reports whether an address is one of a list.
func allowed(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func tooBig(most int64) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, why: "body_too_large", text: fmt.Sprintf("the request's body is larger than %d bytes (route.body)", most)}
}

var errTooBig = errors.New("the request's body is larger than route.body")

// limitedBody ends a body that is longer than it may be, as one that does not say its length. The instance never sees it end:
// what it got of it is not the whole, and its connection is closed.
type limitedBody struct {
	io.ReadCloser
	left int64
	ex   *exchange
}

// Read reads one byte more than is left, to see whether there is one.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooBig
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) <= b.left {
		b.left -= int64(n)
		return n, err
	}
	n, b.left = int(b.left), -1
	b.ex.tooBig.Store(true)
	return n, errTooBig
}
