package depot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/delta"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The ways in which a layer comes.
const (
	Tar   = "tar"   // as it is
	Zstd  = "zstd"  // compressed, as in the image
	Gzip  = "gzip"  //
	Delta = "delta" // what changed since a layer that is there
)

// Parcel is a layer on its way.
type Parcel struct {
	DiffID v1.Hash // of the tar
	Form   string  // Tar, Zstd, Gzip or Delta
	Base   string  // Delta: the layer it starts from, by the digest of its tar
	Body   io.Reader
}

// maxDelta is the longest delta that is taken, in bytes: longer ones are not worth it (see deploy).
const maxDelta = 256 << 20

// Put unpacks a layer. It is there whole, or not at all: what does not have the digest gives a [fail.Preflight].
func (d Depot) Put(ctx context.Context, p Parcel) error {
	dir := d.layerDir(p.DiffID)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	in := io.Reader(contextReader{ctx, p.Body})
	switch p.Form {
	case Tar:
	case Zstd, Gzip:
		z, err := bundle.Decompress(map[string]types.MediaType{Zstd: types.OCILayerZStd, Gzip: types.OCILayer}[p.Form], in)
		if err != nil {
			return fail.New(fail.Preflight, "", "the layer cannot be unpacked: %w", err)
		}
		defer z.Close()
		in = z
	case Delta:
		whole, err := d.apply(p, in)
		if err != nil {
			return err
		}
		in = bytes.NewReader(whole)
	default:
		return fail.New(fail.Usage, "", "a layer comes as tar, zstd, gzip or delta, not as %q", p.Form)
	}
	return bundle.Unpack(in, p.DiffID, dir)
}

func (d Depot) apply(p Parcel, in io.Reader) ([]byte, error) {
	base, err := v1.NewHash(p.Base)
	if err != nil || base.Algorithm != "sha256" {
		return nil, fail.New(fail.Usage, "", "%q is not a sha256 digest", p.Base)
	}
	var old bytes.Buffer
	if err := bundle.Pack(d.layerDir(base), &old); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fail.New(fail.NotFound, "", "the layer %s is not here any more", base)
		}
		return nil, err
	}
	patch, err := io.ReadAll(io.LimitReader(in, maxDelta+1))
	if err != nil {
		return nil, err
	}
	if len(patch) > maxDelta {
		return nil, fail.New(fail.Usage, "", "the delta is longer than %d bytes", maxDelta)
	}
	whole, err := delta.Apply(old.Bytes(), patch, maxTar)
	if err != nil {
		return nil, fail.New(fail.Preflight, "", "the delta from %s: %w", base, err)
	}
	return whole, nil
}

// maxTar is the longest tar that a delta may make, in bytes: it is made in memory.
const maxTar = 1 << 30

// contextReader ends reading when ctx is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements [io.Reader].
func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
