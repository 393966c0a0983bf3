// Package depot is what a machine has of artifacts: the documents of each bundle, the programs of its own platform
// unpacked, and when it accepted them under which policy.
//
// A bundle comes in two steps. First its documents, which are small and tell whether the machine takes it at all; then the
// one layer with the programs, and of that only what is missing.
package depot

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/inspect"
)

// Depot is a machine's store of artifacts. Several calls may work on it at once.
type Depot struct{ dirs home.Dirs }

// At returns the depot of a machine.
func At(d home.Dirs) Depot { return Depot{d} }

// Offer announces a bundle.
type Offer struct {
	Root      v1.Descriptor              `json:"root"`      // the image index
	Documents map[string][]byte          `json:"documents"` // every manifest, configuration and statement, by digest
	Attached  map[string][]v1.Descriptor `json:"attached"`  // what hangs on the index and on each image
}

// NewOffer reads the documents of the bundle at root.
func NewOffer(ctx context.Context, from bundle.Blobs, root v1.Descriptor) (Offer, error) {
	o := Offer{Root: root, Documents: map[string][]byte{}, Attached: map[string][]v1.Descriptor{}}
	blobs, manifests, err := bundle.All(ctx, from, root)
	if err != nil {
		return o, err
	}
	subjects := map[string]v1.Hash{root.Digest.String(): root.Digest}
	for _, b := range append(blobs, manifests...) {
		if b.MediaType.IsLayer() {
			continue
		}
		var body []byte
		if err := bundle.Document(ctx, from, b, &body); err != nil {
			return o, err
		}
		o.Documents[b.Digest.String()] = body
		if b.MediaType.IsImage() && b.ArtifactType == "" {
			subjects[b.Digest.String()] = b.Digest
		}
	}
	for name, h := range subjects {
		if o.Attached[name], err = from.Referrers(ctx, h); err != nil {
			return o, err
		}
	}
	return o, nil
}

// maxDocuments bounds what an offer brings, in bytes.
const maxDocuments = 32 << 20

// Wanted says what the machine lacks.
type Wanted struct {
	Platform string       `json:"platform"` // the image it chose
	Image    string       `json:"image"`    // digest of its manifest
	Layer    bundle.Layer `json:"layer"`    // the programs
	Has      bool         `json:"has"`      // nothing needs to be sent
	Bases    []string     `json:"bases"`    // layers (by the digest of their tar) that a delta may start from, newest first
	SignedBy string       `json:"signed_by,omitempty"`
}

// record is what is kept of an accepted bundle.
type record struct {
	Offer
	Wanted
	Start    string    `json:"start"` // the program that is started
	Accepted time.Time `json:"accepted"`
}

func (d Depot) recordPath(digest string) (string, error) {
	h, err := v1.NewHash(digest)
	if err != nil || h.Algorithm != "sha256" {
		return "", fail.New(fail.Usage, "", "%q is not a sha256 digest", digest)
	}
	return filepath.Join(d.dirs.Artifacts(), h.Hex+".json"), nil
}

func (d Depot) layerDir(diff v1.Hash) string {
	return filepath.Join(d.dirs.Layers(), diff.Hex)
}

// Take looks at an offer and keeps it, or says why the machine does not take it: a digest that does not hold or a policy
// that refuses gives a [fail.Preflight].
func (d Depot) Take(ctx context.Context, o Offer, p bundle.Policy) (Wanted, error) {
	var w Wanted
	path, err := d.recordPath(o.Root.Digest.String())
	if err != nil {
		return w, err
	}
	total := 0
	for _, b := range o.Documents {
		if total += len(b); total > maxDocuments {
			return w, fail.New(fail.Usage, "", "the bundle's documents have more than %d bytes", maxDocuments)
		}
	}
	r := record{Offer: o, Accepted: time.Now()}
	var old record
	if home.ReadJSON(path, &old) == nil {
		r.Accepted = old.Accepted
		p.Accepted = old.Accepted
	}
	if err := r.choose(ctx, p); err != nil {
		return w, err
	}
	if _, err := os.Stat(d.layerDir(r.Layer.DiffID)); err == nil {
		r.Has = true
	}
	if r.Bases, err = d.bases(r.Layer.DiffID); err != nil {
		return w, err
	}
	return r.Wanted, home.WriteJSON(path, r, 0o600)
}

// choose verifies the bundle and picks the image for this machine.
func (r *record) choose(ctx context.Context, p bundle.Policy) error {
	v, err := bundle.Verify(ctx, r.Offer, r.Root, p, false)
	if err != nil {
		return err
	}
	r.SignedBy = v.SignedBy
	img, err := r.best(ctx)
	if err != nil {
		return err
	}
	programs, err := bundle.ReadPrograms(ctx, r.Offer, img)
	if err != nil {
		return err
	}
	r.Platform, r.Image, r.Layer, r.Start = img.Platform.String(), img.Digest.String(), programs.Layer, filepath.Base(programs.Start)
	return nil
}

