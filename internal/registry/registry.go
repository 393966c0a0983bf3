// Package registry sends bundles to OCI registries and fetches them (https://github.com/opencontainers/distribution-spec,
// version 1.1). Credentials come from Docker's configuration and its helpers. What was sent or fetched before an
// interruption is not sent or fetched again.
package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/wait"
)

// Options say how registries are spoken to.
type Options struct {
	PlainHTTP   bool // without TLS; only to this machine itself
	InsecureTLS bool // whatever certificate the registry shows
	Events      event.Sink
}

// Ref names something in a registry.
type Ref struct {
	repo   name.Repository
	Tag    string
	Digest string
}

// ParseRef reads HOST/PATH[:TAG][@sha256:DIGEST]. The host must be written out: a short name means another registry on
// every machine.
func ParseRef(s string) (Ref, error) {
	rest, digest, _ := strings.Cut(strings.TrimPrefix(s, "docker://"), "@")
	repo, tag := rest, ""
	if i := strings.LastIndex(rest, ":"); i > strings.LastIndex(rest, "/") {
		repo, tag = rest[:i], rest[i+1:]
	}
	host, _, ok := strings.Cut(repo, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return Ref{}, fail.New(fail.Usage, "", "%q names no registry", s).Hinted("write HOST/PATH:TAG, as registry.example.com/team/shop:v1.2.3")
	}
	r, err := name.NewRepository(repo, name.StrictValidation)
	if err != nil {
		return Ref{}, fail.New(fail.Usage, "", "%q: %w", s, err)
	}
	if tag != "" {
		if _, err := name.NewTag(repo+":"+tag, name.StrictValidation); err != nil {
			return Ref{}, fail.New(fail.Usage, "", "%q: %w", s, err)
		}
	}
	if digest != "" {
		if _, err := name.NewDigest(repo + "@" + digest); err != nil {
			return Ref{}, fail.New(fail.Usage, "", "%q: %w", s, err)
		}
	}
	return Ref{r, tag, digest}, nil
}

// String writes the reference as it is read.
func (r Ref) String() string {
	s := r.repo.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Repository is the reference without tag and digest.
func (r Ref) Repository() string { return r.repo.Name() }

// Remote is one repository of a registry. It implements [bundle.Blobs] and is safe for use by several goroutines.
type Remote struct {
	ref    Ref
	client *http.Client
	opts   Options

	mu   sync.Mutex
	sent int64 // bytes of layers that were sent or fetched, for progress
	all  int64
}

// Connect logs in to the repository of ref, for reading or also for writing. What goes wrong has a hint.
func Connect(ctx context.Context, ref Ref, write bool, o Options) (*Remote, error) {
	host, _, err := net.SplitHostPort(ref.repo.RegistryStr())
	if err != nil {
		host = ref.repo.RegistryStr()
	}
	if o.PlainHTTP && !loopback(host) {
		return nil, fail.New(fail.Usage, "", "plain HTTP to %s would show credentials and images to everybody on the way", host).
			Hinted("--plain-http is for localhost; give the registry a certificate, or use --insecure-tls for one that cannot be checked")
	}
	r := &Remote{ref: ref, opts: o}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = 60 * time.Second
	if o.InsecureTLS {
		base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for by name
	}
	opts := []name.Option{name.StrictValidation}
	if o.PlainHTTP {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(ref.repo.RegistryStr(), opts...)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "%w", err)
	}
	auth, err := authn.DefaultKeychain.Resolve(ref.repo)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "the credentials for %s cannot be read: %w", reg, err).Hinted("run `docker login %s`, or look at ~/.docker/config.json", reg)
	}
	action := transport.PullScope
	if write {
		action = transport.PushScope
	}
	t, err := transport.NewWithContext(ctx, reg, auth, onlyTLS{base, o.PlainHTTP}, []string{ref.repo.Scope(action)})
	if err != nil {
		return nil, r.explain("log in to "+reg.String(), err)
	}
	r.client = &http.Client{Transport: t}
	return r, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// onlyTLS keeps requests from leaving without TLS, whatever a registry redirects to or names as its login.
type onlyTLS struct {
	inner http.RoundTripper
	plain bool
}

// RoundTrip implements [http.RoundTripper].
func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && (!t.plain || !loopback(r.URL.Hostname())) {
		return nil, errPlain
	}
	if r.GetBody != nil {
		// What is above us sends a request again when its token has run out, and the body may still be read for the first time.
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
	return t.inner.RoundTrip(r)
}

var errPlain = errors.New("it asks for plain HTTP")

// problem is an answer that is none of those expected.
type problem struct {
	status int
	text   string
}

// Error says the status and what the registry wrote.
func (p *problem) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", p.status, http.StatusText(p.status), p.text))
}

