package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
)

// maxDocument is the longest manifest, configuration or statement that is read into memory, in bytes. Registries refuse
// manifests above 4 MiB (distribution specification); a statement names every module of a large program and is shorter.
const maxDocument = 8 << 20

// Blobs gives content by its digest, from a folder or from a registry. What is read must be checked by the reader, as
// [Document] and [Copy] do.
type Blobs interface {
	// Open returns a blob's bytes, which the caller closes. A blob that is not there gives a [fail.NotFound].
	Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// Referrers lists the manifests whose subject is digest.
	Referrers(ctx context.Context, digest v1.Hash) ([]v1.Descriptor, error)
}

// Layout is an OCI image layout: a folder with an index and blobs named by their digest
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md). Several processes may use one at once.
type Layout struct{ Dir string }

const layoutFile = "oci-layout"

// Create makes dir a layout, unless it is one.
func Create(dir string) (Layout, error) {
	l := Layout{dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return l, noSpace(err)
	}
	if _, err := os.Stat(filepath.Join(dir, layoutFile)); err == nil {
		return l, nil
	}
	if err := home.WriteFile(filepath.Join(dir, layoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return l, noSpace(err)
	}
	return l, nil
}

// OpenLayout returns the layout at dir; what is none gives a [fail.Usage].
func OpenLayout(dir string) (Layout, error) {
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	err := home.ReadJSON(filepath.Join(dir, layoutFile), &v)
	if err != nil {
		return Layout{}, fail.New(fail.Usage, "", "%s is not an OCI image layout: %w", dir, err).Hinted("`fairlead build -o DIR` writes one")
	}
	if v.Version != "1.0.0" {
		return Layout{}, fail.New(fail.Usage, "", "%s is an OCI image layout of version %q; 1.0.0 is known", dir, v.Version)
	}
	return Layout{dir}, nil
}

func (l Layout) path(h v1.Hash) string { return filepath.Join(l.Dir, "blobs", h.Algorithm, h.Hex) }

// Has reports whether a blob of this digest and size is there. It does not read it.
func (l Layout) Has(d v1.Descriptor) bool {
	fi, err := os.Stat(l.path(d.Digest))
	return err == nil && fi.Size() == d.Size
}

// Open implements [Blobs].
func (l Layout) Open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	f, err := os.Open(l.path(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail.New(fail.NotFound, "", "the blob %s is missing in %s", d.Digest, l.Dir)
	}
	return f, err
}

// Index reads index.json.
func (l Layout) Index() (*v1.IndexManifest, error) {
	b, err := os.ReadFile(filepath.Join(l.Dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return nil, err
	}
	x := new(v1.IndexManifest)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fail.New(fail.Usage, "", "%s: index.json cannot be read: %w", l.Dir, err)
	}
	for _, d := range x.Manifests {
		if err := checkDigest(d.Digest); err != nil {
			return nil, fail.New(fail.Usage, "", "%s: index.json names something by no digest: %w", l.Dir, err)
		}
	}
	return x, nil
}

// SetIndex replaces index.json in one step. It is the last thing that is written: until then the layout is what it was.
func (l Layout) SetIndex(x *v1.IndexManifest) error {
	return noSpace(home.WriteJSON(filepath.Join(l.Dir, "index.json"), x, 0o644))
}

// Referrers implements [Blobs]: a layout lists them in index.json, where every manifest stands that nothing else names.
func (l Layout) Referrers(ctx context.Context, digest v1.Hash) ([]v1.Descriptor, error) {
	x, err := l.Index()
	if err != nil {
		return nil, err
	}
	var out []v1.Descriptor
	for _, d := range x.Manifests {
		if d.ArtifactType == "" {
			continue
		}
		var m v1.Manifest
		if err := Document(ctx, l, d, &m); err != nil {
			return nil, err
		}
		if m.Subject != nil && m.Subject.Digest == digest {
			out = append(out, d)
		}
	}
	return out, nil
}

// Put writes a small blob and describes it.
func (l Layout) Put(mediaType types.MediaType, b []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Size: int64(len(b)), Digest: sha256Of(b)}
	if l.Has(d) {
		return d, nil
	}
	w, err := l.NewBlob()
	if err != nil {
		return d, err
	}
	defer w.Abort()
	if _, err := w.Write(b); err != nil {
		return d, err
	}
	return w.Commit(mediaType)
}

// PutJSON is [Layout.Put] of v as JSON.
func (l Layout) PutJSON(mediaType types.MediaType, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return l.Put(mediaType, b)
}

// BlobWriter takes a blob whose digest is known only at its end.
type BlobWriter struct {
	layout Layout
	f      *os.File
	h      hash.Hash
	n      int64
}

// NewBlob begins a blob. It must be ended with Commit or Abort.
func (l Layout) NewBlob() (*BlobWriter, error) {
	f, err := os.CreateTemp(filepath.Join(l.Dir, "blobs", "sha256"), ".part-*")
	if err != nil {
		return nil, noSpace(err)
	}
	return &BlobWriter{layout: l, f: f, h: sha256.New()}, nil
}

