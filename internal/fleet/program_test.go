package fleet

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/keeper"
)

// programOf writes a program that differs from others of the same seed by where.
func programOf(t *testing.T, where byte) file {
	t.Helper()
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(b)
	copy(b[500:], bytes.Repeat([]byte{where}, 100))
	path := filepath.Join(t.TempDir(), "fairlead")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	name, err := keeper.Name(path)
	if err != nil {
		t.Fatal(err)
	}
	return file{path: path, name: name, patches: &patches{by: map[string][]byte{}}}
}

// What was sent once is what the patch to the next version begins with.
func TestPatchOfProgram(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	old, newer := programOf(t, 1), programOf(t, 2)
	for _, unknown := range []string{"", old.name, "../" + old.name, "fairlead-0123456789abcdef"} {
		if _, err := newer.patch(t.Context(), unknown); !errors.Is(err, errNoPatch) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", unknown, err)
		}
	}
	if err := old.keep(); err != nil {
		t.Fatal(err)
	}
	patch, err := newer.patch(t.Context(), old.name)
	if err != nil || len(patch) > 10_000 {
		t.Fatalf("%d bytes, %v", len(patch), err)
	}
	var made bytes.Buffer
	if err := ApplyPatch(old.path, newer.name, bytes.NewReader(patch), &made); err != nil {
		t.Fatal(err)
	}
	if want, err := os.ReadFile(newer.path); err != nil || !bytes.Equal(made.Bytes(), want) {
		t.Errorf("another program was made: %v", err)
	}
	made.Reset()
	if err := ApplyPatch(newer.path, newer.name, bytes.NewReader(patch), &made); err == nil || made.Len() > 0 {
		t.Errorf("a patch for another program made %d bytes: %v", made.Len(), err)
	}
	for n := range byte(programsKept) {
		p := programOf(t, 10+n)
		if err := p.keep(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newer.patch(t.Context(), old.name); err != nil {
		t.Errorf("a patch that was made is made again: %v", err)
	}
	newer.patches.by = map[string][]byte{}
	if _, err := newer.patch(t.Context(), old.name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("more are kept than may be: %v", err)
	}
}
