// Package bundle is the artifact: an OCI image layout with an image for each platform, and what vouches for it as
// referrers: SBOMs, provenance and signature.
//
// The digest of the image index is the artifact's name. It follows from the source, the toolchain and the spec alone:
// nothing that is hashed tells when, where or by whom it was made. Only provenance and signature do, and they hang on the
// index from outside.
package bundle

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"maps"
	"path"
	"runtime/debug"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Input is what a bundle is made of.
type Input struct {
	Name      string // the service's
	Source    Source
	GoVersion string // as go1.26.8
	Images    []Image
	Zones     func() (string, error) `json:"-"` // where Go's zoneinfo.zip is, see [Zones]; not asked when there is a base
	Base      *Base                  // nil: nothing but CA roots, time zones and a user
	Labels    map[string]string
	Zip       string // compression of layers: [Gzip] (also "") or [Zstd]
	Tool      string // version of this program
	Build     Build
	Signer    Signer
}

// Source is where it comes from.
type Source struct {
	Version  string
	Commit   string
	Branch   string
	Remote   string // https://HOST/PATH
	Modified bool
	Time     time.Time // of the commit
}

// Image is the programs for one platform.
type Image struct {
	Platform platform.Platform
	Programs []Program // the first is what the image starts
	Args     []string  // of go build, for provenance
	Env      []string  // beside the user's own, for provenance
}

// Program is an executable file on disk.
type Program struct {
	Name   string
	Path   string
	Main   string // import path
	Digest string // sha256:...
	Size   int64  // bytes
	ID     string // Go's build ID
}

// Base is the image that the programs are put on, one manifest a platform, with all of its blobs in the layout already.
type Base struct {
	Name   string // as in the spec
	Digest v1.Hash
	Images []v1.Descriptor
}

// Signer signs. ID tells the key without opening it, so that what is signed already needs no passphrase; "" means not to sign.
type Signer struct {
	ID   string
	Open func() (*sign.Private, error) `json:"-"`
}

// Bundle is what Make wrote into a layout.
type Bundle struct {
	Index     v1.Descriptor   `json:"index"`
	Name      string          `json:"name"`
	Version   string          `json:"version"`
	Images    []Made          `json:"images"`
	Referrers []v1.Descriptor `json:"referrers"`
	SignedBy  string          `json:"signed_by,omitempty"` // ID of the key
}

// Made is one platform's image.
type Made struct {
	Platform string        `json:"platform"`
	Manifest v1.Descriptor `json:"manifest"`
	Layers   []Layer       `json:"layers"`
}

// The annotations of our own.
const (
	AnnotationProgram = "dev.fairlead.program"    // on the layer that has the programs: the one that is started
	AnnotationBuildID = "dev.fairlead.go.buildid" // on an image: Go's build ID of that program
	AnnotationGo      = "dev.fairlead.go.version"
	annotationRef     = "org.opencontainers.image.ref.name"
)

// Folder is where an image has the programs.
const Folder = "app"

// Make writes the bundle into l and makes it the one that l's index.json names, or finds that it is there already. On an
// error l names what it named before.
func Make(ctx context.Context, l Layout, in Input) (*Bundle, error) {
	if in.Zip == "" {
		in.Zip = Gzip
	}
	key := "bundle\x00" + keyOf(in.known())
	b := new(Bundle)
	if l.Recall(key, b) && l.whole(b) {
		return b, l.Name(ctx, b.Index, b.Referrers, tagOf(b.Version))
	}
	b = &Bundle{Name: in.Name, Version: in.Source.Version}
	var documents []sbomDocument
	for _, img := range in.Images {
		made, docs, err := l.image(ctx, in, img)
		if err != nil {
			return nil, err
		}
		b.Images = append(b.Images, made)
		documents = append(documents, docs...)
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Annotations: in.annotations()}
	for _, m := range b.Images {
		index.Manifests = append(index.Manifests, m.Manifest)
	}
	var err error
	if b.Index, err = l.PutJSON(types.OCIImageIndex, index); err != nil {
		return nil, err
	}
	if err := l.vouch(b, in, documents); err != nil {
		return nil, err
	}
	if err := l.Remember(key, b); err != nil {
		return nil, err
	}
	return b, l.Name(ctx, b.Index, b.Referrers, tagOf(b.Version))
}

