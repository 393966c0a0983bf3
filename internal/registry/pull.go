package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Open implements [bundle.Blobs]: manifests and blobs alike.
func (r *Remote) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if isManifest(d) {
		_, b, err := r.manifest(ctx, d.Digest.String())
		return io.NopCloser(bytes.NewReader(b)), r.explain("fetch "+d.Digest.String(), err)
	}
	var body io.ReadCloser
	err := retry(ctx, func() error {
		var err error
		body, _, err = r.blob(ctx, d, 0)
		return err
	})
	return body, r.explain("fetch "+d.Digest.String(), err)
}

func isManifest(d v1.Descriptor) bool { return d.MediaType.IsImage() || d.MediaType.IsIndex() }

// blob begins to fetch a blob from an offset on, and says from where the registry really sends it.
func (r *Remote) blob(ctx context.Context, d v1.Descriptor, from int64) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url("blobs", d.Digest.String()), nil)
	if err != nil {
		return nil, 0, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, d.Size-1)) // some registries know no open range
	}
	res, err := r.do(req, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, 0, err
	}
	if res.StatusCode == http.StatusOK {
		from = 0
	}
	return res.Body, from, nil
}

// Referrers implements [bundle.Blobs], by the referrers API or, where the registry has none, by the tag that stands for it
// ("Listing Referrers" and "Unavailable Referrers API" of the distribution specification).
func (r *Remote) Referrers(ctx context.Context, digest v1.Hash) ([]v1.Descriptor, error) {
	var x v1.IndexManifest
	err := retry(ctx, func() error {
		body, _, err := r.document(ctx, r.url("referrers", digest.String()))
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &x)
	})
	if err == nil {
		return x.Manifests, r.typed(ctx, x.Manifests)
	}
	if p, ok := errors.AsType[*problem](err); !ok || p.status != http.StatusNotFound && p.status != http.StatusBadRequest && p.status != http.StatusMethodNotAllowed {
		return nil, r.explain("list what refers to "+digest.String(), err)
	}
	fallback, err := r.fallback(ctx, digest)
	return fallback.Manifests, r.explain("list what refers to "+digest.String(), err)
}

// typed asks the manifests themselves what they are, where a registry lists them by the type of their empty configuration.
func (r *Remote) typed(ctx context.Context, all []v1.Descriptor) error {
	for i, d := range all {
		if d.ArtifactType != "" && d.ArtifactType != bundle.EmptyType {
			continue
		}
		var m v1.Manifest
		if err := bundle.Document(ctx, r, d, &m); err != nil {
			return err
		}
		all[i].ArtifactType, all[i].Annotations = m.ArtifactType, m.Annotations
	}
	return nil
}

func fallbackTag(digest v1.Hash) string { return digest.Algorithm + "-" + digest.Hex }

func (r *Remote) fallback(ctx context.Context, digest v1.Hash) (v1.IndexManifest, error) {
	var x v1.IndexManifest
	_, b, err := r.manifest(ctx, fallbackTag(digest))
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusNotFound {
		return x, nil
	}
	if err != nil {
		return x, err
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fail.New(fail.Preflight, "", "the list under the tag %s cannot be read: %w", fallbackTag(digest), err)
	}
	return x, nil
}

// jobs is how many blobs travel at once.
const jobs = 4

// transfer moves each blob of the bundle at root, some at once, and returns the bundle's manifests, which come after them.
func (r *Remote) transfer(ctx context.Context, from bundle.Blobs, root v1.Descriptor, what string, move func(context.Context, v1.Descriptor) error) ([]v1.Descriptor, error) {
	blobs, manifests, err := bundle.All(ctx, from, root)
	if err != nil {
		return nil, err
	}
	r.total(blobs)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for _, b := range blobs {
		g.Go(func() error { return r.explain(what+b.Digest.String(), move(gctx, b)) })
	}
	return manifests, g.Wait()
}

// Pull fetches the bundle at root with all that hangs on it into a layout, which names it last: until then it is what it
// was. What an earlier pull fetched is not fetched again.
func (r *Remote) Pull(ctx context.Context, root v1.Descriptor, to bundle.Layout) error {
	manifests, err := r.transfer(ctx, r, root, "fetch ", func(ctx context.Context, b v1.Descriptor) error { return r.fetch(ctx, b, to) })
	if err != nil {
		return err
	}
	for _, m := range manifests {
		in, err := r.Open(ctx, m)
		if err != nil {
			return err
		}
		if err := errors.Join(to.Take(m, in), in.Close()); err != nil {
			return err
		}
	}
	return to.Name(ctx, root, bundle.Attached(manifests), r.ref.Tag)
}

// fetch gets one blob, from where an earlier attempt broke off.
func (r *Remote) fetch(ctx context.Context, d v1.Descriptor, to bundle.Layout) error {
	if to.Has(d) {
		r.progress(d.Size)
		return nil
	}
	dir := filepath.Join(to.Dir, ".partial")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, d.Digest.Hex)
	if err := retry(ctx, func() error { return r.fetchPart(ctx, d, path) }); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = errors.Join(to.Take(d, f), f.Close())
	return errors.Join(err, os.Remove(path)) // a part that turned out wrong must not be gone on with
}

func (r *Remote) fetchPart(ctx context.Context, d v1.Descriptor, path string) error {
	have := int64(0)
	if fi, err := os.Stat(path); err == nil {
		have = fi.Size()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if have == d.Size {
		return nil
	}
	if have > d.Size {
		have = 0
	}
	body, from, err := r.blob(ctx, d, have)
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusRequestedRangeNotSatisfiable {
		body, from, err = r.blob(ctx, d, 0) // it knows no ranges at all
	}
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(from); err != nil {
		return err
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(counted{body, r}, d.Size-from+1))
	if err != nil {
		return err
	}
	if from+n < d.Size {
		return io.ErrUnexpectedEOF
	}
	return f.Close()
}

// counted tells progress of what is read through it.
type counted struct {
	in io.Reader
	r  *Remote
}

// Read implements [io.Reader].
func (c counted) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.r.progress(int64(n))
	return n, err
}
