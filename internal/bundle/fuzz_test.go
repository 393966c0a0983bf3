package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sbom"
)

// inMemory is a real [Blobs] without a disk: documents by digest, and what refers to them.
type inMemory struct {
	docs map[v1.Hash][]byte
	refs map[v1.Hash][]v1.Descriptor
}

func (m inMemory) Open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, ok := m.docs[d.Digest]
	if !ok {
		return nil, fail.New(fail.NotFound, "", "%s is missing", d.Digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m inMemory) Referrers(_ context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	return m.refs[h], nil
}

func (m inMemory) put(t types.MediaType, b []byte) v1.Descriptor {
	d := v1.Descriptor{MediaType: t, Size: int64(len(b)), Digest: sha256Of(b)}
	m.docs[d.Digest] = b
	return d
}

// grown reports how much f allocates, in bytes, at the most: what is freed meanwhile counts too.
func grown(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzDocuments gives foreign bytes as an index, as a manifest, as a configuration, as an SBOM and as a signed statement,
// each under its right digest, to everything that reads them.
func FuzzDocuments(f *testing.F) {
	for _, b := range realDocuments(f) {
		f.Add(b)
	}
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json"}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}],"layers":[{"size":-1,"annotations":{"dev.fairlead.program":"/app/../x"}}],"rootfs":{"diff_ids":[""]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		allocated := grown(func() { readEverything(t, b) })
		// Each of some dozen readings may decode the document into values of many times its size.
		if limit := uint64(16<<20 + 20_000*len(b)); allocated > limit {
			t.Errorf("%d bytes of input made %d bytes of memory", len(b), allocated)
		}
	})
}

func readEverything(t *testing.T, b []byte) {
	t.Helper()
	ctx := t.Context()
	m := inMemory{map[v1.Hash][]byte{}, map[v1.Hash][]v1.Descriptor{}}
	index := m.put(types.OCIImageIndex, b)
	manifest := m.put(types.OCIManifestSchema1, b)
	asJSON := func(mediaType types.MediaType, v any) v1.Descriptor {
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return m.put(mediaType, out)
	}
	// The same bytes as the configuration of an image with one layer, which hangs under a good index.
	image := asJSON(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, Config: m.put(types.OCIConfigJSON, b),
		Layers: []v1.Descriptor{{MediaType: types.OCILayer, Digest: index.Digest, Annotations: map[string]string{AnnotationProgram: "/app/x"}}}})
	good := asJSON(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{image}})
	// And as what refers to that: the manifest, the SBOM, the signature.
	for _, kind := range []string{sbom.CycloneDXType, "application/vnd.dev.sigstore.bundle.v0.3+json"} {
		about := asJSON(types.OCIManifestSchema1, v1.Manifest{ArtifactType: kind, Layers: []v1.Descriptor{index}})
		about.ArtifactType, manifest.ArtifactType = kind, kind
		m.refs[good.Digest] = append(m.refs[good.Digest], about, manifest)
		m.refs[image.Digest] = append(m.refs[image.Digest], about)
	}
	rule := Rule{Path: "example.com/x"}
	for _, root := range []v1.Descriptor{index, manifest, good, image} {
		for _, p := range []Policy{{}, {Signed: true, Keys: testKeys(t), MaxAge: time.Hour, Forbid: []Rule{rule}}} {
			v, err := Verify(ctx, m, root, p, true)
			if p.Signed && err == nil {
				t.Fatalf("nobody signed it, and it is taken: %+v", v)
			}
		}
		_, _, err := All(ctx, m, root)
		_, err2 := ImageFor(ctx, m, root, platform.Platform{OS: "linux", Arch: "amd64"})
		p, err3 := ReadPrograms(ctx, m, root)
		for _, err := range []error{err, err2, err3} {
			if k := fail.KindOf(err); k == fail.Internal {
				t.Errorf("an error that tells nobody what to do: %v", err)
			}
		}
		if err3 == nil && (strings.Count(p.Start, "/") != 1 || !strings.HasPrefix(p.Start, "app/") || strings.Contains(p.Start, "..")) && !inFolder(p.Start) {
			t.Errorf("it starts %q", p.Start)
		}
	}
}

