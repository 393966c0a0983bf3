package edge

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Auth says who is let in to a route: who has one of its passwords, or whom somebody else lets in.
type Auth struct {
	Users   map[string]string `json:"users,omitempty"`   // bcrypt hashes of passwords, by name (RFC 7617)
	Ask     string            `json:"ask,omitempty"`     // the address of who is asked about each request; see [proxy.vouched]
	Headers []string          `json:"headers,omitempty"` // of that one's answer that instances get
	Timeout time.Duration     `json:"timeout,omitempty"` // that it may take
}

// userHeader is where instances find the name of who gave a password.
const userHeader = "X-Forwarded-User"

func (a *Auth) check(route string) error {
	if a == nil {
		return nil
	}
	for name, hash := range a.Users {
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return fail.New(fail.Usage, "routing table", "%s: the password of %s is no bcrypt hash: %w", route, name, err)
		}
	}
	if u, err := url.Parse(a.Ask); a.Ask != "" && (err != nil || u.Host == "" || a.Timeout <= 0) {
		return fail.New(fail.Usage, "routing table", "%s: nobody can be asked at %q within %s", route, a.Ask, a.Timeout)
	}
	return nil
}

// passwords remembers which passwords were right: to try one takes tens of milliseconds, by design.
type passwords struct {
	turn  chan struct{} // one is tried at a time, so that guessing takes no more than a core
	key   [sha256.Size]byte
	mu    sync.Mutex
	right map[[sha256.Size]byte]bool // by a keyed hash of name, password and its bcrypt hash
}

const maxRight = 1024

func newPasswords() *passwords {
	p := &passwords{turn: make(chan struct{}, 1), right: map[[sha256.Size]byte]bool{}}
	rand.Read(p.key[:])
	return p
}

// nobodys is a hash that no password has, for names that there are not: who guesses names learns nothing from how long it takes.
var nobodys = sync.OnceValue(func() []byte {
	h, _ := bcrypt.GenerateFromPassword([]byte(rand.Text()), bcrypt.DefaultCost)
	return h
})

// known reports whether a password is that of a name.
func (p *passwords) known(ctx context.Context, users map[string]string, name, password string) bool {
	hash, ok := users[name]
	m := hmac.New(sha256.New, p.key[:])
	for _, part := range []string{name, password, hash} {
		m.Write([]byte(part))
		m.Write([]byte{0xff}) // no UTF-8 has it
	}
	id := [sha256.Size]byte(m.Sum(nil))
	p.mu.Lock()
	right := p.right[id]
	p.mu.Unlock()
	if right {
		return true
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false
	}
	try := []byte(hash)
	if !ok {
		try = nobodys()
	}
	if bcrypt.CompareHashAndPassword(try, []byte(password)) != nil || !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.right) >= maxRight {
		clear(p.right)
	}
	p.right[id] = true
	return true
}

// authorized lets a request in, or says what its client is told. What instances must believe of who asks is taken out of the request, or
// put in.
func (p *proxy) authorized(ctx context.Context, ex *exchange, r *http.Request) *refusal {
	a := ex.route.Guard.Auth
	if a == nil {
		return nil
	}
	if len(a.Users) > 0 {
		name, password, ok := r.BasicAuth()
		if !ok || !p.passwords.known(ctx, a.Users, name, password) {
			h := http.Header{"Www-Authenticate": {`Basic realm="` + ex.route.Service + `", charset="UTF-8"`}}
			return &refusal{status: http.StatusUnauthorized, why: "unauthorized", text: "a name and a password are wanted here", header: h}
		}
		r.Header.Del("Authorization")
		r.Header.Set(userHeader, name)
	}
	if a.Ask != "" {
		return p.vouched(ctx, ex, r)
	}
	return nil
}

// maxVerdict bounds the body of an answer that lets nobody in, in bytes.
const maxVerdict = 64 << 10

// vouched asks somebody else whether a request is let in: with its headers and none of its body, and with how it came in the headers
// that other proxies use for that. An answer of 2xx lets it in with the headers of the answer that the route wants; every other
// one is what the client gets, as a redirection to where one logs in.
func (p *proxy) vouched(ctx context.Context, ex *exchange, r *http.Request) *refusal {
	a := ex.route.Guard.Auth
	deaf := &refusal{status: http.StatusServiceUnavailable, why: "auth", text: "who lets clients in here does not answer (route.auth)", wait: time.Second}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Ask, nil)
	if err != nil {
		return deaf
	}
	q.Header = r.Header.Clone()
	for _, name := range append(hops, "content-type", "content-encoding", "expect", "range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "forwarded") {
		q.Header.Del(name)
	}
	scheme, host := ex.route.said(r)
	if scheme == "" {
		q.Header.Set("X-Forwarded-Proto", schemeOf(r))
	}
	if host == "" {
		q.Header.Set("X-Forwarded-Host", r.Host)
	}
	q.Header.Set("X-Forwarded-For", ex.route.client(r).String())
	q.Header.Set("X-Forwarded-Method", r.Method)
	q.Header.Set("X-Forwarded-Uri", r.URL.RequestURI())
	res, err := p.asker.RoundTrip(q)
	if err != nil {
		p.log.Warn("nobody says who is let in", "service", ex.route.key, "asked", a.Ask, "error", err)
		return deaf
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		for _, name := range a.Headers {
			if v := res.Header.Values(name); len(v) > 0 {
				r.Header[http.CanonicalHeaderKey(name)] = v
			} else {
				r.Header.Del(name) // which the client said itself
			}
		}
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxVerdict+1))
	if err != nil || len(body) > maxVerdict || res.StatusCode < 300 {
		p.log.Warn("nobody says who is let in", "service", ex.route.key, "asked", a.Ask, "status", res.StatusCode, "bytes", len(body), "error", err)
		return deaf
	}
	f := &refusal{status: res.StatusCode, why: "auth", header: res.Header.Clone(), body: body}
	for _, name := range append(hops, "date") {
		f.header.Del(name)
	}
	return f
}

// newAsker is how others are asked who is let in. What they answer is not followed and not unpacked: it is for the client.
func newAsker() http.RoundTripper {
	return &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader}
}
