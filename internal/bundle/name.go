package bundle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var notTag = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

// tagOf makes a tag of a version: "+" and other marks that tags may not have become dashes.
func tagOf(version string) string {
	t := strings.TrimLeft(notTag.ReplaceAllString(version, "-"), ".-")
	if t == "" {
		return "latest"
	}
	return t[:min(len(t), 128)]
}

// keptBundles is how many versions of a service a layout names: the newest first, for deltas and for going back.
const keptBundles = 6

// Name puts a bundle at the head of index.json, with what hangs on it. Older ones follow under their digests; what is too
// old is not named any more, and its blobs are removed.
func (l Layout) Name(ctx context.Context, root v1.Descriptor, referrers []v1.Descriptor, tag string) error {
	old, err := l.Index()
	if err != nil {
		return err
	}
	if tag == "" {
		tag = "latest"
	}
	root.Annotations = map[string]string{annotationRef: tag}
	next := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append([]v1.Descriptor{root}, referrers...)}
	if len(old.Manifests) > len(referrers) && keyOf(old.Manifests[:len(next.Manifests)]) == keyOf(next.Manifests) {
		return nil
	}
	bundles := []v1.Descriptor{root}
	for _, d := range old.Manifests {
		if d.ArtifactType != "" || d.Digest == root.Digest || len(bundles) == keptBundles {
			continue
		}
		d.Annotations = map[string]string{annotationRef: d.Digest.Hex[:12]}
		bundles = append(bundles, d)
		next.Manifests = append(next.Manifests, d)
	}
	subjects, err := l.subjects(ctx, bundles)
	if err != nil {
		return err
	}
	for _, d := range old.Manifests {
		if d.ArtifactType == "" || slices.ContainsFunc(referrers, func(r v1.Descriptor) bool { return r.Digest == d.Digest }) {
			continue
		}
		var m v1.Manifest
		if Document(ctx, l, d, &m) == nil && m.Subject != nil && subjects[m.Subject.Digest] {
			next.Manifests = append(next.Manifests, d)
		}
	}
	if err := l.SetIndex(&next); err != nil {
		return err
	}
	return l.sweep(ctx, bundles)
}

// subjects are the bundles and their images: what referrers may be about.
func (l Layout) subjects(ctx context.Context, bundles []v1.Descriptor) (map[v1.Hash]bool, error) {
	out := map[v1.Hash]bool{}
	for _, b := range bundles {
		out[b.Digest] = true
		if !b.MediaType.IsIndex() {
			continue
		}
		var x v1.IndexManifest
		if err := Document(ctx, l, b, &x); err != nil {
			return nil, err
		}
		for _, m := range x.Manifests {
			out[m.Digest] = true
		}
	}
	return out, nil
}

// unnamed is how long a blob that no bundle names is left alone: somebody may be about to name it.
const unnamed = time.Hour

// sweep removes the blobs that none of the bundles needs. It looks at every manifest that there is, so it does that at most
// as often as there can be something new to remove.
func (l Layout) sweep(ctx context.Context, bundles []v1.Descriptor) error {
	var last time.Time
	if l.Recall("swept", &last) && time.Since(last).Abs() < unnamed {
		return nil
	}
	l.Remember("swept", time.Now()) // a disk that is full has all the more need of it
	needed := map[string]bool{}
	for _, b := range bundles {
		blobs, manifests, err := All(ctx, l, b)
		if err != nil {
			return nil //nolint:nilerr // something is missing: no time to remove more
		}
		for _, d := range append(append(blobs, manifests...), b) {
			needed[d.Digest.Hex] = true
		}
	}
	dir := filepath.Join(l.Dir, "blobs", "sha256")
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		fi, err := f.Info()
		if err != nil || needed[f.Name()] || time.Since(fi.ModTime()) < unnamed {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
