package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// Archive is a bundle as one file.
type Archive struct {
	Layout   Layout
	Root     v1.Descriptor
	Platform platform.Platform // of the image that docker loads
	Name     string            // what it is called after loading, as shop:v1.2.3
}

// WriteTo writes a tar file that is both an OCI image layout and, for the image of one platform, what `docker save` writes:
// docker, podman and skopeo load it. A bundle without that platform gives a [fail.Usage].
func (a Archive) WriteTo(ctx context.Context, w io.Writer) error {
	from, root := a.Layout, a.Root
	blobs, manifests, err := All(ctx, from, root)
	if err != nil {
		return err
	}
	docker, err := a.dockerManifest(ctx)
	if err != nil {
		return err
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json",
		Manifests: []v1.Descriptor{a.named()}}) // alone, or skopeo asks which; what vouches for it lies among the blobs
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	file := func(name string, size int64, in io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := io.Copy(t, in)
		return err
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{layoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}, {"manifest.json", docker}} {
		if err := file(f.name, int64(len(f.body)), bytes.NewReader(f.body)); err != nil {
			return noSpace(err)
		}
	}
	for _, d := range append(blobs, manifests...) {
		in, err := from.Open(ctx, d)
		if err != nil {
			return err
		}
		s := newSum(in)
		err = file(blobName(d), d.Size, s)
		in.Close()
		if err != nil && s.n <= d.Size {
			return noSpace(err)
		}
		if s.n != d.Size {
			return fail.New(fail.Preflight, "", "the blob %s is %s", d.Digest, wrongSize(s.n, d.Size))
		}
		if got := s.hash(); got != d.Digest {
			return tampered(d.Digest, got.Hex)
		}
	}
	return noSpace(t.Close())
}

func blobName(d v1.Descriptor) string { return path.Join("blobs", d.Digest.Algorithm, d.Digest.Hex) }

func (a Archive) named() v1.Descriptor {
	d, tag := a.Root, "latest"
	if i := strings.LastIndex(a.Name, ":"); i > strings.LastIndex(a.Name, "/") {
		tag = a.Name[i+1:]
	}
	// podman and containerd call it by the second, everything else by the first.
	d.Annotations = map[string]string{annotationRef: tag, "io.containerd.image.name": "localhost/" + a.Name}
	return d
}

// dockerManifest is manifest.json of `docker save` (https://github.com/moby/docker-image-spec/blob/main/v1.2.md,
// "Combined Image JSON + Filesystem Changeset Format").
func (a Archive) dockerManifest(ctx context.Context) ([]byte, error) {
	img, err := ImageFor(ctx, a.Layout, a.Root, a.Platform)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := Document(ctx, a.Layout, img, &m); err != nil {
		return nil, err
	}
	type saved struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	one := saved{Config: blobName(m.Config), RepoTags: []string{a.Name}}
	for _, l := range m.Layers {
		one.Layers = append(one.Layers, blobName(l))
	}
	return json.Marshal([]saved{one})
}

// ImageFor is the bundle's image for a platform; what has none gives a [fail.Usage] with those there are.
func ImageFor(ctx context.Context, from Blobs, root v1.Descriptor, pl platform.Platform) (v1.Descriptor, error) {
	if root.MediaType.IsImage() {
		return root, nil
	}
	var x v1.IndexManifest
	if err := Document(ctx, from, root, &x); err != nil {
		return v1.Descriptor{}, err
	}
	var have []string
	for _, d := range x.Manifests {
		if d.Platform == nil {
			continue
		}
		if d.Platform.OS == pl.OS && d.Platform.Architecture == pl.Arch && (pl.Level == "" || d.Platform.Variant == pl.Variant()) {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, fail.New(fail.Usage, "", "there is no image for %s; there are %v", pl, have).Hinted("choose one with --platform")
}
