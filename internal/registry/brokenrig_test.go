package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// broken is a real registry behind a handler that may misbehave. Uploads can be asked for how far they came, which
// go-containerregistry's own cannot.
type broken struct {
	host  string
	inner http.Handler

	mu      sync.Mutex
	before  func(http.ResponseWriter, *http.Request) bool // answers instead of the registry, where it returns true
	dead    bool                                          // nobody answers
	patched int64                                         // bytes of uploads that were taken
	served  int64                                         // bytes of answers to GET of blobs
	ranges  map[string]string                             // how far each upload came, by path
}

func newBroken(t *testing.T, o ...ggcr.Option) *broken {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody's own credentials
	b := &broken{inner: ggcr.New(append(o, ggcr.Logger(log.New(io.Discard, "", 0)))...), ranges: map[string]string{}}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	b.host = strings.TrimPrefix(s.URL, "http://")
	return b
}

// set changes how the registry misbehaves, and begins to count anew.
func (b *broken) set(dead bool, before func(http.ResponseWriter, *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead, b.before, b.patched, b.served = dead, before, 0, 0
}

func (b *broken) counts() (patched, served int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.patched, b.served
}

// ServeHTTP implements [http.Handler].
func (b *broken) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	dead, before := b.dead, b.before
	b.mu.Unlock()
	if dead {
		panic(http.ErrAbortHandler)
	}
	if before != nil && before(w, r) {
		return
	}
	upload := strings.Contains(r.URL.Path, "/blobs/uploads/")
	if r.Method == http.MethodGet && upload {
		b.mu.Lock()
		known := b.ranges[r.URL.Path]
		b.mu.Unlock()
		if known == "" {
			http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"it expired"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Location", r.URL.Path)
		w.Header().Set("Range", known)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	c := &counting{ResponseWriter: w}
	b.inner.ServeHTTP(c, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Method == http.MethodPatch && upload && c.status == http.StatusAccepted {
		b.patched += r.ContentLength
		b.ranges[r.URL.Path] = w.Header().Get("Range")
	}
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		b.served += c.n
	}
}

type counting struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *counting) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// large is a bundle whose program takes several chunks to send: this test binary and 20 MiB that do not compress.
func large(t *testing.T) (bundle.Layout, *bundle.Bundle) {
	t.Helper()
	l, small, _ := artifact(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 20<<20)
	if _, err := rand.NewChaCha8([32]byte{}).Read(noise); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "svc")
	if err := os.WriteFile(path, append(raw, noise...), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, size, err := v1.SHA256(bytes.NewReader(append(raw, noise...)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Make(t.Context(), l, bundle.Input{Name: "svc", Source: bundle.Source{Version: "v2.0.0"}, Tool: "test",
		Base:   &bundle.Base{Name: "base.example.com/x", Digest: small.Index.Digest, Images: []v1.Descriptor{small.Images[0].Manifest}},
		Images: []bundle.Image{{Platform: platform.Host(), Programs: []bundle.Program{{Name: "svc", Path: path, Digest: digest.String(), Size: size}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return l, b
}

// top is the layer with the programs.
func top(b *bundle.Bundle) v1.Descriptor {
	layers := b.Images[0].Layers
	return layers[len(layers)-1].Descriptor
}

func emptyLayout(t *testing.T) bundle.Layout {
	t.Helper()
	l, err := bundle.Create(filepath.Join(t.TempDir(), "to"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sound holds that every blob in a layout has the digest it is named by, and that nothing is half written.
func sound(t *testing.T, l bundle.Layout, named bool) {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(l.Dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range blobs {
		b, err := os.ReadFile(filepath.Join(l.Dir, "blobs", "sha256", f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.Name() {
			t.Errorf("the blob %s holds something else", f.Name())
		}
	}
	if _, err := os.Stat(filepath.Join(l.Dir, "index.json")); errors.Is(err, os.ErrNotExist) == named {
		t.Errorf("the layout names something: %v, want it: %t", err, named)
	}
}

// explained holds that an error says the words, in its text or its hint.
func explained(t *testing.T, err error, kind fail.Kind, words ...string) {
	t.Helper()
	if err == nil || fail.KindOf(err) != kind {
		t.Errorf("%q: %v; want %q", fail.KindOf(err), err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) && !strings.Contains(fail.As(err).Hint, w) {
			t.Errorf("%v (%s); it does not say %q", err, fail.As(err).Hint, w)
		}
	}
}

func send(t *testing.T, b *broken, l bundle.Layout, root v1.Descriptor) {
	t.Helper()
	if err := connect(t, b.host+"/svc", true).Push(t.Context(), l, root, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	b.set(false, nil)
}

// blob is what a layout has under a digest.
func blob(t *testing.T, l bundle.Layout, d v1.Descriptor) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.Dir, "blobs", "sha256", d.Digest.Hex))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