// FuzzLayout gives foreign bytes as the files of a layout.
func FuzzLayout(f *testing.F) {
	dir := f.TempDir()
	l, err := Create(dir)
	if err != nil {
		f.Fatal(err)
	}
	d, err := l.PutJSON(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex})
	if err != nil {
		f.Fatal(err)
	}
	if err := l.Name(f.Context(), d, nil, "v1"); err != nil {
		f.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`), index)
	f.Add([]byte(`{}`), []byte(`{"manifests":[{"artifactType":"x"},{"digest":"sha256:../../x"}]}`))
	f.Fuzz(func(t *testing.T, version, index []byte) {
		for name, b := range map[string][]byte{layoutFile: version, "index.json": index} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		opened, err := OpenLayout(dir)
		if err != nil && fail.KindOf(err) != fail.Usage {
			t.Errorf("%v", err)
		}
		if err == nil && opened != l {
			t.Errorf("%v", opened)
		}
		if x, err := l.Index(); err == nil {
			for _, m := range x.Manifests {
				if got := filepath.Dir(l.path(m.Digest)); got != filepath.Join(dir, "blobs", "sha256") {
					t.Errorf("%s leads to %s", m.Digest, got)
				}
			}
		} else if fail.KindOf(err) != fail.Usage {
			t.Errorf("%v", err)
		}
		if _, err := l.Find(""); err != nil && fail.KindOf(err) == fail.Internal {
			t.Errorf("%v", err)
		}
		_, _ = l.Referrers(t.Context(), d.Digest)
		_, _ = l.subjects(t.Context(), []v1.Descriptor{d})
	})
}

// FuzzName gives foreign bytes as index.json to what writes the next one.
func FuzzName(f *testing.F) {
	dir := f.TempDir()
	l, err := Create(dir)
	if err != nil {
		f.Fatal(err)
	}
	d, err := l.PutJSON(types.OCIImageIndex, v1.IndexManifest{MediaType: types.OCIImageIndex})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"manifests":[{"digest":"` + d.Digest.String() + `","size":1}]}`))
	f.Add([]byte(`{"manifests":[{},{"artifactType":"x"}]}`))
	f.Fuzz(func(t *testing.T, index []byte) {
		path := filepath.Join(dir, "index.json")
		if err := os.WriteFile(path, index, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Name(t.Context(), d, nil, "v1"); err != nil {
			if now, e := os.ReadFile(path); e != nil || !bytes.Equal(now, index) {
				t.Errorf("%v, and the layout is not what it was: %v %q", err, e, now)
			}
			return
		}
		if got, err := l.Find("v1"); err != nil || got.Digest != d.Digest {
			t.Errorf("%v %v", got, err)
		}
	})
}

// FuzzUnpack gives foreign bytes as a layer's tar, under their right digest.
func FuzzUnpack(f *testing.F) {
	for _, b := range tars(f) {
		f.Add(b)
	}
	parent := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(parent, "into")
		defer os.RemoveAll(dir)
		var err error
		if allocated := grown(func() { err = Unpack(bytes.NewReader(b), sha256Of(b), dir) }); allocated > uint64(4<<20+100*len(b)) {
			t.Errorf("%d bytes of tar made %d bytes of memory", len(b), allocated)
		}
		left, e := os.ReadDir(parent)
		if e != nil {
			t.Fatal(e)
		}
		if err != nil {
			if len(left) != 0 {
				t.Errorf("%v, and it leaves %v", err, left)
			}
			if fail.KindOf(err) != fail.Preflight {
				t.Errorf("an error that tells nobody what to do: %v", err)
			}
			return
		}
		if len(left) != 1 || left[0].Name() != "into" {
			t.Errorf("beside the folder there are %v", left)
		}
		files, e := os.ReadDir(dir)
		if e != nil {
			t.Fatal(e)
		}
		total := int64(0)
		for _, x := range files {
			fi, e := x.Info()
			if e != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o7022 != 0 {
				t.Errorf("%s: %v %v", x.Name(), fi.Mode(), e)
				continue
			}
			total += fi.Size()
		}
		if total > int64(len(b)) {
			t.Errorf("%d bytes of tar made %d bytes on the disk", len(b), total)
		}
		_ = CheckUnpacked(dir, sha256Of(b)) // it may be written otherwise than fairlead does; it must not hang or panic
	})
}

