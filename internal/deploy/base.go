package deploy

import (
	"context"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/registry"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// base brings the base image of a spec into the layout, for the platforms that are built; nil where it names none.
func (d Deploy) base(ctx context.Context, s *spec.Spec, to bundle.Layout, b *build.Output) (*bundle.Base, error) {
	name := s.Build.Image.Base
	if name == "" {
		return nil, nil //nolint:nilnil // no base is what most have
	}
	from, root, err := d.baseFrom(ctx, s.Dir, name)
	if err != nil {
		return nil, err
	}
	base := &bundle.Base{Name: name, Digest: root.Digest, Images: []v1.Descriptor{root}}
	if root.MediaType.IsIndex() {
		var x v1.IndexManifest
		if err := bundle.Document(ctx, from, root, &x); err != nil {
			return nil, err
		}
		base.Images = nil
		for _, m := range x.Manifests {
			for _, p := range b.Builds {
				if m.Platform != nil && m.Platform.OS == p.Platform.OS && m.Platform.Architecture == p.Platform.Arch {
					base.Images = append(base.Images, m)
					break
				}
			}
		}
		if len(base.Images) == 0 {
			base.Images = x.Manifests // the bundle says which platforms it has and which is missing
		}
	}
	for _, m := range base.Images {
		if err := bundle.CopyImage(ctx, from, m, to); err != nil {
			return nil, fail.New(fail.KindOf(err), "fetch the base image "+name, "%w", err).Hinted("%s", fail.As(err).Hint)
		}
	}
	return base, nil
}

func (d Deploy) baseFrom(ctx context.Context, dir, name string) (bundle.Blobs, v1.Descriptor, error) {
	if path, ok := strings.CutPrefix(name, "oci:"); ok {
		path, ref, _ := strings.Cut(path, "@")
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		l, err := bundle.OpenLayout(path)
		if err != nil {
			return nil, v1.Descriptor{}, err
		}
		root, err := l.Find(ref)
		return l, root, err
	}
	ref, err := registry.ParseRef(name)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	r, err := registry.Connect(ctx, ref, false, d.Registry)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	root, err := r.Resolve(ctx)
	return r, root, err
}
