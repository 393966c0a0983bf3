package registry

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/bundle/bundletest"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// serve starts a real registry; before sees every request first and may answer it.
func serve(t *testing.T, before func(http.ResponseWriter, *http.Request) bool, o ...ggcr.Option) string {
	t.Helper()
	h := ggcr.New(append(o, ggcr.Logger(log.New(io.Discard, "", 0)))...)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before == nil || !before(w, r) {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// artifact makes a signed bundle.
func artifact(t *testing.T) (bundle.Layout, *bundle.Bundle, *sign.Private) {
	t.Helper()
	key, err := sign.New(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	l, b := bundletest.Make(t, key, "")
	return l, b, key
}

func connect(t *testing.T, ref string, write bool) *Remote {
	t.Helper()
	parsed, err := ParseRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Connect(t.Context(), parsed, write, Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	l, b, key := artifact(t)
	for name, opts := range map[string][]ggcr.Option{"referrers API": {ggcr.WithReferrersSupport(true)}, "fallback tag": nil} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, nil, opts...)
			if err := connect(t, host+"/team/svc", true).Push(t.Context(), l, b.Index, []string{"v1.2.3", "latest"}); err != nil {
				t.Fatal(err)
			}
			r := connect(t, host+"/team/svc:latest", false)
			root, err := r.Resolve(t.Context())
			if err != nil || root.Digest != b.Index.Digest {
				t.Fatalf("%v %v", root, err)
			}
			to, err := bundle.Create(filepath.Join(t.TempDir(), "pulled"))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Pull(t.Context(), root, to); err != nil {
				t.Fatal(err)
			}
			for where, from := range map[string]bundle.Blobs{"registry": r, "layout": to} {
				v, err := bundle.Verify(t.Context(), from, root, bundle.Policy{Signed: true, Keys: []sign.Public{key.Public}}, true)
				if err != nil || v.SignedBy != key.ID || v.Modules == 0 {
					t.Errorf("%s: %+v %v", where, v, err)
				}
			}
			if newer, err := r.Newer(t.Context(), "latest", "v1.2.2"); err != nil || newer != "v1.2.3" {
				t.Errorf("latest may be moved back from %q: %v", newer, err)
			}
		})
	}
}

// TestBrokenOff has the registry fail in the middle of a layer, again and again, and counts what is sent twice.
func TestBrokenOff(t *testing.T) {
	l, b, _ := artifact(t)
	var failures, patches atomic.Int32
	host := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && patches.Add(1)%2 == 0 && failures.Add(1) < 4 {
			io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	r := connect(t, host+"/team/svc", true)
	if err := r.Push(t.Context(), l, b.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	if failures.Load() == 0 {
		t.Error("nothing was broken off")
	}
	before := patches.Load()
	if err := connect(t, host+"/team/svc", true).Push(t.Context(), l, b.Index, []string{"v1"}); err != nil || patches.Load() != before {
		t.Errorf("%d layers are sent again: %v", patches.Load()-before, err)
	}
}

// TestTampered has the registry change a blob on the way.
func TestTampered(t *testing.T) {
	l, b, _ := artifact(t)
	layer := b.Images[0].Layers[1]
	host := serve(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
			w.Write(make([]byte, layer.Size)) // whether the client still listens does not matter
			return true
		}
		return false
	})
	if err := connect(t, host+"/svc", true).Push(t.Context(), l, b.Index, []string{"v1"}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "to")
	to, err := bundle.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = connect(t, host+"/svc:v1", false).Pull(t.Context(), b.Index, to)
	if fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layout names something: %v", err)
	}
	var none *bundle.Verified
	if v, err := bundle.Verify(t.Context(), connect(t, host+"/svc:v1", false), b.Index, bundle.Policy{}, true); err == nil || v != none {
		t.Errorf("%+v %v", v, err)
	}
}

func TestRefused(t *testing.T) {
	for ref, want := range map[string]string{"shop": "names no registry", "team/shop:v1": "names no registry", "registry.example.com/Shop": "Shop",
		"registry.example.com/shop:a b": "a b", "registry.example.com/shop@sha256:12": "12"} {
		if _, err := ParseRef(ref); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	ref, err := ParseRef("registry.example.com/shop:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), ref, false, Options{PlainHTTP: true}); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("%v", err)
	}
	host := serve(t, nil)
	if ref, err = ParseRef(host + "/svc:v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), ref, false, Options{}); err == nil || !strings.Contains(fail.As(err).Hint, "--plain-http") {
		t.Errorf("without --plain-http: %v", err)
	}
	if _, err := connect(t, host+"/svc:v1", false).Resolve(t.Context()); fail.KindOf(err) != fail.NotFound {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := connect(t, host+"/svc:v1", false).Open(ctx, v1.Descriptor{}); err == nil {
		t.Error("a cancelled call succeeds")
	}
}