// FuzzLayer gives foreign bytes as a compressed layer.
func FuzzLayer(f *testing.F) {
	kinds := []types.MediaType{types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, "text/plain"}
	plain := bytes.Repeat([]byte("fairlead"), 1000)
	for i, b := range [][]byte{member(nil, plain), encode(nil, plain), plain, nil} {
		f.Add(b, uint8(i))
	}
	f.Add([]byte(nil), uint8(1))
	f.Add(bytes.Repeat(member(nil, make([]byte, 1<<16)), 3), uint8(0))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0}, uint8(1)) // it announces 2^63 bytes
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		m := inMemory{docs: map[v1.Hash][]byte{}}
		d := m.put(kinds[int(kind)%len(kinds)], b)
		var got counter
		var err error
		allocated := grown(func() { err = checkLayer(t.Context(), m, Layer{d, sha256Of(b)}, &limited{&got, 8 << 20}) })
		if allocated > 160<<20 { // two windows of zstd (64 MiB) and what the decoders allocate for themselves
			t.Errorf("%d bytes of layer made %d bytes of memory", len(b), allocated)
		}
		if got > 8<<20 {
			t.Errorf("%d bytes passed the limit", got)
		}
		if err == nil && d.MediaType != types.OCIUncompressedLayer && len(b) > 0 { // nothing is nothing, in zstd too
			t.Errorf("%s: what it holds cannot have its own digest", d.MediaType)
		}
		if k := fail.KindOf(err); err != nil && k != fail.Preflight {
			t.Errorf("%s: %v", k, err)
		}
	})
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// FuzzParseRule holds that what is read is written again, and read as the same.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"std", "std/...", "std@<v1.26.8", "github.com/a/b@>=1.2", "example.com/x/...@=v1.2.3-rc.1+meta", "a@", "@", "a.b/c@<=>v1"} {
		f.Add(s, "v1.2.3")
	}
	f.Fuzz(func(t *testing.T, s, version string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %+v, written as %q, which is %+v (%v)", s, r, r.String(), again, err)
		}
		path := strings.TrimSuffix(r.Path, "/...")
		if r.Op == "" && !r.matches(path, version) {
			t.Errorf("%q does not forbid itself", s)
		}
		low, high := Rule{r.Path, "<", r.Than}, Rule{r.Path, ">=", r.Than}
		if r.Op != "" && low.matches(path, version) == high.matches(path, version) {
			t.Errorf("%q is both below and not below %q", version, r.Than)
		}
		if r.matches(path+"x", version) {
			t.Errorf("%q forbids another module", s)
		}
	})
}

