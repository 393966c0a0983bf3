package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// TestDiesDuringPush has the registry die when it took two chunks of the program. The second run sends the rest.
func TestDiesDuringPush(t *testing.T) {
	l, bun := large(t)
	b := newBroken(t)
	r := connect(t, b.host+"/svc", true)
	var patches atomic.Int32
	b.set(false, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.ContentLength == chunk && patches.Add(1) == 3 {
			b.set(true, nil)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	err := r.Push(t.Context(), l, bun.Index, []string{"v1"})
	explained(t, err, fail.Unavailable, "send sha256:", "what was transferred stays")
	b.set(false, nil)
	again := connect(t, b.host+"/svc", true)
	if _, err := again.Resolve(t.Context()); fail.KindOf(err) != fail.NotFound {
		t.Errorf("the registry names what is not all there: %v", err)
	}
	if err := again.Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	if sent, _ := b.counts(); sent == 0 || sent > bun.Size()-2*chunk {
		t.Errorf("the second run sends %d of %d bytes; two chunks of %d were there", sent, bun.Size(), chunk)
	}
	if _, err := bundle.Verify(t.Context(), again, bun.Index, bundle.Policy{}, true); err != nil {
		t.Error(err)
	}
}

// TestUploadExpired has the registry forget between two runs the upload that broke off: it is begun anew.
func TestUploadExpired(t *testing.T) {
	l, bun := large(t)
	b := newBroken(t)
	r := connect(t, b.host+"/svc", true)
	var patches atomic.Int32
	b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && patches.Add(1) > 1 {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"quota used up"}]}`, http.StatusForbidden)
			return true
		}
		return false
	})
	explained(t, r.Push(t.Context(), l, bun.Index, []string{"v1"}), fail.Usage, "DENIED: quota used up", "docker login "+b.host)
	b.set(false, nil)
	b.ranges = map[string]string{}
	if err := connect(t, b.host+"/svc", true).Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Verify(t.Context(), r, bun.Index, bundle.Policy{}, true); err != nil {
		t.Error(err)
	}
}

// TestUploadForgotten has the registry forget an upload in its middle: it is begun anew in the same run.
func TestUploadForgotten(t *testing.T) {
	l, bun := large(t)
	b := newBroken(t)
	r := connect(t, b.host+"/svc", true)
	var patches atomic.Int32
	b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.ContentLength == chunk && patches.Add(1) == 3 {
			http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"it expired"}]}`, http.StatusNotFound)
			return true
		}
		return false
	})
	if err := r.Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	if patches.Load() < 5 {
		t.Errorf("%d chunks were sent, of which the third was refused", patches.Load())
	}
	if _, err := bundle.Verify(t.Context(), r, bun.Index, bundle.Policy{}, true); err != nil {
		t.Error(err)
	}
}

// TestDiesDuringPull has the registry die in the middle of the program's layer. The second run fetches the rest of it.
func TestDiesDuringPull(t *testing.T) {
	l, bun := large(t)
	b := newBroken(t)
	send(t, b, l, bun.Index)
	layer, half := top(bun), int64(10<<20)
	b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.FormatInt(layer.Size, 10))
		body := blob(t, l, layer)
		w.Write(body[:half]) // whether the client still listens does not matter
		w.(http.Flusher).Flush()
		b.set(true, nil)
		panic(http.ErrAbortHandler)
	})
	to := emptyLayout(t)
	r := connect(t, b.host+"/svc:v1", false)
	explained(t, r.Pull(t.Context(), bun.Index, to), fail.Unavailable, "fetch sha256:", "what was transferred stays")
	sound(t, to, false)
	part, err := os.Stat(filepath.Join(to.Dir, ".partial", layer.Digest.Hex))
	if err != nil || part.Size() == 0 || part.Size() > half {
		t.Fatalf("what was fetched is not kept: %v %v", part, err)
	}
	b.set(false, nil)
	if err := connect(t, b.host+"/svc:v1", false).Pull(t.Context(), bun.Index, to); err != nil {
		t.Fatal(err)
	}
	if _, got := b.counts(); got > bun.Size()-part.Size()+1<<20 {
		t.Errorf("the second run fetches %d bytes of %d; %d were there", got, bun.Size(), part.Size())
	}
	sound(t, to, true)
	if _, err := bundle.Verify(t.Context(), to, bun.Index, bundle.Policy{}, true); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(to.Dir, ".partial")); err != nil || len(left) != 0 {
		t.Errorf("%v is left over: %v", left, err)
	}
}