// Write implements [io.Writer].
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.h.Write(p[:n])
	w.n += int64(n)
	return n, noSpace(err)
}

// Abort drops what was written; after Commit it does nothing.
func (w *BlobWriter) Abort() {
	w.f.Close()
	os.Remove(w.f.Name())
}

// Commit gives the blob its name and describes it.
func (w *BlobWriter) Commit(mediaType types.MediaType) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Size: w.n, Digest: hashOf(w.h)}
	defer w.Abort()
	err := w.f.Chmod(0o644)
	if err == nil {
		err = w.f.Close()
	}
	if err == nil {
		err = os.Rename(w.f.Name(), w.layout.path(d.Digest))
	}
	return d, noSpace(err)
}

// Take stores a blob that comes from outside under the digest it was announced with. What does not have it, or is longer
// or shorter than announced, gives a [fail.Preflight] and leaves nothing behind.
func (l Layout) Take(d v1.Descriptor, r io.Reader) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	w, err := l.NewBlob()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.LimitReader(r, d.Size+1)); err != nil {
		return err
	}
	if w.n != d.Size {
		return fail.New(fail.Preflight, "", "the blob %s is %s", d.Digest, wrongSize(w.n, d.Size))
	}
	if got := hashOf(w.h); got != d.Digest {
		return tampered(d.Digest, got.Hex)
	}
	_, err = w.Commit(d.MediaType)
	return err
}

// CopyImage brings one image, its configuration and its layers into a layout, which does not name it yet.
func CopyImage(ctx context.Context, from Blobs, manifest v1.Descriptor, to Layout) error {
	var m v1.Manifest
	if err := Document(ctx, from, manifest, &m); err != nil {
		return err
	}
	return copyBlobs(ctx, from, append(append([]v1.Descriptor{m.Config}, m.Layers...), manifest), to)
}

// Copy brings a bundle and what hangs on it into a layout, under the name it has.
func Copy(ctx context.Context, from Layout, root v1.Descriptor, to Layout) error {
	blobs, manifests, err := All(ctx, from, root)
	if err != nil {
		return err
	}
	if err := copyBlobs(ctx, from, append(blobs, manifests...), to); err != nil {
		return err
	}
	return to.Name(ctx, root, Attached(manifests), root.Annotations[annotationRef])
}

// Attached are those of a bundle's manifests that are about others.
func Attached(manifests []v1.Descriptor) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(manifests), func(m v1.Descriptor) bool { return m.ArtifactType == "" })
}

func copyBlobs(ctx context.Context, from Blobs, all []v1.Descriptor, to Layout) error {
	for _, d := range all {
		if to.Has(d) {
			continue
		}
		r, err := from.Open(ctx, d)
		if err != nil {
			return err
		}
		if err := errors.Join(to.Take(d, r), r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func wrongSize(got, want int64) string {
	if got > want {
		return fmt.Sprintf("longer than the %d bytes its descriptor says", want)
	}
	return fmt.Sprintf("cut off: %d of %d bytes", got, want)
}

func tampered(h v1.Hash, got string) error {
	return fail.New(fail.Preflight, "", "the blob %s was changed: its content has the digest sha256:%s", h, got).
		Hinted("fetch or build the bundle again; what stands there is not what its digest says")
}

var hexForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checkDigest refuses digests that are not plain sha256: they become file names.
func checkDigest(h v1.Hash) error {
	if h.Algorithm != "sha256" || !hexForm.MatchString(h.Hex) {
		return fail.New(fail.Usage, "", "%q is not a sha256 digest", h.String())
	}
	return nil
}

// Document reads a small blob, checks it against its descriptor and decodes it into v (a *[]byte takes it as it is).
func Document(ctx context.Context, from Blobs, d v1.Descriptor, v any) error {
	if d.Size > maxDocument || d.Size < 0 {
		return fail.New(fail.Preflight, "", "%s is %d bytes long; a document has at most %d", d.Digest, d.Size, maxDocument)
	}
	r, err := from.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return err
	}
	if int64(len(b)) != d.Size {
		return fail.New(fail.Preflight, "", "the blob %s is %s", d.Digest, wrongSize(int64(len(b)), d.Size))
	}
	if got := sha256Of(b); got != d.Digest {
		return tampered(d.Digest, got.Hex)
	}
	if raw, ok := v.(*[]byte); ok {
		*raw = b
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return fail.New(fail.Preflight, "", "%s (%s) cannot be read: %w", d.Digest, d.MediaType, err)
	}
	return nil
}

// noSpace says what to do about a full disk.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fail.New(fail.Preflight, "write the image", "%w", err).Hinted("free some space, or point the user cache folder ($XDG_CACHE_HOME) to a larger disk; nothing was left half done")
	}
	return err
}