// best is the image for this machine's system and architecture; of several, the one for the highest level its processor has.
func (r *record) best(ctx context.Context) (v1.Descriptor, error) {
	var x v1.IndexManifest
	if err := bundle.Document(ctx, r.Offer, r.Root, &x); err != nil {
		return v1.Descriptor{}, err
	}
	var fit []v1.Descriptor
	var have []string
	for _, m := range x.Manifests {
		if m.Platform == nil {
			continue
		}
		have = append(have, m.Platform.String())
		if inspect.Runs(m.Platform.OS, m.Platform.Architecture, m.Platform.Variant) {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return v1.Descriptor{}, fail.New(fail.Preflight, "", "the bundle is for %v, and none of them is this machine's platform", have).
			Hinted("add this machine's platform to build.platforms")
	}
	sort.SliceStable(fit, func(i, j int) bool { return fit[i].Platform.Variant > fit[j].Platform.Variant })
	return fit[0], nil
}

// Open implements [bundle.Blobs].
func (o Offer) Open(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, ok := o.Documents[d.Digest.String()]
	if !ok {
		return nil, fail.New(fail.NotFound, "", "the document %s was not sent", d.Digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Referrers implements [bundle.Blobs]. What hangs there is believed only as far as it is signed.
func (o Offer) Referrers(_ context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	return o.Attached[h.String()], nil
}

// bases lists the layers that are there, newest first, without the one that is wanted.
func (d Depot) bases(wanted v1.Hash) ([]string, error) {
	dirs, err := os.ReadDir(d.dirs.Layers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	type aged struct {
		digest string
		time   time.Time
	}
	var all []aged
	for _, e := range dirs {
		h, err := v1.NewHash("sha256:" + e.Name())
		fi, e2 := e.Info()
		if err != nil || e2 != nil || h == wanted {
			continue
		}
		all = append(all, aged{h.String(), fi.ModTime()})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].time.After(all[j].time) })
	out := []string{}
	for _, a := range all {
		out = append(out, a.digest)
	}
	return out, nil
}

// Program is a started release's file.
type Program struct {
	Dir   string // the folder with all programs of the image
	Start string // the file name of the one that is started
}

// Program returns the programs of an accepted bundle, after it held them and all documents against their digests and
// against the policy once more. What does not hold gives a [fail.Preflight], what is not there a [fail.NotFound].
func (d Depot) Program(ctx context.Context, digest string, p bundle.Policy) (Program, error) {
	var r record
	path, err := d.recordPath(digest)
	if err != nil {
		return Program{}, err
	}
	if err := home.ReadJSON(path, &r); err != nil {
		return Program{}, fail.New(fail.NotFound, "", "the artifact %s is not on this machine: %w", digest, err).Hinted("deploy it again: `fairlead up`")
	}
	p.Accepted = r.Accepted
	if err := r.choose(ctx, p); err != nil {
		return Program{}, err
	}
	out := Program{d.layerDir(r.Layer.DiffID), r.Start}
	if err := bundle.CheckUnpacked(out.Dir, r.Layer.DiffID); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return out, fail.New(fail.NotFound, "", "the programs of %s are not on this machine", digest).Hinted("deploy it again: `fairlead up`")
		}
		return out, err
	}
	return out, forbidden(out.Dir, p)
}

// forbidden holds what the programs themselves say they contain against the policy: an SBOM could leave something out.
func forbidden(dir string, p bundle.Policy) error {
	if len(p.Forbid) == 0 {
		return nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		info, err := buildinfo.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return fail.New(fail.Preflight, "", "%s does not say what it contains, and the policy forbids modules: %w", f.Name(), err)
		}
		if err := p.Forbids(f.Name(), info); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes every artifact whose digest is not in keep, and the layers that none of the others needs.
func (d Depot) Prune(keep []string) error {
	records, err := filepath.Glob(filepath.Join(d.dirs.Artifacts(), "*.json"))
	if err != nil {
		return err
	}
	kept, layers := map[string]bool{}, map[string]bool{}
	for _, k := range keep {
		kept[k] = true
	}
	var errs []error
	for _, path := range records {
		var r record
		if err := home.ReadJSON(path, &r); err == nil && (kept[r.Root.Digest.String()] || time.Since(r.Accepted) < grace) {
			layers[r.Layer.DiffID.Hex] = true
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	dirs, err := os.ReadDir(d.dirs.Layers())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range dirs {
		if fi, err := e.Info(); layers[e.Name()] || err == nil && time.Since(fi.ModTime()) < grace {
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(d.dirs.Layers(), e.Name())))
	}
	return errors.Join(errs...)
}

// grace is how long what was just sent is kept although no release names it yet.
const grace = 10 * time.Minute
