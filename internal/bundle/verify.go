package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Verified is what is known of a bundle after it was checked.
type Verified struct {
	Digest    string    `json:"digest"`
	Name      string    `json:"name"`
	Version   string    `json:"version,omitempty"`
	Commit    string    `json:"commit,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	Platforms []string  `json:"platforms"`
	SignedBy  string    `json:"signed_by,omitempty"` // ID of the key; "" when no allowed key signed it
	SignedAt  time.Time `json:"signed_at,omitzero"`
	Source    string    `json:"source,omitempty"`  // of the signed provenance
	Builder   string    `json:"builder,omitempty"` // of the signed provenance
	Modules   int       `json:"modules,omitempty"` // in the SBOMs
	Blobs     int       `json:"blobs"`             // that were read and have their digest
	Bytes     int64     `json:"bytes"`             // of them

	expires  time.Time // of the key
	modules  []sbom.Module
	opaque   []string // the images that no SBOM describes
	unsigned error    // why there is no signature
}

// maxManifests bounds how many images and referrers of one bundle are looked at.
const maxManifests = 256

// Verify reads the bundle at root, checks every document against its digest, looks for a signature by one of the policy's
// keys, and judges by the policy at now. With layers also the layers are read and checked against their digests and
// against what the configuration says is in them; without, they are left to whoever uses them.
// What does not hold gives a [fail.Preflight] that says what and what to do.
func Verify(ctx context.Context, from Blobs, root v1.Descriptor, p Policy, layers bool) (*Verified, error) {
	v := &Verified{Digest: root.Digest.String()}
	images, err := v.index(ctx, from, root)
	if err != nil {
		return nil, err
	}
	w := walk{from: from, v: v, layers: layers, keyed: len(p.Keys) > 0, seen: map[v1.Hash]bool{}, at: p.at(time.Now())}
	for _, img := range images {
		if err := w.image(ctx, img); err != nil {
			return nil, err
		}
	}
	signed, err := w.signatures(ctx, root, p.Keys)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if err := w.sboms(ctx, img, signed); err != nil {
			return nil, err
		}
	}
	v.Modules = len(v.modules)
	return v, p.judge(v, time.Now())
}

// index reads the root: an image index, or one image.
func (v *Verified) index(ctx context.Context, from Blobs, root v1.Descriptor) ([]v1.Descriptor, error) {
	if root.MediaType.IsImage() {
		return []v1.Descriptor{root}, nil
	}
	var x v1.IndexManifest
	if err := Document(ctx, from, root, &x); err != nil {
		return nil, err
	}
	if !x.MediaType.IsIndex() || len(x.Manifests) == 0 || len(x.Manifests) > maxManifests {
		return nil, fail.New(fail.Preflight, "", "%s is no image index with images (%d of type %q)", root.Digest, len(x.Manifests), x.MediaType)
	}
	v.Blobs, v.Bytes = 1, root.Size
	v.Name, v.Version = x.Annotations["org.opencontainers.image.title"], x.Annotations["org.opencontainers.image.version"]
	v.Commit = x.Annotations["org.opencontainers.image.revision"]
	v.Created, _ = time.Parse(time.RFC3339, x.Annotations[createdKey])
	var images []v1.Descriptor
	for _, d := range x.Manifests {
		if d.MediaType.IsImage() {
			images = append(images, d)
		}
	}
	if len(images) == 0 {
		return nil, fail.New(fail.Preflight, "", "%s is an image index that names no image", root.Digest)
	}
	return images, nil
}

type walk struct {
	from   Blobs
	v      *Verified
	layers bool
	keyed  bool             // only what an allowed key signed is believed
	seen   map[v1.Hash]bool // layers that were read
	at     time.Time        // when keys must be valid
}

func (w *walk) document(ctx context.Context, d v1.Descriptor, out any) error {
	if err := Document(ctx, w.from, d, out); err != nil {
		return err
	}
	w.v.Blobs++
	w.v.Bytes += d.Size
	return nil
}

func (w *walk) image(ctx context.Context, d v1.Descriptor) error {
	var m v1.Manifest
	if err := w.document(ctx, d, &m); err != nil {
		return err
	}
	var c v1.ConfigFile
	if err := w.document(ctx, m.Config, &c); err != nil {
		return err
	}
	pl := v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion} // c.Platform() is nil where there is none
	if pl.OS == "" || pl.Architecture == "" {
		return fail.New(fail.Preflight, "", "the image %s does not say for which platform it is", d.Digest)
	}
	if d.Platform != nil && (d.Platform.OS != pl.OS || d.Platform.Architecture != pl.Architecture) {
		return fail.New(fail.Preflight, "", "the index says that %s is for %s, the image itself says %s", d.Digest, d.Platform, pl)
	}
	w.v.Platforms = append(w.v.Platforms, pl.String())
	if len(m.Layers) != len(c.RootFS.DiffIDs) {
		return fail.New(fail.Preflight, "", "the image %s has %d layers and tells of %d", d.Digest, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	if !w.layers {
		return nil
	}
	for i, l := range m.Layers {
		if w.seen[l.Digest] {
			continue
		}
		w.seen[l.Digest] = true
		if err := CheckLayer(ctx, w.from, Layer{l, c.RootFS.DiffIDs[i]}, io.Discard); err != nil {
			return err
		}
		w.v.Blobs++
		w.v.Bytes += l.Size
	}
	return nil
}

// CheckLayer reads a layer, writes its tar to w and holds both forms against their digests. What was written before an
// error must not be used.
func CheckLayer(ctx context.Context, from Blobs, l Layer, w io.Writer) error {
	return checkLayer(ctx, from, l, &limited{w, maxUnpacked})
}

// limited takes a number of bytes and no more: a few kilobytes of a layer may unpack to terabytes.
type limited struct {
	w    io.Writer
	left int64
}

var errLimit = errors.New("it unpacks to more than a layer may")

// Write implements [io.Writer].
func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errLimit
	}
	return l.w.Write(p)
}

func checkLayer(ctx context.Context, from Blobs, l Layer, w io.Writer) error {
	r, err := from.Open(ctx, l.Descriptor)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := newSum(io.LimitReader(stopping{ctx, r}, l.Size+1))
	z, err := Decompress(l.MediaType, sum)
	if err != nil {
		return fail.New(fail.Preflight, "", "the layer %s cannot be unpacked: %w", l.Digest, err)
	}
	defer z.Close()
	diff := newSum(z)
	_, err = io.Copy(w, diff)
	if _, e := io.Copy(io.Discard, sum); err == nil && e != nil { // what may stand behind the last frame
		err = e
	}
	switch got := sum.hash(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case sum.n != l.Size:
		return fail.New(fail.Preflight, "", "the layer %s is %s", l.Digest, wrongSize(sum.n, l.Size))
	case got != l.Digest:
		return tampered(l.Digest, got.Hex)
	case err != nil:
		return fail.New(fail.Preflight, "", "the layer %s cannot be unpacked: %w", l.Digest, err)
	case diff.hash() != l.DiffID:
		return fail.New(fail.Preflight, "", "the layer %s holds %s, its image says %s", l.Digest, diff.hash(), l.DiffID)
	}
	return nil
}

// stopping ends reading when ctx is done.
type stopping struct {
	ctx context.Context
	r   io.Reader
}

// Read implements [io.Reader].
func (s stopping) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// signatures looks among what hangs on the index for statements that an allowed key signed, and returns the provenance.
// What a key signed that is not valid any more counts only where nothing else is.
func (w *walk) signatures(ctx context.Context, root v1.Descriptor, keys []sign.Public) (*provenance, error) {
	refs, err := w.from.Referrers(ctx, root.Digest)
	if err != nil {
		return nil, err
	}
	var all []signed
	w.v.unsigned = fail.New(fail.Preflight, "", "nothing vouches for %s: it has no signature", root.Digest)
	for _, r := range refs[:min(len(refs), maxManifests)] {
		if r.ArtifactType != sign.BundleType {
			continue
		}
		body, err := w.attached(ctx, r)
		if err != nil {
			return nil, err
		}
		st, key, err := sign.Verify(body, keys)
		if err != nil {
			w.v.unsigned = err
			continue
		}
		if !st.Has(root.Digest.String()) {
			w.v.unsigned = fail.New(fail.Preflight, "", "a signature hangs on %s that is over something else", root.Digest)
			continue
		}
		if st.PredicateType != SignatureV1 && st.PredicateType != ProvenanceV1 {
			// It may say that tests failed: an allowed key is behind it, and nobody released anything with it.
			w.v.unsigned = fail.New(fail.Preflight, "", "what is signed on %s is a statement of type %q and no signature", root.Digest, st.PredicateType)
			continue
		}
		all = append(all, signed{st, key})
	}
	if slices.ContainsFunc(all, w.valid) {
		all = slices.DeleteFunc(all, func(s signed) bool { return !w.valid(s) })
	}
	return w.believe(root, all)
}

// signed is a statement and the allowed key that signed it.
type signed struct {
	statement sign.Statement
	key       sign.Public
}

func (w *walk) valid(s signed) bool { return s.key.Expires.IsZero() || !w.at.After(s.key.Expires) }

// believe takes what signed statements say.
func (w *walk) believe(root v1.Descriptor, all []signed) (*provenance, error) {
	var prov *provenance
	for _, x := range all {
		w.v.SignedBy, w.v.expires = x.key.ID, x.key.Expires
		if x.statement.PredicateType == ProvenanceV1 {
			prov = new(provenance)
			if err := json.Unmarshal(x.statement.Predicate, prov); err != nil {
				return nil, fail.New(fail.Preflight, "", "the provenance of %s cannot be read: %w", root.Digest, err)
			}
			continue
		}
		var s struct{ SignedAt time.Time }
		if json.Unmarshal(x.statement.Predicate, &s) == nil && s.SignedAt.After(w.v.SignedAt) {
			w.v.SignedAt = s.SignedAt
		}
	}
	if prov != nil {
		w.v.Builder = prov.Run.Builder.ID
		for _, d := range prov.Definition.Dependencies {
			if d.Name == "source" {
				w.v.Source = fmt.Sprintf("%s@%s", d.URI, d.Digest["gitCommit"])
			}
		}
	}
	return prov, nil
}

// attached reads what a referrer carries.
func (w *walk) attached(ctx context.Context, ref v1.Descriptor) ([]byte, error) {
	var m v1.Manifest
	if err := w.document(ctx, ref, &m); err != nil {
		return nil, err
	}
	if len(m.Layers) != 1 {
		return nil, fail.New(fail.Preflight, "", "the referrer %s carries %d documents, not one", ref.Digest, len(m.Layers))
	}
	var b []byte
	return b, w.document(ctx, m.Layers[0], &b)
}

// sboms reads the CycloneDX document of an image. Where keys are given, a signed provenance must name the document: an SBOM
// that somebody hung there later says nothing.
func (w *walk) sboms(ctx context.Context, img v1.Descriptor, signed *provenance) error {
	described := false
	defer func() {
		if !described {
			w.v.opaque = append(w.v.opaque, img.Digest.String())
		}
	}()
	if w.keyed && signed == nil {
		return nil
	}
	refs, err := w.from.Referrers(ctx, img.Digest)
	if err != nil {
		return err
	}
	for _, r := range refs[:min(len(refs), maxManifests)] {
		if r.ArtifactType != sbom.CycloneDXType {
			continue
		}
		b, err := w.attached(ctx, r)
		if err != nil {
			return err
		}
		if signed != nil && !signed.names(b) {
			continue
		}
		mods, err := sbom.Read(b)
		if err != nil {
			return fail.New(fail.Preflight, "", "the SBOM of %s cannot be read: %w", img.Digest, err)
		}
		described = described || len(mods) > 0
		for _, m := range mods {
			if !slices.Contains(w.v.modules, m) {
				w.v.modules = append(w.v.modules, m)
			}
		}
	}
	return nil
}

func (p *provenance) names(document []byte) bool {
	h := sha256Of(document)
	return slices.ContainsFunc(p.Run.Byproducts, func(r resource) bool { return r.Digest["sha256"] == h.Hex })
}

// Find returns what a reference within a layout means: a digest, a name (org.opencontainers.image.ref.name) or, for "",
// the newest bundle.
func (l Layout) Find(ref string) (v1.Descriptor, error) {
	x, err := l.Index()
	if err != nil {
		return v1.Descriptor{}, err
	}
	var names []string
	for _, d := range x.Manifests {
		if d.ArtifactType != "" {
			continue
		}
		name := d.Annotations[annotationRef]
		if ref == "" || ref == name || ref == d.Digest.String() {
			return d, nil
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return v1.Descriptor{}, fail.New(fail.NotFound, "", "%s has no image", l.Dir).Hinted("`fairlead build` makes one")
	}
	return v1.Descriptor{}, fail.New(fail.NotFound, "", "%s has no image %q; it has %v", l.Dir, ref, names)
}

// All lists the blobs that make up the bundle at root: the documents first, layers behind them, referrers and the root last, so
// that whoever copies them in this order never names what is not there yet.
func All(ctx context.Context, from Blobs, root v1.Descriptor) (blobs, manifests []v1.Descriptor, err error) {
	images := []v1.Descriptor{root}
	if root.MediaType.IsIndex() {
		var x v1.IndexManifest
		if err := Document(ctx, from, root, &x); err != nil {
			return nil, nil, err
		}
		if len(x.Manifests) > maxManifests {
			return nil, nil, fail.New(fail.Preflight, "", "%s names %d images; at most %d are looked at", root.Digest, len(x.Manifests), maxManifests)
		}
		images = x.Manifests
	}
	c := collector{from: from, seen: map[v1.Hash]bool{}}
	for _, img := range images {
		if err := c.manifest(ctx, img); err != nil {
			return nil, nil, err
		}
	}
	if root.MediaType.IsIndex() {
		c.manifests = append(c.manifests, root)
	}
	for _, subject := range append(slices.Clone(images), root) {
		refs, err := from.Referrers(ctx, subject.Digest)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range refs[:min(len(refs), maxManifests)] {
			if err := c.manifest(ctx, r); err != nil {
				return nil, nil, err
			}
		}
	}
	return c.blobs, c.manifests, nil
}

type collector struct {
	from             Blobs
	seen             map[v1.Hash]bool
	blobs, manifests []v1.Descriptor
}

func (c *collector) manifest(ctx context.Context, d v1.Descriptor) error {
	if c.seen[d.Digest] {
		return nil
	}
	c.seen[d.Digest] = true
	var m v1.Manifest
	if err := Document(ctx, c.from, d, &m); err != nil {
		return err
	}
	if d.MediaType == "" {
		d.MediaType = types.OCIManifestSchema1
	}
	for _, b := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if !c.seen[b.Digest] {
			c.seen[b.Digest] = true
			c.blobs = append(c.blobs, b)
		}
	}
	c.manifests = append(c.manifests, d)
	return nil
}