// tars are layers as this program and as nobody friendly writes them.
func tars(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	good := func(entries ...entry) []byte {
		var b bytes.Buffer
		if err := writeTar(&b, entries); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(name string) entry { return entry{name: name, mode: 0o755, data: []byte("#!"), size: 2} }
	out["good"] = good(file("app/svc"))
	out["two programs"] = good(file("app/svc"), file("app/tool"))
	out["none"] = good()
	for name, h := range map[string]tar.Header{
		"above":         {Typeflag: tar.TypeReg, Name: "app/../../x"},
		"above app":     {Typeflag: tar.TypeReg, Name: "app/.."},
		"absolute":      {Typeflag: tar.TypeReg, Name: "/app/x"},
		"elsewhere":     {Typeflag: tar.TypeReg, Name: "etc/passwd"},
		"deeper":        {Typeflag: tar.TypeReg, Name: "app/a/b"},
		"another slash": {Typeflag: tar.TypeReg, Name: `app/..\x`},
		"too long":      {Typeflag: tar.TypeReg, Name: "app/" + strings.Repeat("n", 300)},
		"symlink":       {Typeflag: tar.TypeSymlink, Name: "app/x", Linkname: "/etc/passwd"},
		"hard link":     {Typeflag: tar.TypeLink, Name: "app/x", Linkname: "/etc/passwd"},
		"device":        {Typeflag: tar.TypeBlock, Name: "app/x", Devmajor: 8},
		"pipe":          {Typeflag: tar.TypeFifo, Name: "app/x"},
		"folder":        {Typeflag: tar.TypeDir, Name: "app/x/"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(name, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out[name] = b.Bytes()
	}
	once := good(file("app/svc"))
	out["twice"] = append(bytes.Clone(once[:len(once)-1024]), once...)
	huge := bytes.Clone(good(file("app/svc")))
	copy(huge[512+124:], "77777777777\x00") // the length of the file, in octal: 8 GiB
	checksum(huge[512:1024])
	out["huge"] = huge
	out["holes"] = holes(t)
	return out
}

// checksum puts the right sum into a tar header.
func checksum(header []byte) {
	copy(header[148:], "        ")
	sum := 0
	for _, c := range header[:512] {
		sum += int(c)
	}
	for i := range 6 {
		header[148+5-i] = byte('0' + sum>>(3*i)&7)
	}
	header[154] = 0
}

// holes is a tar of GNU's sparse form 1.0: a file of 1 TiB that has no byte.
func holes(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	records := ""
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=app/svc", "GNU.sparse.realsize=1099511627776"} {
		n := len(kv) + 4 // with its own two digits, a space and the end of the line
		records += strconv.Itoa(n) + " " + kv + "\n"
	}
	block := func(name string, typeflag byte, body string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000755\x000000000\x000000000\x00")
		for i, size := 0, len(body); i < 11; i++ {
			h[124+10-i] = byte('0' + size>>(3*i)&7)
		}
		copy(h[136:], "00000000000\x00")
		h[156] = typeflag
		copy(h[257:], "ustar\x0000")
		checksum(h)
		b.Write(h)
		b.WriteString(body)
		b.Write(make([]byte, (512-len(body)%512)%512))
	}
	block("app/PaxHeaders/svc", tar.TypeXHeader, records)
	block("app/GNUSparseFile.0/svc", tar.TypeReg, "1\n1099511627776\n0\n"+strings.Repeat("\x00", 512-18))
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

// TestHostileTars holds that each of them is refused in words, that nothing is left of it, and that the good ones are taken.
func TestHostileTars(t *testing.T) {
	for name, b := range tars(t) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "into")
			err := Unpack(bytes.NewReader(b), sha256Of(b), dir)
			if name == "good" || name == "two programs" || name == "none" {
				if err != nil || CheckUnpacked(dir, sha256Of(b)) != nil {
					t.Errorf("%v, then %v", err, CheckUnpacked(dir, sha256Of(b)))
				}
				return
			}
			want := map[string]string{"twice": "twice", "huge": "cut off", "holes": "extended form", "too long": "only files in /app"}[name]
			if want == "" {
				want = "only files in /app"
			}
			if fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q", err, want)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it left something: %v", err)
			}
		})
	}
}

// TestBombs holds that a layer of a few kilobytes that unpacks to very much is refused within bounded memory, and where the
// limit says.
func TestBombs(t *testing.T) {
	const limit = 64 << 20
	for _, c := range []struct {
		name string
		t    types.MediaType
		make func(w io.Writer) io.WriteCloser
	}{
		{"zstd", types.OCILayerZStd, func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			return z
		}},
		{"gzip", types.OCILayer, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var bomb bytes.Buffer
			z := c.make(&bomb)
			zero := make([]byte, 1<<20)
			for range 4 * limit / len(zero) {
				if _, err := z.Write(zero); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			m := inMemory{docs: map[v1.Hash][]byte{}}
			d := m.put(c.t, bomb.Bytes())
			var got counter
			var err error
			allocated := grown(func() { err = checkLayer(t.Context(), m, Layer{d, d.Digest}, &limited{&got, limit}) })
			if fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), "more than a layer may") || got > limit {
				t.Errorf("%d bytes became %d: %v", d.Size, got, err)
			}
			if allocated > limit/2 {
				t.Errorf("it took %d bytes of memory", allocated)
			}
		})
	}
}
