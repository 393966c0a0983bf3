package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// The small service that is bundled: it has one module besides the standard library, from a folder.
var service = map[string]string{
	"go.mod":      "module example.com/svc\n\ngo 1.25\n\nrequire example.com/dep v1.2.0\n\nreplace example.com/dep => ./dep\n",
	"main.go":     "package main\n\nimport \"example.com/dep\"\n\nfunc main() { println(dep.Name) }\n",
	"dep/go.mod":  "module example.com/dep\n\ngo 1.25\n",
	"dep/dep.go":  "// Package dep is a dependency.\npackage dep\n\n// Name is its name.\nconst Name = \"dep\"\n",
	"tool/a.go":   "package main\n\nfunc main() { println(\"tool\") }\n",
	"unused.text": "not part of it\n",
}

// compiled is the folder with svc and tool, static programs for linux/amd64, and Go's root.
var compiled = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bundle-test-*")
	if err != nil {
		return "", err
	}
	for name, text := range service {
		path := filepath.Join(dir, "src", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	for name, pkg := range map[string]string{"svc": ".", "tool": "./tool"} {
		if err := goBuild(filepath.Join(dir, "src"), filepath.Join(dir, name), pkg); err != nil {
			return "", err
		}
	}
	return dir, nil
})

func goBuild(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=", "GOWORK=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

var goRoot = sync.OnceValues(func() (string, error) {
	b, err := exec.Command("go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(b)), err
})

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == bigBundle {
		os.Exit(makeBig(os.Args[2:]))
	}
	code := m.Run()
	if dir, err := compiled(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

var amd64 = platform.Platform{OS: "linux", Arch: "amd64"}

func program(t testing.TB, name string) Program {
	t.Helper()
	dir, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	return programAt(t, name, filepath.Join(dir, name))
}

func programAt(t testing.TB, name, path string) Program {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newSum(f)
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	return Program{Name: name, Path: path, Main: "example.com/svc", Digest: s.hash().String(), Size: s.n}
}

func zones() (string, error) {
	root, err := goRoot()
	return Zones(root), err
}

// input is a service with one program for one platform, unsigned.
func input(t testing.TB) Input {
	t.Helper()
	return Input{Name: "svc", GoVersion: runtime.Version(), Zones: zones, Tool: "test",
		Source: Source{Version: "v1.2.3", Commit: strings.Repeat("ab", 20), Time: time.Unix(1_700_000_000, 0)},
		Images: []Image{{Platform: amd64, Programs: []Program{program(t, "svc")}}}}
}

func signer(k *sign.Private) Signer {
	return Signer{ID: k.ID, Open: func() (*sign.Private, error) { return k, nil }}
}

func newKey(t testing.TB, expires time.Time) *sign.Private {
	t.Helper()
	k, err := sign.New(expires)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newLayout(t testing.TB) Layout {
	t.Helper()
	l, err := Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustMake(t testing.TB, l Layout, in Input) *Bundle {
	t.Helper()
	b, err := Make(t.Context(), l, in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files is a folder's content: name to size, time and content.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		out[rel] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

// tarOf is the entries of a stored layer, and their content.
func tarOf(t testing.TB, from Blobs, l Layer) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	var b bytes.Buffer
	if err := CheckLayer(t.Context(), from, l, &b); err != nil {
		t.Fatal(err)
	}
	headers, bodies := map[string]*tar.Header{}, map[string][]byte{}
	last := ""
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last {
			t.Errorf("%q stands behind %q", h.Name, last)
		}
		last = h.Name
		headers[h.Name] = h
		if bodies[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// several is a bundle for two platforms; the program for the second is the same file.
func several(t testing.TB) Input {
	in := input(t)
	in.Images = append(in.Images, Image{Platform: platform.Platform{OS: "linux", Arch: "arm64"}, Programs: []Program{program(t, "tool")}})
	return in
}

// realDocuments are the JSON documents of a bundle that Make made.
func realDocuments(t testing.TB) [][]byte {
	t.Helper()
	l, in := newLayout(t), several(t)
	in.Signer = signer(newKey(t, time.Time{}))
	b := mustMake(t, l, in)
	blobs, manifests, err := All(t.Context(), l, b.Index)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, d := range append(blobs, manifests...) {
		if d.MediaType.IsLayer() || string(d.MediaType) == sbom.SPDXType {
			continue
		}
		var doc []byte
		if err := Document(t.Context(), l, d, &doc); err != nil {
			t.Fatal(err)
		}
		out = append(out, doc)
	}
	return out
}

var onlyKey = sync.OnceValues(func() (*sign.Private, error) { return sign.New(time.Time{}) })

func testKeys(t testing.TB) []sign.Public {
	t.Helper()
	k, err := onlyKey()
	if err != nil {
		t.Fatal(err)
	}
	return []sign.Public{k.Public}
}

// noParts holds that nothing half written lies in a layout.
func noParts(t testing.TB, l Layout) {
	t.Helper()
	for name, content := range files(t, l.Dir) {
		base := filepath.Base(name)
		if strings.HasPrefix(base, ".") {
			t.Errorf("%s was left behind", name)
		}
		if strings.HasPrefix(filepath.ToSlash(name), "blobs/sha256/") && sha256Of([]byte(content)).Hex != base {
			t.Errorf("%s holds something else", name)
		}
	}
}
