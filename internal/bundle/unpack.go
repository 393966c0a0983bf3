package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Programs is what a machine needs to know of one image to run it without a container.
type Programs struct {
	Manifest v1.Descriptor
	Layer    Layer  // the one with the programs
	Start    string // path in that layer of the program that is started, without a leading slash
	Config   v1.ConfigFile
}

// ReadPrograms finds the programs' layer of an image. An image that was not made by fairlead gives a [fail.Usage].
func ReadPrograms(ctx context.Context, from Blobs, manifest v1.Descriptor) (*Programs, error) {
	p := &Programs{Manifest: manifest}
	var m v1.Manifest
	if err := Document(ctx, from, manifest, &m); err != nil {
		return nil, err
	}
	if err := Document(ctx, from, m.Config, &p.Config); err != nil {
		return nil, err
	}
	if len(p.Config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fail.New(fail.Preflight, "", "the image %s has %d layers and tells of %d", manifest.Digest, len(m.Layers), len(p.Config.RootFS.DiffIDs))
	}
	for i, l := range m.Layers {
		start, ok := l.Annotations[AnnotationProgram]
		if !ok {
			continue
		}
		p.Layer, p.Start = Layer{l, p.Config.RootFS.DiffIDs[i]}, strings.TrimPrefix(start, "/")
		if !inFolder(p.Start) {
			return nil, fail.New(fail.Preflight, "", "the image %s starts %q, which is not in /%s", manifest.Digest, start, Folder)
		}
		return p, nil
	}
	return nil, fail.New(fail.Usage, "", "the image %s was not made by fairlead: no layer says which program it has", manifest.Digest).
		Hinted("run it in a container, or build it with `fairlead build`")
}

// maxName is the longest name that the usual file systems take, in bytes.
const maxName = 255

func inFolder(name string) bool {
	base := path.Base(name)
	return path.Dir(name) == Folder && base != "." && base != ".." && len(base) <= maxName && !strings.ContainsAny(base, "\\\x00")
}

// maxUnpacked bounds what a layer of programs may unpack to, in bytes, and maxPrograms how many files.
const (
	maxUnpacked = 4 << 30
	maxPrograms = 64
)

// Unpack writes the programs of a layer's tar into dir, which must not exist, checking the tar against diff. On an error
// dir does not exist. Anything but plain files in /app gives a [fail.Preflight].
func Unpack(r io.Reader, diff v1.Hash, dir string) error {
	if err := checkDigest(diff); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-*")
	if err != nil {
		return noSpace(err)
	}
	defer os.RemoveAll(tmp)
	in := newSum(io.LimitReader(r, maxUnpacked+1))
	if err := unpack(in, tmp); err != nil {
		return noSpace(err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the padding behind the end
		return err
	}
	if in.n > maxUnpacked {
		return fail.New(fail.Preflight, "", "the layer unpacks to more than %d GiB", maxUnpacked>>30)
	}
	if got := in.hash(); got != diff {
		return fail.New(fail.Preflight, "", "the layer holds %s, its image says %s", got, diff)
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, e := os.Stat(dir); e != nil {
			return err
		} // another one was faster
	}
	return nil
}

func unpack(r io.Reader, dir string) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fail.New(fail.Preflight, "", "the layer cannot be read: %w", err)
		}
		if h.Typeflag == tar.TypeDir && path.Clean(h.Name) == Folder {
			continue
		}
		if n > maxPrograms || h.Typeflag != tar.TypeReg || !inFolder(h.Name) {
			return fail.New(fail.Preflight, "", "the layer has %q, and a layer of programs has only files in /%s", h.Name, Folder)
		}
		if len(h.PAXRecords) > 0 {
			// They could say that the file has holes: a few bytes of tar would become any number of bytes on the disk.
			return fail.New(fail.Preflight, "", "the layer has %q in an extended form of tar, which fairlead does not write", h.Name)
		}
		f, err := os.OpenFile(filepath.Join(dir, path.Base(h.Name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
		if errors.Is(err, fs.ErrExist) {
			return fail.New(fail.Preflight, "", "the layer has %q twice", h.Name)
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fail.New(fail.Preflight, "", "the layer is cut off in %q: %w", h.Name, err)
		}
		if err == nil {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// Pack writes the tar that [Unpack] made dir from.
func Pack(dir string, w io.Writer) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var entries []entry
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			return err
		}
		entries = append(entries, entry{name: path.Join(Folder, f.Name()), mode: 0o755, path: filepath.Join(dir, f.Name()), size: fi.Size()})
	}
	return writeTar(w, entries)
}

// CheckUnpacked holds the files in dir against the layer they were unpacked from.
func CheckUnpacked(dir string, diff v1.Hash) error {
	s := newSum(nil)
	if err := Pack(dir, s.h); err != nil {
		return err
	}
	if got := s.hash(); got != diff {
		return fail.New(fail.Preflight, "", "the programs in %s were changed: they have the digest %s, the image says %s", dir, got, diff).
			Hinted("remove the folder and deploy again")
	}
	return nil
}
