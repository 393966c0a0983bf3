package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The compressions of layers.
const (
	Zstd = "zstd"
	Gzip = "gzip"
)

var layerTypes = map[string]types.MediaType{Zstd: types.OCILayerZStd, Gzip: types.OCILayer}

// Compression is how layers of a media type are compressed; "" for not at all, or not in a way that is known.
func Compression(t types.MediaType) string {
	switch t {
	case types.OCILayerZStd:
		return Zstd
	case types.OCILayer, types.DockerLayer:
		return Gzip
	}
	return ""
}

// entry is one file or folder of a layer.
type entry struct {
	name string // slash-separated, without a leading slash; folders end in one
	mode int64
	uid  int
	data []byte // content, or
	path string // the file that has it
	size int64  // of the content
}

// Layer is a stored layer.
type Layer struct {
	v1.Descriptor
	DiffID v1.Hash `json:"diff_id"` // of the tar without compression
}

// writeTar writes entries as a tar that says the same on every machine and every day: sorted, one time, no names of
// users, and the folders that lead to each file.
func writeTar(w io.Writer, entries []entry) error {
	all := append([]entry(nil), entries...)
	have := map[string]bool{}
	for _, e := range entries {
		have[e.name] = true
	}
	for _, e := range entries {
		for dir := path.Dir(path.Clean(e.name)); dir != "."; dir = path.Dir(dir) {
			if name := dir + "/"; !have[name] {
				have[name] = true
				all = append(all, entry{name: name, mode: 0o755})
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	t := tar.NewWriter(w)
	for _, e := range all {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.uid, Size: e.size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if e.name[len(e.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if err := e.copyTo(t); err != nil {
			return err
		}
	}
	return t.Close()
}

func (e entry) copyTo(w io.Writer) error {
	if e.path == "" {
		_, err := w.Write(e.data)
		return err
	}
	f, err := os.Open(e.path)
	if err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if err == nil && n != e.size {
		err = fmt.Errorf("%s has %d bytes and had %d when it was built", e.path, n, e.size)
	}
	return errors.Join(err, f.Close())
}

// putLayer writes entries as a compressed layer: tar, hash and compression in one pass.
func (l Layout) putLayer(ctx context.Context, compression string, entries []entry) (Layer, error) {
	blob, err := l.NewBlob()
	if err != nil {
		return Layer{}, err
	}
	defer blob.Abort()
	diff := sha256.New()
	c := newCompressor(ctx, compression, blob)
	err = writeTar(io.MultiWriter(diff, c), entries)
	if e := c.Close(); err == nil {
		err = e
	}
	if err != nil {
		return Layer{}, err
	}
	d, err := blob.Commit(layerTypes[compression])
	return Layer{d, hashOf(diff)}, err
}

// frameSizes are how much of a layer is compressed on its own, in bytes. Frames are what lets several processors work on
// one layer and still gives the same bytes on a machine that has but one. Small ones leave less to do when the last byte has
// come; gzip looks back 32 KiB and loses nothing by them, zstd looks back megabytes.
var frameSizes = map[string]int{Gzip: 1 << 20, Zstd: 4 << 20}

// newCompressor compresses to w: one zstd frame (RFC 8878, section 3.1) or one gzip member (RFC 1952, section 2.2) for every
// piece. Both formats read a row of them as one stream.
func newCompressor(ctx context.Context, compression string, w io.Writer) io.WriteCloser {
	pack := encode
	if compression == Gzip {
		pack = member
	}
	c := &frames{ctx: ctx, w: w, pack: pack, size: frameSizes[compression], order: make(chan chan []byte, runtime.GOMAXPROCS(0)), done: make(chan struct{})}
	go c.collect()
	return c
}

// frames compresses pieces side by side and writes them in their order.
type frames struct {
	ctx   context.Context
	w     io.Writer
	pack  func(to, p []byte) []byte // appends p, compressed
	size  int                       // of a piece, in bytes
	piece []byte
	order chan chan []byte // a place in the order for each piece; its capacity bounds how many are under way
	done  chan struct{}
	err   error // of writing; read it after done
}

// What compressing takes is used again by all layers: fresh memory costs a tenth of the time.
var (
	buffers  sync.Pool // *[]byte
	encoders sync.Pool // *zstd.Encoder
	zippers  sync.Pool // *gzip.Writer
)

// buffer returns an empty slice with room for size bytes; putBuffer takes it back.
func buffer(size int) []byte {
	if b, ok := buffers.Get().(*[]byte); ok && cap(*b) >= size {
		return (*b)[:0]
	}
	return make([]byte, 0, size)
}

func putBuffer(b []byte) { buffers.Put(&b) }

func encode(to, p []byte) []byte {
	e, ok := encoders.Get().(*zstd.Encoder)
	if !ok {
		var err error
		if e, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault)); err != nil {
			panic(err) // the options are ours
		}
	}
	defer encoders.Put(e)
	return e.EncodeAll(p, to)
}

// gzipLevel takes a third of the time of the usual 6 for layers 12 % larger.
const gzipLevel = 1

func member(to, p []byte) []byte {
	b := bytes.NewBuffer(to)
	z, ok := zippers.Get().(*gzip.Writer)
	if ok {
		z.Reset(b)
	} else {
		var err error
		if z, err = gzip.NewWriterLevel(b, gzipLevel); err != nil {
			panic(err) // the level is ours
		}
	}
	defer zippers.Put(z)
	_, err := z.Write(p)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return b.Bytes()
}

func (c *frames) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if c.piece == nil {
			c.piece = buffer(c.size)
		}
		k := min(len(p), c.size-len(c.piece))
		c.piece = append(c.piece, p[:k]...)
		p = p[k:]
		if len(c.piece) == c.size {
			if err := c.ctx.Err(); err != nil {
				return 0, context.Cause(c.ctx)
			}
			c.send()
		}
	}
	return n, nil
}

func (c *frames) send() {
	out, p := make(chan []byte, 1), c.piece
	c.piece = nil
	c.order <- out
	go func() {
		out <- c.pack(buffer(c.size), p)
		putBuffer(p)
	}()
}

func (c *frames) collect() {
	defer close(c.done)
	for out := range c.order {
		b := <-out
		if c.err == nil {
			_, c.err = c.w.Write(b)
		}
		putBuffer(b)
	}
}

// Close writes what is left. It does not close the writer below.
func (c *frames) Close() error {
	if len(c.piece) > 0 {
		c.send()
	}
	close(c.order)
	<-c.done
	return c.err
}

// Decompress returns a layer's tar. What is compressed in no known way gives a [fail.Usage].
func Decompress(mediaType types.MediaType, r io.Reader) (io.ReadCloser, error) {
	switch Compression(mediaType) {
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case Gzip:
		return gzip.NewReader(r)
	}
	if mediaType == types.OCIUncompressedLayer || mediaType == types.DockerUncompressedLayer {
		return io.NopCloser(r), nil
	}
	return nil, fail.New(fail.Usage, "", "layers of type %q are not known", mediaType)
}