// TestTruncated breaks every download of the layer off after some bytes: where the registry knows ranges the pull gets it
// piece by piece, where not it says that it is cut off.
func TestTruncated(t *testing.T) {
	l, bun, _ := artifact(t)
	layer := top(bun)
	for name, ranges := range map[string]bool{"ranges": true, "no ranges": false} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t)
			send(t, b, l, bun.Index)
			body := blob(t, l, layer)
			b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
					return false
				}
				from := int64(0)
				if s := r.Header.Get("Range"); ranges && s != "" {
					if _, err := fmt.Sscanf(s, "bytes=%d-", &from); err != nil {
						t.Errorf("%q: %v", s, err)
					}
				}
				w.Header().Set("Content-Length", strconv.FormatInt(layer.Size-from, 10))
				if from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, layer.Size-1, layer.Size))
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write(body[from:min(layer.Size, from+layer.Size/3)]) // whether the client still listens does not matter
				return true
			})
			to := emptyLayout(t)
			err := connect(t, b.host+"/svc:v1", false).Pull(t.Context(), bun.Index, to)
			if ranges {
				if err != nil {
					t.Error(err)
				}
			} else {
				explained(t, err, fail.Unavailable, "unexpected EOF", layer.Digest.String(), "what was transferred stays")
			}
			sound(t, to, ranges)
		})
	}
}

// TestWrongContent has the registry send something else than what was asked for.
func TestWrongContent(t *testing.T) {
	l, bun, _ := artifact(t)
	layer, manifest := top(bun), bun.Images[0].Manifest
	ref := bun.Referrers[0]
	long := append(bytes.Clone(blob(t, l, layer)), "and more"...)
	for name, c := range map[string]struct {
		path  string
		body  []byte // nil is not found
		kind  fail.Kind
		words []string
	}{
		"another manifest":          {"/manifests/" + manifest.Digest.String(), []byte(`{}`), fail.Preflight, []string{"the registry sent sha256:", "for " + manifest.Digest.String(), "changed it on the way"}},
		"a manifest without end":    {"/manifests/" + manifest.Digest.String(), make([]byte, maxManifest+2), fail.Preflight, []string{"longer than"}},
		"a blob longer than it is":  {"/blobs/" + layer.Digest.String(), long, fail.Preflight, []string{"longer than the " + strconv.FormatInt(layer.Size, 10) + " bytes"}},
		"a blob that is another":    {"/blobs/" + layer.Digest.String(), make([]byte, layer.Size), fail.Preflight, []string{layer.Digest.String(), "was changed", "fetch or build the bundle again"}},
		"a missing blob":            {"/blobs/" + layer.Digest.String(), nil, fail.NotFound, []string{layer.Digest.String(), "spelling"}},
		"a missing referrer":        {"/manifests/" + ref.Digest.String(), nil, fail.NotFound, []string{ref.Digest.String()}},
		"a list that is no JSON":    {"/referrers/" + bun.Index.Digest.String(), []byte("<html>"), fail.Unavailable, []string{"list what refers to " + bun.Index.Digest.String()}},
		"a list of what is missing": {"/referrers/" + bun.Index.Digest.String(), missingList(t), fail.NotFound, []string{"404"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t, ggcr.WithReferrersSupport(true))
			send(t, b, l, bun.Index)
			asked := false
			b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, c.path) {
					return false
				}
				asked = true
				if c.body == nil {
					http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"gone"}]}`, http.StatusNotFound)
					return true
				}
				w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				w.Write(c.body) // whether the client still listens does not matter
				return true
			})
			to := emptyLayout(t)
			explained(t, connect(t, b.host+"/svc:v1", false).Pull(t.Context(), bun.Index, to), c.kind, c.words...)
			sound(t, to, false)
			if !asked {
				t.Error("nobody asked for it")
			}
			b.set(false, nil) // and when the registry is right again, what was wrong is not gone on with
			if err := connect(t, b.host+"/svc:v1", false).Pull(t.Context(), bun.Index, to); err != nil {
				t.Error(err)
			}
			sound(t, to, true)
		})
	}
}

// missingList lists a referrer that is nowhere.
func missingList(t *testing.T) []byte {
	t.Helper()
	h, _, err := v1.SHA256(strings.NewReader("nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v1.IndexManifest{Manifests: []v1.Descriptor{{MediaType: types.OCIManifestSchema1, Digest: h, Size: 7, ArtifactType: sign.BundleType}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOverloaded answers every first request of its kind with an error that passes: nothing is noticed but time. One that
// does not pass is told in the registry's own words.
func TestOverloaded(t *testing.T) {
	l, bun, key := artifact(t)
	b := newBroken(t)
	var seen sync.Map
	first := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		path := r.URL.Path
		if i := strings.Index(path, "/uploads/"); i >= 0 {
			path = path[:i] // each upload has an address of its own
		}
		if _, again := seen.LoadOrStore(r.Method+" "+path, true); again {
			return false
		}
		http.Error(w, "", []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusTooManyRequests}[len(r.URL.Path)%3])
		return true
	}
	b.set(false, first)
	if err := connect(t, b.host+"/svc", true).Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	r := connect(t, b.host+"/svc:v1", false)
	to := emptyLayout(t)
	if err := r.Pull(t.Context(), bun.Index, to); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Verify(t.Context(), to, bun.Index, bundle.Policy{Signed: true, Keys: []sign.Public{key.Public}}, true); err != nil {
		t.Error(err)
	}
	sound(t, to, true)
	b.set(false, func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, `{"errors":[{"code":"UNAVAILABLE","message":"the disk is full"}]}`, http.StatusInternalServerError)
		return true
	})
	_, err := r.Resolve(t.Context())
	explained(t, err, fail.Unavailable, "500", "the disk is full", "Run the same command again")
}

// TestTokens has the registry ask for a token, and for a new one every few requests.
func TestTokens(t *testing.T) {
	l, bun, _ := artifact(t)
	b := newBroken(t)
	var issued atomic.Int32
	var used sync.Map // how often, by token
	refuse := false
	b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if refuse {
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
				return true
			}
			if scope := r.FormValue("scope"); scope != "" && !strings.HasPrefix(scope, "repository:svc:") {
				t.Errorf("asked for %q", scope)
			}
			fmt.Fprintf(w, `{"token":"t%d","expires_in":60}`, issued.Add(1))
			return true
		}
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer t"); ok {
			n, _ := used.LoadOrStore(token, new(atomic.Int32))
			if n.(*atomic.Int32).Add(1) <= 20 {
				return false
			}
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+b.host+`/token",service="registry.example.com"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"a token is needed"}]}`, http.StatusUnauthorized)
		return true
	})
	if err := connect(t, b.host+"/svc", true).Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	to := emptyLayout(t)
	if err := connect(t, b.host+"/svc:v1", false).Pull(t.Context(), bun.Index, to); err != nil {
		t.Fatal(err)
	}
	sound(t, to, true)
	if issued.Load() < 3 {
		t.Errorf("only %d tokens were asked for", issued.Load())
	}
	refuse = true
	ref, err := ParseRef(b.host + "/svc:v1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Connect(t.Context(), ref, false, Options{PlainHTTP: true})
	explained(t, err, fail.Usage, "who are you", "docker login "+b.host)
}

