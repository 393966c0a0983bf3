package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/target/machine"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func blobOf(d home.Dirs, r *http.Request) (digest, path string, err error) {
	digest = r.PathValue("digest")
	if !digestForm.MatchString(digest) {
		return "", "", fail.New(fail.Usage, "", "%q is not a sha256 digest", digest)
	}
	return digest, machine.BlobPath(d, digest), nil
}

func (a *Agent) hasBlob(r *http.Request) (any, error) {
	digest, path, err := blobOf(a.dirs, r)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fail.New(fail.NotFound, "", "no artifact %s", digest)
	}
	return struct{}{}, nil
}

// putBlob takes an artifact's bytes. They get their name only when they are whole and have the digest.
func (a *Agent) putBlob(r *http.Request) (any, error) {
	digest, path, err := blobOf(a.dirs, r)
	if err != nil {
		return nil, err
	}
	if err := mkdirs(a.dirs, filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return nil, noSpace(err)
	}
	defer os.Remove(f.Name())
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r.Body)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return nil, noSpace(err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return nil, fail.New(fail.Usage, "receive "+digest, "the bytes have the digest %s", got)
	}
	return struct{}{}, os.Rename(f.Name(), path)
}

// noSpace says what to do about a full disk.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fail.New(fail.Preflight, "receive the artifact", "%w", err).
			Hinted("free some space on the disk of fairlead's state (`fairlead check` names it); nothing was changed")
	}
	return err
}

func blobFiles(d home.Dirs) []string {
	files, _ := filepath.Glob(filepath.Join(d.Blobs(), "sha256", "*"))
	return files
}

// mkdirs makes a folder below the state; the services' part may be walked through by their users.
func mkdirs(d home.Dirs, path string) error {
	mode := os.FileMode(0o700)
	if rel, err := filepath.Rel(filepath.Join(d.State, "services"), path); err == nil && filepath.IsLocal(rel) {
		mode = 0o711
	}
	return os.MkdirAll(path, mode)
}