// explain makes an error that says what to do.
func (r *Remote) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	host := r.ref.repo.RegistryStr()
	e := fail.New(fail.Unavailable, op, "%w", err)
	status := 0
	if p, ok := errors.AsType[*problem](err); ok {
		status = p.status
	}
	if p, ok := errors.AsType[*transport.Error](err); ok {
		status = p.StatusCode
	}
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch {
	case fail.KindOf(err) != fail.Internal:
		return err
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.Kind, e.Hint = fail.Usage, "run `docker login "+host+"` with an account that may do this"
	case status == http.StatusNotFound:
		e.Kind, e.Hint = fail.NotFound, "look at the spelling of "+r.ref.String()
	case status == http.StatusRequestEntityTooLarge:
		e.Hint = "the registry, or a proxy before it, limits the size of uploads"
	case errors.Is(err, errPlain), errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Kind, e.Hint = fail.Usage, "the registry speaks no TLS; for one on this machine use --plain-http"
	case errors.As(err, &unknown), strings.Contains(err.Error(), "certificate"):
		e.Kind, e.Hint = fail.Usage, "install its certificate authority on this machine, or use --insecure-tls"
	default:
		e.Hint = "is " + host + " reachable? Run the same command again: what was transferred stays"
	}
	return e
}

// url is the address of something in the repository.
func (r *Remote) url(parts ...string) string {
	return "https://" + r.ref.repo.RegistryStr() + "/v2/" + r.ref.repo.RepositoryStr() + "/" + strings.Join(parts, "/")
}

// do sends a request without retrying. An answer that is not among expected is a problem.
func (r *Remote) do(req *http.Request, expected ...int) (*http.Response, error) {
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	for _, code := range expected {
		if res.StatusCode == code {
			return res, nil
		}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return nil, err
	}
	return nil, &problem{res.StatusCode, wording(b)}
}

// wording is what a registry's error says (distribution specification, "Error Codes").
func wording(b []byte) string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(b, &e) == nil && len(e.Errors) > 0 {
		return e.Errors[0].Code + ": " + e.Errors[0].Message
	}
	return string(bytes.TrimSpace(b[:min(len(b), 200)]))
}

// attempts is how often a step is tried; between two the wait doubles from firstWait.
const (
	attempts  = 5
	firstWait = 300 * time.Millisecond
)

// retry repeats f while it fails in a way that may pass.
func retry(ctx context.Context, f func() error) error {
	pause := firstWait
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == attempts || !passing(err) || ctx.Err() != nil {
			return err
		}
		if e := wait.For(ctx, pause); e != nil {
			return e
		}
		pause *= 2
	}
}

// passing reports whether the same request may succeed later: the network failed, or the registry is overloaded.
func passing(err error) bool {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.status >= 500 || p.status == http.StatusTooManyRequests || p.status == http.StatusRequestTimeout
	}
	if fail.KindOf(err) != fail.Internal || errors.Is(err, errPlain) {
		return false
	}
	var u *url.Error
	var n net.Error
	return errors.As(err, &u) || errors.As(err, &n) || errors.Is(err, io.ErrUnexpectedEOF)
}

// manifestTypes are what a manifest may be.
var manifestTypes = strings.Join([]string{string(types.OCIImageIndex), string(types.OCIManifestSchema1), string(types.DockerManifestList), string(types.DockerManifestSchema2)}, ", ")

// maxManifest is the longest manifest that is read, in bytes.
const maxManifest = 8 << 20

// Resolve asks what the reference means now.
func (r *Remote) Resolve(ctx context.Context) (v1.Descriptor, error) {
	ref := r.ref.Digest
	if ref == "" {
		if ref = r.ref.Tag; ref == "" {
			ref = "latest"
		}
	}
	d, _, err := r.manifest(ctx, ref)
	return d, r.explain("fetch "+r.ref.String(), err)
}

// document fetches a manifest or a list of them, once, with its content type.
func (r *Remote) document(ctx context.Context, url string) ([]byte, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", manifestTypes)
	res, err := r.do(req, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err == nil && len(body) > maxManifest {
		err = fail.New(fail.Preflight, "", "%s is longer than %d bytes", url, maxManifest)
	}
	return body, res.Header.Get("Content-Type"), err
}

// manifest fetches a manifest by tag or digest.
func (r *Remote) manifest(ctx context.Context, ref string) (v1.Descriptor, []byte, error) {
	var d v1.Descriptor
	var body []byte
	err := retry(ctx, func() error {
		var typ string
		var err error
		if body, typ, err = r.document(ctx, r.url("manifests", ref)); err != nil {
			return err
		}
		h, _, err := v1.SHA256(bytes.NewReader(body))
		if err != nil {
			return err
		}
		if strings.HasPrefix(ref, "sha256:") && h.String() != ref {
			return fail.New(fail.Preflight, "", "the registry sent %s for %s", h, ref).Hinted("somebody changed it on the way, or the registry is broken")
		}
		d = v1.Descriptor{MediaType: types.MediaType(typ), Size: int64(len(body)), Digest: h}
		return nil
	})
	return d, body, err
}

// progress tells how much of the layers is transferred.
func (r *Remote) progress(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += n
	r.opts.Events.Send(event.Event{Type: "transfer", Text: r.ref.Repository(), Done: r.sent, Total: r.all})
}

func (r *Remote) total(blobs []v1.Descriptor) {
	for _, b := range blobs {
		r.all += b.Size
	}
}