// TestFallbackTag has registries without the referrers API, which say so in their several ways, and one whose list under
// the tag is damaged.
func TestFallbackTag(t *testing.T) {
	l, bun, key := artifact(t)
	for _, status := range []int{http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			b := newBroken(t)
			no := func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/referrers/") {
					w.WriteHeader(status)
					return true
				}
				return false
			}
			b.set(false, no)
			for range 2 { // the second push lists nothing twice
				if err := connect(t, b.host+"/svc", true).Push(t.Context(), l, bun.Index, []string{"v1"}); err != nil {
					t.Fatal(err)
				}
			}
			r := connect(t, b.host+"/svc:v1", false)
			refs, err := r.Referrers(t.Context(), bun.Index.Digest)
			if err != nil || len(refs) != 2 {
				t.Errorf("%+v %v; want provenance and signature", refs, err)
			}
			if _, err := bundle.Verify(t.Context(), r, bun.Index, bundle.Policy{Signed: true, Keys: []sign.Public{key.Public}}, true); err != nil {
				t.Error(err)
			}
			tag := fallbackTag(bun.Index.Digest)
			b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/manifests/"+tag) {
					w.Write([]byte("<html>")) // whether the client still listens does not matter
					return true
				}
				return no(w, r)
			})
			to := emptyLayout(t)
			explained(t, r.Pull(t.Context(), bun.Index, to), fail.Preflight, "the list under the tag "+tag)
			sound(t, to, false)
		})
	}
}

// TestPullCancelled ends in the middle when the user asks to stop, and keeps what came.
func TestPullCancelled(t *testing.T) {
	l, bun, _ := artifact(t)
	b := newBroken(t)
	send(t, b, l, bun.Index)
	layer := top(bun)
	stop := make(chan struct{})
	b.set(false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.FormatInt(layer.Size, 10))
		w.Write(make([]byte, 1<<16)) // whether the client still listens does not matter
		w.(http.Flusher).Flush()
		close(stop)
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-stop
		cancel()
	}()
	to := emptyLayout(t)
	begin := time.Now()
	if err := connect(t, b.host+"/svc:v1", false).Pull(ctx, bun.Index, to); err == nil || time.Since(begin) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
	sound(t, to, false)
}

// TestBodyIsSentWhole has what stands above the transport send one request twice, as it does when a token has run out, while
// the body of the first is still being sent.
func TestBodyIsSentWhole(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	var whole atomic.Int32
	first := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			w.WriteHeader(http.StatusUnauthorized) // before it has read anything
			return
		}
		if b, err := io.ReadAll(r.Body); err == nil && bytes.Equal(b, body) {
			whole.Add(1)
		}
	}))
	defer s.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	transport := onlyTLS{http.DefaultTransport, true}
	for range 2 {
		if res, err := transport.RoundTrip(req); err == nil { // the first may break off: its answer came too soon
			res.Body.Close()
		}
	}
	if whole.Load() != 1 {
		t.Error("the body that was sent again is not what it was")
	}
}
