package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// without is a layout that lists fewer referrers, as a registry would that lost some or is told to hide them.
type without struct {
	Layout
	hide func(v1.Descriptor) bool
}

func (w without) Referrers(ctx context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	all, err := w.Layout.Referrers(ctx, h)
	return slices.DeleteFunc(all, w.hide), err
}

func rule(t testing.TB, s string) Rule {
	t.Helper()
	r, err := ParseRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// refused holds that an error is one that a person can act on.
func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	if fail.KindOf(err) != fail.Preflight {
		t.Errorf("it is %q and not refused: %v", fail.KindOf(err), err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) && !strings.Contains(fail.As(err).Hint, w) {
			t.Errorf("%v (%s); it does not say %q", err, fail.As(err).Hint, w)
		}
	}
}

func TestPolicies(t *testing.T) {
	key, other := newKey(t, time.Time{}), newKey(t, time.Time{})
	short := newKey(t, time.Now().Add(time.Hour))
	late := short.Public
	late.Expires = time.Now().Add(-48 * time.Hour)
	in := several(t)
	unsigned := newLayout(t)
	root := mustMake(t, unsigned, in).Index
	in.Signer = signer(key)
	signed := newLayout(t)
	if got := mustMake(t, signed, in).Index; got.Digest != root.Digest {
		t.Fatalf("signing changed the digest: %s and %s", got.Digest, root.Digest)
	}
	in.Signer = signer(short)
	soon := newLayout(t)
	mustMake(t, soon, in)
	keys := func(k ...sign.Public) []sign.Public { return k }
	hideType := func(l Layout, kind string) without {
		return without{l, func(d v1.Descriptor) bool { return d.ArtifactType == kind }}
	}
	sboms := 0
	hideOneSBOM := without{signed, func(d v1.Descriptor) bool {
		if d.ArtifactType == sbom.CycloneDXType {
			sboms++
		}
		return d.ArtifactType == sbom.CycloneDXType && sboms > 1
	}}
	for _, c := range []struct {
		name string
		from Blobs
		p    Policy
		want []string // nil is taken
	}{
		{"digests only", unsigned, Policy{}, nil},
		{"signed", signed, Policy{Signed: true, Keys: keys(other.Public, key.Public)}, nil},
		{"unsigned", unsigned, Policy{Signed: true, Keys: keys(key.Public)}, []string{"no signature", "build: {sign: KEY}"}},
		{"the signature is gone", hideType(signed, sign.BundleType), Policy{Signed: true, Keys: keys(key.Public)}, []string{"no signature", "sign it"}},
		{"another key", signed, Policy{Signed: true, Keys: keys(other.Public)}, []string{"signed with the key " + key.ID[:19], "none of the allowed keys", "public half is allowed"}},
		{"no key is allowed", signed, Policy{Signed: true}, []string{"none of the allowed keys"}},
		{"an expired key", soon, Policy{Signed: true, Keys: keys(late)}, []string{"a key that expired on " + late.Expires.Format(time.DateOnly), "fairlead keys new"}},
		{"an expired key, taken before", soon, Policy{Signed: true, Keys: keys(late), Accepted: late.Expires.Add(-time.Hour)}, nil},
		{"a key that is still good", soon, Policy{Signed: true, Keys: keys(short.Public)}, nil},
		{"too old", signed, Policy{Signed: true, Keys: keys(key.Public), MaxAge: time.Nanosecond}, []string{"ago, the policy's max_age is 1ns", "build and sign it again"}},
		{"young enough", signed, Policy{Signed: true, Keys: keys(key.Public), MaxAge: time.Hour}, nil},
		{"nobody says how old", unsigned, Policy{MaxAge: time.Hour}, []string{"nobody says when", "fairlead build"}},
		{"a forbidden module", signed, Policy{Keys: keys(key.Public), Forbid: []Rule{rule(t, "std")}}, []string{"contains std", "which the policy forbids (std)", "build again"}},
		{"a forbidden module that comes from a folder", signed, Policy{Forbid: []Rule{rule(t, "example.com/dep")}}, []string{"contains example.com/dep"}},
		{"a forbidden version", unsigned, Policy{Forbid: []Rule{rule(t, "std@<v99")}}, []string{"(std@<v99)"}},
		{"a version that is not there", unsigned, Policy{Forbid: []Rule{rule(t, "std@>=v99"), rule(t, "example.com/svc/...")}}, nil},
		{"no SBOM", hideType(signed, sbom.CycloneDXType), Policy{Keys: keys(key.Public), Forbid: []Rule{rule(t, "example.com/none")}}, []string{"no SBOM that can be trusted", "build it with fairlead"}},
		{"an SBOM for one image of two", hideOneSBOM, Policy{Forbid: []Rule{rule(t, "example.com/none")}}, []string{"no SBOM that can be trusted"}},
		{"an SBOM that nobody signed", unsigned, Policy{Keys: keys(key.Public), Forbid: []Rule{rule(t, "example.com/none")}}, []string{"no SBOM that can be trusted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := Verify(t.Context(), c.from, root, c.p, true)
			if c.want != nil {
				refused(t, err, c.want...)
				if err != nil && fail.As(err).Hint == "" {
					t.Errorf("no hint: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if v.Name != "svc" || v.Version != "v1.2.3" || !slices.Equal(v.Platforms, []string{"linux/amd64", "linux/arm64"}) || v.Blobs < 6 || v.Bytes < 100_000 || c.p.Signed != (v.SignedBy != "") {
				t.Errorf("%+v", v)
			}
		})
	}
}

// TestKeyRotation signs an artifact again with a new key while the old one, which has expired, is still allowed and its
// signature still hangs there: the new one counts, in whichever order they are listed.
func TestKeyRotation(t *testing.T) {
	was, now := newKey(t, time.Now().Add(time.Hour)), newKey(t, time.Time{})
	l, in := newLayout(t), input(t)
	in.Signer = signer(was)
	mustMake(t, l, in)
	in.Signer = signer(now)
	b := mustMake(t, l, in)
	old := was.Public
	old.Expires = time.Now().Add(-time.Hour)
	for _, keys := range [][]sign.Public{{old, now.Public}, {now.Public, old}} {
		v, err := Verify(t.Context(), l, b.Index, Policy{Signed: true, Keys: keys}, false)
		if err != nil || v.SignedBy != now.ID {
			t.Errorf("%+v %v", v, err)
		}
	}
	_, err := Verify(t.Context(), l, b.Index, Policy{Signed: true, Keys: []sign.Public{old}}, false)
	refused(t, err, "expired on")
}

// hang signs a statement of some type over root and attaches it.
func hang(t *testing.T, l Layout, root v1.Descriptor, about string, predicate string, key *sign.Private) {
	t.Helper()
	st, err := sign.NewStatement([]sign.Subject{{Name: "svc", Digest: map[string]string{"sha256": about}}}, predicate, map[string]string{"result": "FAILED"})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := key.Sign(st, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := &Bundle{Index: root}
	if err := l.attachBundle(b, predicate, signed, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := l.Name(t.Context(), root, b.Referrers, "v1"); err != nil {
		t.Fatal(err)
	}
}

// TestOtherStatements holds that what an allowed key signed is a signature only where it says so, of this artifact.
func TestOtherStatements(t *testing.T) {
	key := newKey(t, time.Time{})
	p := Policy{Signed: true, Keys: []sign.Public{key.Public}}
	for _, c := range []struct{ about, predicate, want string }{
		{"it", "https://example.com/test-result", "test-result"},
		{"something else", SignatureV1, "over something else"},
		{"it", SignatureV1, ""},
	} {
		l := newLayout(t)
		root := mustMake(t, l, input(t)).Index
		about := root.Digest.Hex
		if c.about != "it" {
			about = sha256Of([]byte("x")).Hex
		}
		hang(t, l, root, about, c.predicate, key)
		if _, err := Verify(t.Context(), l, root, p, false); c.want != "" {
			refused(t, err, c.want, "sign it")
		} else if err != nil {
			t.Error(err)
		}
	}
}

// TestTampered changes each blob of a bundle in three ways. Everything but the unsigned SPDX document is read, so that
// Verify must refuse; archives and copies must refuse those as well.
func TestTampered(t *testing.T) {
	key := newKey(t, time.Time{})
	l, in := newLayout(t), input(t)
	in.Signer = signer(key)
	b := mustMake(t, l, in)
	p := Policy{Signed: true, Keys: []sign.Public{key.Public}, Forbid: []Rule{rule(t, "example.com/none")}}
	blobs, manifests, err := All(t.Context(), l, b.Index)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]func([]byte) []byte{
		"was changed": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut off":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer than": func(b []byte) []byte { return append(b, '\n') },
		"missing":     nil,
	}
	for _, d := range append(blobs, manifests...) {
		path := l.path(d.Digest)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for want, change := range changes {
			err := os.Remove(path)
			if change != nil {
				err = os.WriteFile(path, change(bytes.Clone(good)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			verified, verifyErr := Verify(t.Context(), l, b.Index, p, true)
			errs := map[string]error{
				"Verify":  verifyErr,
				"Copy":    Copy(t.Context(), l, b.Index, newLayout(t)),
				"Archive": Archive{Layout: l, Root: b.Index, Platform: amd64, Name: "svc:v1"}.WriteTo(t.Context(), io.Discard),
			}
			unread := d.MediaType == EmptyType || string(d.MediaType) == sbom.SPDXType || d.ArtifactType == sbom.SPDXType
			if unread && d.ArtifactType == "" {
				delete(errs, "Verify")
			} else if verified != nil && verifyErr == nil {
				t.Errorf("%s %s %s: taken", d.MediaType, d.ArtifactType, want)
			}
			for what, err := range errs {
				k := fail.KindOf(err)
				if err == nil || k == fail.Internal || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %s %s %s: %s, %v", what, d.MediaType, d.ArtifactType, want, k, err)
				}
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(t.Context(), l, b.Index, p, true); err != nil {
		t.Errorf("put right again: %v", err)
	}
}

// TestLyingImages are bundles whose digests all hold and that say what is not so.
func TestLyingImages(t *testing.T) {
	l := newLayout(t)
	layer, err := l.putLayer(t.Context(), Gzip, []entry{text("app/svc", "x")})
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType types.MediaType, v any) v1.Descriptor {
		d, err := l.PutJSON(mediaType, v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	linux := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer.DiffID}}}
	index := func(c v1.ConfigFile, m v1.Manifest, p *v1.Platform) v1.Descriptor {
		m.Config = put(types.OCIConfigJSON, c)
		d := put(types.OCIManifestSchema1, m)
		d.Platform = p
		return put(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
	}
	one := v1.Manifest{Layers: []v1.Descriptor{layer.Descriptor}}
	wrong := linux
	wrong.RootFS.DiffIDs = []v1.Hash{sha256Of([]byte("another tar"))}
	short := linux
	short.RootFS.DiffIDs = nil
	odd := layer.Descriptor
	odd.MediaType = "application/vnd.example.layer.v1.tar+rar"
	notGzip, err := l.Put(types.OCILayer, []byte("not gzip"))
	if err != nil {
		t.Fatal(err)
	}
	huge := layer.Descriptor
	huge.Size = 1 << 62
	for name, c := range map[string]struct {
		root v1.Descriptor
		want string
	}{
		"the layer holds another tar":       {index(wrong, one, nil), "its image says " + wrong.RootFS.DiffIDs[0].String()},
		"fewer layers than it tells of":     {index(short, one, nil), "has 1 layers and tells of 0"},
		"for no platform":                   {index(v1.ConfigFile{RootFS: linux.RootFS}, one, nil), "does not say for which platform"},
		"for another platform":              {index(linux, one, &v1.Platform{OS: "linux", Architecture: "arm64"}), "is for linux/arm64, the image itself says linux/amd64"},
		"a layer of an unknown kind":        {index(linux, v1.Manifest{Layers: []v1.Descriptor{odd}}, nil), "+rar"},
		"a layer that is not compressed":    {index(linux, v1.Manifest{Layers: []v1.Descriptor{notGzip}}, nil), "cannot be unpacked"},
		"a layer that announces much more":  {index(linux, v1.Manifest{Layers: []v1.Descriptor{huge}}, nil), "cut off"},
		"an index of nothing":               {put(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex}), "no image index"},
		"an index of indexes":               {put(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{MediaType: types.OCIImageIndex, Digest: layer.DiffID}}}), "names no image"},
		"an index that says it is none":     {put(types.OCIImageIndex, v1.IndexManifest{Manifests: []v1.Descriptor{layer.Descriptor}}), "no image index"},
		"an index of nothing by name":       {put(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex, Manifests: make([]v1.Descriptor, 1)}), "cannot be read"},
		"a document of more than 8 MiB":     {v1.Descriptor{MediaType: types.OCIImageIndex, Digest: layer.Digest, Size: maxDocument + 1}, "a document has at most"},
		"a document of less than nothing":   {v1.Descriptor{MediaType: types.OCIImageIndex, Digest: layer.Digest, Size: -1}, "a document has at most"},
		"a document that is no JSON at all": {v1.Descriptor{MediaType: types.OCIImageIndex, Digest: layer.Digest, Size: layer.Size}, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(t.Context(), l, c.root, Policy{}, true)
			refused(t, err, c.want)
		})
	}
	many := v1.IndexManifest{MediaType: types.OCIImageIndex}
	for range maxManifests + 1 {
		many.Manifests = append(many.Manifests, layer.Descriptor)
	}
	root := put(types.OCIImageIndex, many)
	_, err = Verify(t.Context(), l, root, Policy{}, true)
	refused(t, err, "257")
	_, _, err = All(t.Context(), l, root)
	refused(t, err, "257")
	_, err = ReadPrograms(t.Context(), l, put(types.OCIManifestSchema1, v1.Manifest{Config: put(types.OCIConfigJSON, linux), Layers: one.Layers}))
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "not made by fairlead") || fail.As(err).Hint == "" {
		t.Errorf("%v", err)
	}
	elsewhere := layer.Descriptor
	elsewhere.Annotations = map[string]string{AnnotationProgram: "/app/../../bin/sh"}
	_, err = ReadPrograms(t.Context(), l, put(types.OCIManifestSchema1, v1.Manifest{Config: put(types.OCIConfigJSON, linux), Layers: []v1.Descriptor{elsewhere}}))
	refused(t, err, "/app/../../bin/sh", "not in /app")
}

func TestNoLayout(t *testing.T) {
	for name, text := range map[string]string{"no file": "", "another version": `{"imageLayoutVersion":"2.0.0"}`, "no JSON": "x"} {
		dir := t.TempDir()
		if text != "" {
			if err := os.WriteFile(filepath.Join(dir, layoutFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := OpenLayout(dir); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "OCI image layout") {
			t.Errorf("%s: %v", name, err)
		}
	}
	l := newLayout(t)
	if _, err := l.Find(""); fail.KindOf(err) != fail.NotFound || !strings.Contains(fail.As(err).Hint, "fairlead build") {
		t.Errorf("%v", err)
	}
	b := mustMake(t, l, input(t))
	if again, err := OpenLayout(l.Dir); err != nil || again != l {
		t.Errorf("%v %v", again, err)
	}
	for _, ref := range []string{"", "v1.2.3", b.Index.Digest.String()} {
		if d, err := l.Find(ref); err != nil || d.Digest != b.Index.Digest {
			t.Errorf("%q: %v %v", ref, d, err)
		}
	}
	if _, err := l.Find("v9"); fail.KindOf(err) != fail.NotFound || !strings.Contains(err.Error(), "v1.2.3") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(l.Dir, "index.json"), []byte(`{"manifests":[{"size":1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), l, input(t)); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "not a sha256 digest") {
		t.Errorf("an index.json that names nothing: %v", err)
	}
}

// TestArchive writes the archive twice and reads it as docker does and as an OCI layout.
func TestArchive(t *testing.T) {
	l := newLayout(t)
	b := mustMake(t, l, several(t))
	a := Archive{Layout: l, Root: b.Index, Platform: amd64, Name: "svc:v1.2.3"}
	var one, two bytes.Buffer
	if err := errors.Join(a.WriteTo(t.Context(), &one), a.WriteTo(t.Context(), &two)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives of one bundle differ")
	}
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(one.Bytes())); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Mode != 0o644 {
			t.Errorf("%+v", h)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, body, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var saved []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err := errors.Join(err, json.Unmarshal(raw, &saved)); err != nil || len(saved) != 1 {
		t.Fatal(err)
	}
	img := b.Images[0]
	if s := saved[0]; s.Config != "blobs/sha256/"+configOf(t, l, img.Manifest).Hex || !slices.Equal(s.RepoTags, []string{"svc:v1.2.3"}) ||
		!slices.Equal(s.Layers, []string{"blobs/sha256/" + img.Layers[0].Digest.Hex, "blobs/sha256/" + img.Layers[1].Digest.Hex}) {
		t.Errorf("docker would load %+v", s)
	}
	read, err := OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := read.Find("v1.2.3")
	if err != nil || root.Digest != b.Index.Digest {
		t.Errorf("%v %v", root, err)
	}
	if _, err := Verify(t.Context(), read, root, Policy{}, true); err != nil {
		t.Error(err)
	}
	a.Platform = platform.Platform{OS: "linux", Arch: "riscv64"}
	if err := a.WriteTo(t.Context(), io.Discard); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "linux/amd64") || !strings.Contains(fail.As(err).Hint, "--platform") {
		t.Errorf("%v", err)
	}
}

func configOf(t *testing.T, l Layout, manifest v1.Descriptor) v1.Hash {
	t.Helper()
	var m v1.Manifest
	if err := Document(t.Context(), l, manifest, &m); err != nil {
		t.Fatal(err)
	}
	return m.Config.Digest
}

// TestCopies brings a bundle into another layout: all of it, and under its name.
func TestCopies(t *testing.T) {
	key := newKey(t, time.Time{})
	from, to, in := newLayout(t), newLayout(t), several(t)
	in.Signer = signer(key)
	mustMake(t, from, in)
	root, err := from.Find("")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Copy(t.Context(), from, root, to); err != nil {
			t.Fatal(err)
		}
	}
	got, err := to.Find("v1.2.3")
	if err != nil || got.Digest != root.Digest {
		t.Errorf("%v %v", got, err)
	}
	if _, err := Verify(t.Context(), to, got, Policy{Signed: true, Keys: []sign.Public{key.Public}, Forbid: []Rule{rule(t, "example.com/none")}}, true); err != nil {
		t.Error(err)
	}
	x, err := json.Marshal(files(t, filepath.Join(to.Dir, "blobs")))
	y, err2 := json.Marshal(files(t, filepath.Join(from.Dir, "blobs")))
	if errors.Join(err, err2) != nil || !bytes.Equal(x, y) {
		t.Error("the copy has other blobs")
	}
	noParts(t, to)
}