// known is what decides about a bundle's bytes, without where files lie on this machine.
func (in Input) known() Input {
	in.Source.Branch = "" // it stands in the provenance, which stays as it was when nothing else changes
	in.Images = slices.Clone(in.Images)
	for i, img := range in.Images {
		img.Programs = slices.Clone(img.Programs)
		for j := range img.Programs {
			img.Programs[j].Path = ""
		}
		in.Images[i] = img
	}
	return in
}

// whole reports whether all blobs of a bundle are there.
func (l Layout) whole(b *Bundle) bool {
	all := append([]v1.Descriptor{b.Index}, b.Referrers...)
	for _, i := range b.Images {
		all = append(all, i.Manifest)
		for _, x := range i.Layers {
			all = append(all, x.Descriptor)
		}
	}
	for _, d := range all {
		if !l.Has(d) {
			return false
		}
	}
	return len(b.Images) > 0
}

func (in Input) annotations() map[string]string {
	a := map[string]string{
		"org.opencontainers.image.title":   in.Name,
		"org.opencontainers.image.created": in.created().Format(time.RFC3339),
		AnnotationGo:                       in.GoVersion,
	}
	set := func(k, v string) {
		if v != "" {
			a[k] = v
		}
	}
	set("org.opencontainers.image.version", in.Source.Version)
	set("org.opencontainers.image.revision", in.Source.Commit)
	if in.Base != nil {
		set("org.opencontainers.image.base.name", in.Base.Name)
		set("org.opencontainers.image.base.digest", in.Base.Digest.String())
	}
	return a
}

func (in Input) created() time.Time {
	if in.Source.Time.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return in.Source.Time.UTC()
}

// sbomDocument is an SBOM and the image it is about.
type sbomDocument struct {
	about v1.Descriptor
	blob  v1.Descriptor
	name  string
}

// image writes one platform's layers, configuration, manifest and SBOMs.
func (l Layout) image(ctx context.Context, in Input, img Image) (Made, []sbomDocument, error) {
	made := Made{Platform: img.Platform.String()}
	config, err := l.below(ctx, in, img.Platform, &made)
	if err != nil {
		return made, nil, err
	}
	docs, err := l.describe(in, img) // before the layer: that may still be on its way
	if err != nil {
		return made, nil, err
	}
	top, err := l.Programs(ctx, in.Zip, img.Programs)
	if err != nil {
		return made, nil, err
	}
	first := img.Programs[0]
	top.Annotations = map[string]string{AnnotationProgram: "/" + path.Join(Folder, first.Name)}
	made.Layers = append(made.Layers, top)
	in.configure(config, img, top.DiffID)
	cfg, err := l.PutJSON(types.OCIConfigJSON, config)
	if err != nil {
		return made, nil, err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: cfg, Annotations: in.annotations()}
	if first.ID != "" {
		m.Annotations[AnnotationBuildID] = first.ID
	}
	for _, x := range made.Layers {
		m.Layers = append(m.Layers, x.Descriptor)
	}
	if made.Manifest, err = l.PutJSON(types.OCIManifestSchema1, m); err != nil {
		return made, nil, err
	}
	made.Manifest.Platform = &v1.Platform{OS: img.Platform.OS, Architecture: img.Platform.Arch, Variant: img.Platform.Variant()}
	for i := range docs {
		docs[i].about = made.Manifest
	}
	return made, docs, nil
}

// Programs writes the layer with the programs of an image, or finds it. [Make] does so, too: to have it done before, while
// other platforms are still being built, saves time.
func (l Layout) Programs(ctx context.Context, zip string, programs []Program) (Layer, error) {
	var entries []entry
	var ids []string
	for _, p := range programs {
		entries = append(entries, entry{name: path.Join(Folder, p.Name), mode: 0o755, path: p.Path, size: p.Size})
		id := p.Digest
		if p.ID != "" {
			id = fmt.Sprint(p.ID, p.Size) // Go's build ID is a digest of the content, too, and known before
		}
		ids = append(ids, p.Name, id)
	}
	if zip == "" {
		zip = Gzip
	}
	return l.memoLayer("programs\x00"+zip+"\x00"+keyOf(ids), func() (Layer, error) { return l.putLayer(ctx, zip, entries) })
}

