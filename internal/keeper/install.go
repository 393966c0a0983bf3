package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// Install copies the program exe into the machine's state, so that the roles outlive the file the user ran (a `go run`
// build, a download folder), and makes it the version that is started from now on. It reports whether that is a change.
func Install(d home.Dirs, exe string) (changed bool, err error) {
	src, err := os.Open(exe)
	if err != nil {
		return false, err
	}
	defer src.Close()
	name, err := NameOf(src)
	if err != nil {
		return false, err
	}
	dst := filepath.Join(filepath.Dir(d.Program()), name)
	_, missing := os.Stat(dst)
	if now, err := os.Readlink(d.Program()); err == nil && now == name && missing == nil {
		return false, nil
	}
	if errors.Is(missing, os.ErrNotExist) {
		if err := copyProgram(src, dst); err != nil {
			return false, fmt.Errorf("install %s: %w", dst, err)
		}
	}
	tmp := d.Program() + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(name, tmp); err != nil {
		return false, err
	}
	old, _ := os.Readlink(d.Program())
	if err := os.Rename(tmp, d.Program()); err != nil {
		return false, err
	}
	prune(filepath.Dir(dst), name, old)
	return true, nil
}

// Name is what exe is called where it is installed: it tells its content.
func Name(exe string) (string, error) {
	f, err := os.Open(exe)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return NameOf(f)
}

// NameOf is [Name] of what exe reads.
func NameOf(exe io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, exe); err != nil {
		return "", err
	}
	return "fairlead-" + hex.EncodeToString(h.Sum(nil))[:16], nil
}

func copyProgram(src *os.File, dst string) error {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(dst), ".install-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, src)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync() // the name is the content's hash: it must not outlive a power cut without the content
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), dst)
	}
	return err
}

// prune removes every installed version but the new and the previous one. A running process keeps its file.
func prune(dir string, keep ...string) {
	found, _ := filepath.Glob(filepath.Join(dir, "fairlead-*"))
	for _, f := range found {
		stale := true
		for _, k := range keep {
			stale = stale && filepath.Base(f) != k
		}
		if stale {
			os.Remove(f) // best effort: the next install tries again
		}
	}
}
