package fleet

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/fairlead-dev/fairlead/internal/delta"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/keeper"
	"github.com/fairlead-dev/fairlead/internal/platform"
)

// file is a fairlead for a platform.
type file struct {
	path, name string
	zipped     func() ([]byte, error) // with gzip, which every host has
	patches    *patches
}

// patches are those that lead to a file, by the name of what they begin with. Hosts that have the same get the same.
type patches struct {
	mu sync.Mutex
	by map[string][]byte
}

// patchWorth is the share of a program above which a patch is not worth its making.
const patchWorth = 0.2

var errNoPatch = errors.New("there is nothing to begin with")

// patch leads from an older program, which must be one that was sent from here, to p.
func (p file) patch(ctx context.Context, older string) ([]byte, error) {
	kept, err := home.Cache("programs")
	if err != nil || !nameForm.MatchString(older) {
		return nil, errNoPatch
	}
	p.patches.mu.Lock()
	defer p.patches.mu.Unlock()
	if b := p.patches.by[older]; b != nil {
		return b, nil
	}
	old, err := os.ReadFile(filepath.Join(kept, older))
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	patch, err := delta.Make(ctx, old, b, int64(patchWorth*float64(len(b))))
	if err == nil {
		p.patches.by[older] = patch
	}
	return patch, err
}

var nameForm = regexp.MustCompile(`^fairlead-[0-9a-f]{16}$`)

// programsKept is how many of those that were sent are kept to begin patches with.
const programsKept = 4

// keep notes what is sent, for the patch to the next one.
func (p file) keep() error {
	dir, err := home.Cache("programs")
	if err != nil {
		return err
	}
	to := filepath.Join(dir, p.name)
	if _, err := os.Stat(to); err == nil {
		return os.Chtimes(to, time.Time{}, time.Now())
	}
	b, err := os.ReadFile(p.path)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = home.WriteFile(to, b, 0o600)
	}
	if err != nil {
		return err
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	at := map[string]time.Time{}
	for _, f := range all {
		if i, err := f.Info(); err == nil {
			at[f.Name()] = i.ModTime()
		}
	}
	newest := slices.SortedFunc(maps.Keys(at), func(a, b string) int { return at[b].Compare(at[a]) })
	for _, name := range newest[min(programsKept, len(newest)):] {
		os.Remove(filepath.Join(dir, name)) // the next one tries again
	}
	return nil
}

// ApplyPatch makes the program of that name from exe and a patch, and writes it to w.
func ApplyPatch(exe, name string, patch io.Reader, w io.Writer) error {
	const most = 1 << 30
	old, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(patch, most))
	if err != nil {
		return err
	}
	made, err := delta.Apply(old, b, most)
	if err != nil {
		return err
	}
	if got, err := keeper.NameOf(bytes.NewReader(made)); err != nil || got != name {
		return fail.New(fail.Preflight, "", "the patch makes %s, not %s", got, name)
	}
	_, err = w.Write(made)
	return err
}

// programs finds one for each platform.
type programs struct {
	exe string
	mu  sync.Mutex
	at  map[platform.Platform]func() (file, error)
}

func (p *programs) of(on platform.Platform) (file, error) {
	p.mu.Lock()
	find := p.at[on]
	if find == nil {
		find = sync.OnceValues(func() (file, error) { return p.find(on) })
		p.at[on] = find
	}
	p.mu.Unlock()
	return find()
}

// find takes the file beside this program that is named for the platform, or this program itself where it fits and needs no libraries.
func (p *programs) find(on platform.Platform) (file, error) {
	beside := filepath.Join(filepath.Dir(p.exe), "fairlead-"+on.OS+"-"+on.Arch)
	path := p.exe
	if _, err := os.Stat(beside); err == nil {
		path = beside
	}
	if err := static(path, on); err != nil {
		return file{}, fail.New(fail.Preflight, "", "there is no fairlead for %s here: %w", on, err).
			Hinted("put one beside this one, as %s: GOOS=%s GOARCH=%s CGO_ENABLED=0 go build -o %s ./cmd/fairlead", filepath.Base(beside), on.OS, on.Arch, beside)
	}
	name, err := keeper.Name(path)
	if err != nil {
		return file{}, err
	}
	f := file{path, name, sync.OnceValues(func() ([]byte, error) { return zip(path) }), &patches{by: map[string][]byte{}}}
	return f, nil
}

func zip(path string) ([]byte, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(z, in)
	}
	if err == nil {
		err = z.Close()
	}
	return out.Bytes(), err
}

// static reports why a program does not run on any host of a platform.
func static(path string, on platform.Platform) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is no program for Linux", path)
	}
	defer f.Close()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390}
	if f.Machine != machine[on.Arch] {
		return fmt.Errorf("%s is for another processor", path)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs libraries of the host", path)
		}
	}
	return nil
}