// below adds what is under the programs, the base or our own root layer, and returns the configuration to begin with.
func (l Layout) below(ctx context.Context, in Input, pl platform.Platform, made *Made) (*v1.ConfigFile, error) {
	if in.Base != nil {
		return l.onBase(ctx, *in.Base, pl, made)
	}
	zones, err := in.Zones()
	if err != nil {
		return nil, err
	}
	root, err := l.rootLayer(ctx, in.Zip, zones)
	if err != nil {
		return nil, err
	}
	made.Layers = []Layer{root}
	return &v1.ConfigFile{
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{root.DiffID}},
		History: []v1.History{{Created: v1.Time{Time: in.created()}, CreatedBy: "fairlead", Comment: "CA roots, time zones, a user"}},
		Config:  v1.Config{Env: []string{"PATH=/" + Folder, "SSL_CERT_FILE=/" + certFile}, User: fmt.Sprint(userID, ":", userID), WorkingDir: "/" + homeDir},
	}, nil
}

func (l Layout) onBase(ctx context.Context, b Base, pl platform.Platform, made *Made) (*v1.ConfigFile, error) {
	var has []string
	for _, d := range b.Images {
		if p := d.Platform; p != nil && (p.OS != pl.OS || p.Architecture != pl.Arch) {
			has = append(has, p.String())
			continue
		}
		var m v1.Manifest
		if err := Document(ctx, l, d, &m); err != nil {
			return nil, err
		}
		c := new(v1.ConfigFile)
		if err := Document(ctx, l, m.Config, c); err != nil {
			return nil, err
		}
		if c.OS != pl.OS || c.Architecture != pl.Arch {
			has = append(has, c.OS+"/"+c.Architecture)
			continue
		}
		if len(c.RootFS.DiffIDs) != len(m.Layers) {
			return nil, fail.New(fail.Preflight, "", "the base image %s has %d layers and tells of %d", b.Name, len(m.Layers), len(c.RootFS.DiffIDs))
		}
		for i, layer := range m.Layers {
			made.Layers = append(made.Layers, Layer{layer, c.RootFS.DiffIDs[i]})
		}
		c.Author, c.Container = "", ""
		if c.Config.User == "" || c.Config.User == "root" || c.Config.User == "0" {
			c.Config.User = fmt.Sprint(userID, ":", userID)
		}
		return c, nil
	}
	return nil, fail.New(fail.Usage, "", "the base image %s is for %v, not for %s", b.Name, has, pl).
		Hinted("take the digest of the base's index, which has all platforms, or remove %s from build.platforms", pl)
}

func (in Input) configure(c *v1.ConfigFile, img Image, layer v1.Hash) {
	first := img.Programs[0]
	c.OS, c.Architecture, c.Variant = img.Platform.OS, img.Platform.Arch, img.Platform.Variant()
	c.Created = v1.Time{Time: in.created()}
	c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, layer)
	c.History = append(c.History, v1.History{Created: c.Created, CreatedBy: "go build " + first.Main, Comment: in.Name + " " + in.Source.Version})
	c.Config.Entrypoint, c.Config.Cmd = []string{"/" + path.Join(Folder, first.Name)}, nil
	if c.Config.Labels == nil {
		c.Config.Labels = map[string]string{}
	}
	maps.Copy(c.Config.Labels, in.annotations())
	maps.Copy(c.Config.Labels, in.Labels)
}

// describe writes the SBOMs of an image, without saying yet which that is.
func (l Layout) describe(in Input, img Image) ([]sbomDocument, error) {
	s := sbom.Subject{Name: in.Name, Version: in.Source.Version, Time: in.Source.Time, Tool: in.Tool}
	for _, p := range img.Programs {
		info, err := readInfo(p.Path)
		if err != nil {
			return nil, err
		}
		s.Programs = append(s.Programs, sbom.Program{Name: p.Name, Digest: p.Digest, Info: info})
	}
	var out []sbomDocument
	for _, k := range []struct {
		mediaType string
		write     func(sbom.Subject) ([]byte, error)
	}{{sbom.CycloneDXType, sbom.CycloneDX}, {sbom.SPDXType, sbom.SPDX}} {
		b, err := k.write(s)
		if err != nil {
			return nil, err
		}
		d, err := l.Put(types.MediaType(k.mediaType), b)
		if err != nil {
			return nil, err
		}
		out = append(out, sbomDocument{blob: d, name: img.Platform.String()})
	}
	return out, nil
}

func readInfo(path string) (*debug.BuildInfo, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fail.New(fail.Build, "", "%s has no build information of Go: %w", path, err)
	}
	return info, nil
}

// Size is what all the bundle's images weigh in a registry, in bytes: layers that are shared count once.
func (b *Bundle) Size() int64 {
	seen := map[v1.Hash]bool{}
	total := b.Index.Size
	for _, i := range b.Images {
		total += i.Manifest.Size
		for _, l := range i.Layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				total += l.Size
			}
		}
	}
	return total
}
