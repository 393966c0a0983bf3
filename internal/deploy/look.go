package deploy

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/export"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// Inspected is what an artifact says of itself; nothing of it is verified but digests of what was read.
type Inspected struct {
	Type      string        `json:"type"`
	Digest    string        `json:"digest"`
	Name      string        `json:"name,omitempty"`
	Version   string        `json:"version,omitempty"`
	Commit    string        `json:"commit,omitempty"`
	Created   time.Time     `json:"created,omitzero"`
	Go        string        `json:"go,omitempty"`
	Images    []ImageInfo   `json:"images"`
	Referrers []RefererInfo `json:"referrers"`
}

// ImageInfo is one platform's image.
type ImageInfo struct {
	Platform   string            `json:"platform"`
	Digest     string            `json:"digest"`
	Size       int64             `json:"size"` // of its layers in a registry, in bytes
	User       string            `json:"user"`
	Entrypoint []string          `json:"entrypoint"`
	Env        []string          `json:"env,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Layers     []string          `json:"layers"`
}

// RefererInfo is a document about the artifact or one of its images.
type RefererInfo struct {
	Digest string `json:"digest"`
	About  string `json:"about"`
	Kind   string `json:"kind"` // media type, or predicate type of a statement
}

// Inspect tells what an artifact is.
func (d Deploy) Inspect(ctx context.Context, what string) (*Inspected, error) {
	from, root, err := d.Find(ctx, what)
	if err != nil {
		return nil, err
	}
	out := &Inspected{Type: "artifact", Digest: root.Digest.String()}
	images := []v1.Descriptor{root}
	if root.MediaType.IsIndex() {
		var x v1.IndexManifest
		if err := bundle.Document(ctx, from, root, &x); err != nil {
			return nil, err
		}
		images = x.Manifests
		out.Name, out.Version = x.Annotations["org.opencontainers.image.title"], x.Annotations["org.opencontainers.image.version"]
		out.Commit, out.Go = x.Annotations["org.opencontainers.image.revision"], x.Annotations[bundle.AnnotationGo]
		out.Created, _ = time.Parse(time.RFC3339, x.Annotations["org.opencontainers.image.created"])
		if err := out.refers(ctx, from, root); err != nil {
			return nil, err
		}
	}
	for _, img := range images {
		if !img.MediaType.IsImage() {
			continue
		}
		var m v1.Manifest
		if err := bundle.Document(ctx, from, img, &m); err != nil {
			return nil, err
		}
		var c v1.ConfigFile
		if err := bundle.Document(ctx, from, m.Config, &c); err != nil {
			return nil, err
		}
		info := ImageInfo{Platform: strings.TrimSuffix(c.OS+"/"+c.Architecture+"/"+c.Variant, "/"), Digest: img.Digest.String(), User: c.Config.User, Entrypoint: c.Config.Entrypoint, Env: c.Config.Env, Labels: c.Config.Labels}
		for _, l := range m.Layers {
			info.Size += l.Size
			info.Layers = append(info.Layers, l.Digest.String())
		}
		out.Images = append(out.Images, info)
		if err := out.refers(ctx, from, img); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (i *Inspected) refers(ctx context.Context, from bundle.Blobs, about v1.Descriptor) error {
	refs, err := from.Referrers(ctx, about.Digest)
	if err != nil {
		return err
	}
	for _, r := range refs {
		kind := r.ArtifactType
		for _, k := range []string{"dev.sigstore.bundle.predicateType", "in-toto.io/predicate-type"} {
			if p := r.Annotations[k]; p != "" {
				kind = p
			}
		}
		i.Referrers = append(i.Referrers, RefererInfo{r.Digest.String(), about.Digest.String(), kind})
	}
	return nil
}

// ExportOptions say of what.
type ExportOptions struct {
	Platform string // "" for this machine's, or the only one
}

// build builds for the platform that is asked for, which the spec need not name, or for all of the spec's.
func (o ExportOptions) build() BuildOptions {
	if o.Platform == "" {
		return BuildOptions{}
	}
	return BuildOptions{Platforms: []string{o.Platform}}
}

// platform is the one that is exported, of those that were built.
func (o ExportOptions) platform(m *Made) (platform.Platform, error) {
	if o.Platform != "" {
		p, err := platform.Parse(o.Platform)
		if err != nil {
			return p, fail.New(fail.Usage, "--platform", "%w", err)
		}
		return p, nil
	}
	if len(m.output.Builds) == 1 {
		return m.output.Builds[0].Platform, nil
	}
	return platform.Host(), nil
}

// ExportImage writes the artifact as a file that docker, podman and skopeo load.
func (d Deploy) ExportImage(ctx context.Context, o ExportOptions, w io.Writer) error {
	m, err := d.Build(ctx, o.build())
	if err != nil {
		return err
	}
	p, err := o.platform(m)
	if err != nil {
		return err
	}
	tags := m.tags([]string{"version", "commit"})
	name := m.Name + ":" + append(tags, "latest")[0]
	return bundle.Archive{Layout: m.Layout, Root: m.Index, Platform: p, Name: name}.WriteTo(ctx, w)
}

// ExportBinary writes the service's own program.
func (d Deploy) ExportBinary(ctx context.Context, o ExportOptions, w io.Writer) error {
	m, err := d.Build(ctx, o.build())
	if err != nil {
		return err
	}
	p, err := o.platform(m)
	if err != nil {
		return err
	}
	for _, x := range m.output.Builds {
		if x.Platform.OS != p.OS || x.Platform.Arch != p.Arch || p.Level != "" && x.Platform.Level != p.Level {
			continue
		}
		f, err := os.Open(x.Programs[0].Path)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return errors.Join(err, f.Close())
	}
	return fail.New(fail.Usage, "", "nothing was built for %s", p).Hinted("choose a platform with --platform")
}

// ExportDockerfile writes a Dockerfile that builds the same programs. A Go that is no release, of which there is no image,
// gives a [fail.Usage].
func (d Deploy) ExportDockerfile(ctx context.Context, _ ExportOptions, w io.Writer) error {
	m, err := d.Build(ctx, BuildOptions{})
	if err != nil {
		return err
	}
	version, released := strings.CutPrefix(strings.Fields(m.output.GoVersion)[0], "go")
	if !released {
		return fail.New(fail.Usage, "", "the programs are built with %s, of which there is no image", m.output.GoVersion).Hinted("set the toolchain in go.mod to a released Go")
	}
	platforms, err := platformsOf(m.Spec)
	if err != nil {
		return err
	}
	root := build.Context(ctx, m.Spec.Dir)
	commands, err := build.Commands(ctx, build.Params{Dir: m.Spec.Dir, Build: m.Spec.Build, Name: m.Spec.Service, Platforms: platforms}, root)
	if err != nil {
		return err
	}
	rel, err := build.Inside(root, m.Spec.Dir)
	if err != nil {
		return err
	}
	f := export.Dockerfile{Service: m.Spec.Service, Go: version, Image: m.Spec.Build.Image, Folder: rel, VCS: m.Source.VCS,
		Unknown: export.Unknown{Version: build.TheVersion, Commit: build.TheCommit, Date: build.TheDate}}
	for _, c := range commands {
		f.Commands = append(f.Commands, export.Command{Name: c.Name, Args: c.Args})
	}
	for _, b := range m.output.Builds { // a level is for its own architecture; the rest is the same for all
		f.Env = append(f.Env, b.Env...)
	}
	_, err = io.WriteString(w, f.String())
	return err
}
