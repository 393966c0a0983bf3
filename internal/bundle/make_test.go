package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// TestSameBytes makes the same bundle in two folders, from programs in two folders, with each compression: every blob is
// the same. Whatever goes into the artifact changes its name, and nothing else does.
func TestSameBytes(t *testing.T) {
	for _, zip := range []string{Gzip, Zstd} {
		t.Run(zip, func(t *testing.T) {
			in := input(t)
			in.Zip = zip
			one, two := newLayout(t), newLayout(t)
			first := mustMake(t, one, in)
			elsewhere := filepath.Join(t.TempDir(), "another name")
			b, err := os.ReadFile(in.Images[0].Programs[0].Path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(elsewhere, b, 0o600); err != nil {
				t.Fatal(err)
			}
			moved := in
			moved.Images = []Image{{Platform: amd64, Programs: []Program{programAt(t, "svc", elsewhere)}}}
			second := mustMake(t, two, moved)
			if keyOf(first) != keyOf(second) {
				t.Errorf("two bundles:\n%s\n%s", keyOf(first), keyOf(second))
			}
			left, right := files(t, one.Dir), files(t, two.Dir)
			for _, m := range []map[string]string{left, right} {
				maps.DeleteFunc(m, func(name, _ string) bool { return strings.HasPrefix(name, ".memo") })
			}
			if len(left) < 10 || !maps.Equal(left, right) {
				t.Errorf("two layouts:\n%q\n%q", slices.Sorted(maps.Keys(left)), slices.Sorted(maps.Keys(right)))
			}
		})
	}
}

func TestWhatTheNameFollowsFrom(t *testing.T) {
	in := input(t)
	was := mustMake(t, newLayout(t), in).Index.Digest
	for name, c := range map[string]struct {
		change func(*Input)
		same   bool
	}{
		"nothing":              {func(*Input) {}, true},
		"another branch":       {func(in *Input) { in.Source.Branch = "fix" }, true},
		"another time zone":    {func(in *Input) { in.Source.Time = in.Source.Time.In(time.FixedZone("x", 3600)) }, true},
		"signed":               {func(in *Input) { in.Signer = signer(newKey(t, time.Time{})) }, true},
		"another fairlead":     {func(in *Input) { in.Tool = "newer" }, true},
		"its go build's flags": {func(in *Input) { in.Images[0].Args = []string{"-trimpath"} }, true},
		"another version":      {func(in *Input) { in.Source.Version = "v1.2.4" }, false},
		"another commit":       {func(in *Input) { in.Source.Commit = strings.Repeat("cd", 20) }, false},
		"another name":         {func(in *Input) { in.Name = "other" }, false},
		"a label":              {func(in *Input) { in.Labels = map[string]string{"a": "b"} }, false},
		"another program":      {func(in *Input) { in.Images[0].Programs[0] = program(t, "tool") }, false},
		"its program's name":   {func(in *Input) { in.Images[0].Programs[0].Name = "other" }, false},
		"one more program":     {func(in *Input) { in.Images[0].Programs = append(in.Images[0].Programs, program(t, "tool")) }, false},
		"zstd":                 {func(in *Input) { in.Zip = Zstd }, false},
	} {
		t.Run(name, func(t *testing.T) {
			other := input(t)
			c.change(&other)
			if now := mustMake(t, newLayout(t), other).Index.Digest; (now == was) != c.same {
				t.Errorf("%s and %s", was, now)
			}
		})
	}
}

// TestMadeAlready holds that a second Make does nothing: it needs neither the program nor the key, and touches no blob.
// Where a blob is lost it does its work again.
func TestMadeAlready(t *testing.T) {
	l, in := newLayout(t), input(t)
	opened := 0
	key := newKey(t, time.Time{})
	in.Signer = Signer{ID: key.ID, Open: func() (*sign.Private, error) { opened++; return key, nil }}
	first := mustMake(t, l, in)
	before := files(t, l.Dir)
	again := in
	again.Images = []Image{{Platform: amd64, Programs: []Program{in.Images[0].Programs[0]}}}
	again.Images[0].Programs[0].Path = "/nowhere"
	again.Zones = func() (string, error) { return "", errors.New("asked for time zones") }
	if b := mustMake(t, l, again); keyOf(b) != keyOf(first) || opened != 1 || !maps.Equal(files(t, l.Dir), before) {
		t.Errorf("it was made again (the key was opened %d times): %+v", opened, b)
	}
	for _, lost := range []v1.Descriptor{first.Index, first.Images[0].Manifest, first.Images[0].Layers[0].Descriptor,
		first.Images[0].Layers[1].Descriptor, first.Referrers[0]} {
		if err := os.Remove(l.path(lost.Digest)); err != nil {
			t.Fatal(err)
		}
		b, err := Make(t.Context(), l, in)
		if err != nil || b.Index.Digest != first.Index.Digest || !l.whole(b) {
			t.Errorf("without %s: %+v %v", lost.Digest, b, err)
		}
	}
}

// TestWhatIsInside reads the image as a container engine would: who runs it, what it finds, and that there is nothing to
// run but its program.
func TestWhatIsInside(t *testing.T) {
	l := newLayout(t)
	in := input(t)
	in.Images[0].Programs = append(in.Images[0].Programs, program(t, "tool"))
	b := mustMake(t, l, in)
	img := b.Images[0]
	p, err := ReadPrograms(t.Context(), l, img.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Config
	if c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{"/app/svc"}) || c.Config.Cmd != nil || c.OS != "linux" || c.Architecture != "amd64" ||
		c.Config.WorkingDir != "/home/nonroot" || !c.Created.Equal(in.Source.Time) || len(c.History) != len(img.Layers) {
		t.Errorf("%+v", c)
	}
	heads, bodies := tarOf(t, l, img.Layers[0])
	for name, want := range map[string]struct {
		mode int64
		uid  int
	}{"tmp/": {0o1777, 0}, "home/nonroot/": {0o700, 65532}, "etc/passwd": {0o644, 0}, certFile: {0o644, 0}, "usr/share/zoneinfo/Europe/Lisbon": {0o644, 0}} {
		if h := heads[name]; h == nil || h.Mode != want.mode || h.Uid != want.uid || h.Gid != want.uid {
			t.Errorf("%s: %+v, want %+v", name, h, want)
		}
	}
	if _, err := time.LoadLocationFromTZData("Europe/Lisbon", bodies["usr/share/zoneinfo/Europe/Lisbon"]); err != nil {
		t.Error(err)
	}
	roots, rest := 0, bodies[certFile]
	for blk, more := pem.Decode(rest); blk != nil; blk, more = pem.Decode(more) {
		if _, err := x509.ParseCertificate(blk.Bytes); err != nil {
			t.Error(err)
		}
		roots++
	}
	if roots < 100 {
		t.Errorf("only %d roots of certificate authorities", roots)
	}
	for name, h := range heads {
		if h.Typeflag == tar.TypeReg && h.Mode&0o111 != 0 || strings.HasSuffix(name, "/sh") || !h.ModTime.Equal(time.Unix(0, 0)) || h.Uname != "" {
			t.Errorf("%s: %+v", name, h)
		}
	}
	heads, bodies = tarOf(t, l, img.Layers[1])
	if names := slices.Sorted(maps.Keys(heads)); !slices.Equal(names, []string{"app/", "app/svc", "app/tool"}) {
		t.Errorf("%q", names)
	}
	for i, p := range in.Images[0].Programs {
		h := heads["app/"+p.Name]
		if h.Mode != 0o755 || h.Uid != 0 || !h.ModTime.Equal(time.Unix(0, 0)) || sha256Of(bodies["app/"+p.Name]).String() != p.Digest {
			t.Errorf("program %d: %+v", i, h)
		}
	}
	dir := filepath.Join(t.TempDir(), "unpacked")
	var raw bytes.Buffer
	if err := CheckLayer(t.Context(), l, p.Layer, &raw); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(bytes.NewReader(raw.Bytes()), p.Layer.DiffID, dir); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := errors.Join(CheckUnpacked(dir, p.Layer.DiffID), Pack(dir, &again)); err != nil || !bytes.Equal(raw.Bytes(), again.Bytes()) {
		t.Errorf("packed again it is another layer: %v", err)
	}
	if runtime.GOOS+"/"+runtime.GOARCH == amd64.String() {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, p.Start[len("app/"):])).CombinedOutput()
		if err != nil || string(out) != "dep\n" {
			t.Errorf("%q %v", out, err)
		}
	}
}

// TestImageIsSmall is a promise to users: an image is at most the compressed program plus 400 KB (and the empty base's
// CA roots and time zones are most of those).
func TestImageIsSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hello")
	if err := goBuild(filepath.Join("..", "..", "examples", "hello"), path, "."); err != nil {
		t.Fatal(err)
	}
	in := input(t)
	in.Images[0].Programs = []Program{programAt(t, "hello", path)}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var best bytes.Buffer
	z, err := gzip.NewWriterLevel(&best, gzipLevel)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, zip := range []string{Gzip, Zstd} {
		in.Zip = zip
		b := mustMake(t, newLayout(t), in)
		t.Logf("%s: the image has %d bytes, the program %d, compressed %d: %d more", zip, b.Size(), len(raw), best.Len(), b.Size()-int64(best.Len()))
		if over := b.Size() - int64(best.Len()); over > 400_000 {
			t.Errorf("%s: the image is %d bytes larger than the compressed program", zip, over)
		}
	}
}

// base writes a base image for a platform into a layout and describes its manifest.
func base(t testing.TB, l Layout, p platform.Platform, user string, diffs int) v1.Descriptor {
	t.Helper()
	layer, err := l.putLayer(t.Context(), Gzip, []entry{text("etc/base", p.String())})
	if err != nil {
		t.Fatal(err)
	}
	c := v1.ConfigFile{OS: p.OS, Architecture: p.Arch, Author: "somebody", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{User: user, Cmd: []string{"/bin/sh"}, Env: []string{"BASE=1"}}}
	for range diffs {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, layer.DiffID)
	}
	config, err := l.PutJSON(types.OCIConfigJSON, c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.PutJSON(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer.Descriptor}})
	if err != nil {
		t.Fatal(err)
	}
	m.Platform = &v1.Platform{OS: p.OS, Architecture: p.Arch}
	return m
}

func TestBases(t *testing.T) {
	arm := platform.Platform{OS: "linux", Arch: "arm64"}
	never := func() (string, error) { return "", errors.New("asked for time zones") }
	for _, c := range []struct {
		name string
		base func(Layout) []v1.Descriptor
		user string
		kind fail.Kind
		want []string
	}{
		{"for both", func(l Layout) []v1.Descriptor {
			return []v1.Descriptor{base(t, l, arm, "", 1), base(t, l, amd64, "1000", 1)}
		}, "1000", "", nil},
		{"that runs as root", func(l Layout) []v1.Descriptor { return []v1.Descriptor{base(t, l, amd64, "root", 1)} }, "65532:65532", "", nil},
		{"for another platform", func(l Layout) []v1.Descriptor { return []v1.Descriptor{base(t, l, arm, "", 1)} }, "", fail.Usage,
			[]string{"base.example.com/x", "linux/arm64", "not for linux/amd64"}},
		{"that says another platform than it has", func(l Layout) []v1.Descriptor {
			d := base(t, l, arm, "", 1)
			d.Platform = nil
			return []v1.Descriptor{d}
		}, "", fail.Usage, []string{"linux/arm64", "not for linux/amd64"}},
		{"of none", func(Layout) []v1.Descriptor { return nil }, "", fail.Usage, []string{"not for linux/amd64"}},
		{"whose layers do not fit", func(l Layout) []v1.Descriptor { return []v1.Descriptor{base(t, l, amd64, "", 2)} }, "", fail.Preflight,
			[]string{"1 layers and tells of 2"}},
		{"that is missing", func(Layout) []v1.Descriptor {
			return []v1.Descriptor{{MediaType: types.OCIManifestSchema1, Digest: sha256Of([]byte("x")), Size: 1}}
		}, "", fail.NotFound, []string{"is missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, in := newLayout(t), input(t)
			in.Zones = never
			in.Base = &Base{Name: "base.example.com/x", Images: c.base(l), Digest: sha256Of([]byte("base"))}
			b, err := Make(t.Context(), l, in)
			if c.kind != "" {
				if fail.KindOf(err) != c.kind {
					t.Errorf("%s: %v", fail.KindOf(err), err)
				}
				for _, w := range c.want {
					if err == nil || !strings.Contains(err.Error(), w) {
						t.Errorf("%v; want %q", err, w)
					}
				}
				if c.kind == fail.Usage && !strings.Contains(fail.As(err).Hint, "build.platforms") {
					t.Errorf("no hint: %+v", fail.As(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := ReadPrograms(t.Context(), l, b.Images[0].Manifest)
			if err != nil || p.Config.Config.User != c.user || p.Config.Config.Cmd != nil || p.Config.Author != "" || !slices.Equal(p.Config.Config.Env, []string{"BASE=1"}) ||
				len(b.Images[0].Layers) != 2 || p.Config.Config.Labels["org.opencontainers.image.base.digest"] != in.Base.Digest.String() {
				t.Errorf("%+v %v", p, err)
			}
			if _, err := Verify(t.Context(), l, b.Index, Policy{}, true); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("none, and Go has no time zones", func(t *testing.T) {
		in := input(t)
		in.Zones = func() (string, error) { return filepath.Join(t.TempDir(), "none.zip"), nil }
		_, err := Make(t.Context(), newLayout(t), in)
		if fail.KindOf(err) != fail.Preflight || !strings.Contains(fail.As(err).Hint, "base") {
			t.Errorf("%v", err)
		}
	})
}

// TestCancelled holds that Make ends when its context does, whenever that is, and leaves a layout that names what it named.
func TestCancelled(t *testing.T) {
	l := newLayout(t)
	old := mustMake(t, l, input(t))
	was, err := l.Index()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("somebody pressed a key")
	path := filepath.Join(t.TempDir(), "svc")
	raw, err := os.ReadFile(program(t, "svc").Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(raw, make([]byte, 3*frameSizes[Zstd])...), 0o600); err != nil {
		t.Fatal(err)
	}
	in := input(t)
	in.Source.Version = "v2"
	in.Images[0].Programs = []Program{programAt(t, "svc", path)}
	in.Zones = func() (string, error) {
		cancel(stopped) // Make has begun
		return zones()
	}
	if _, err := Make(ctx, l, in); !errors.Is(err, stopped) {
		t.Errorf("it says %v", err)
	}
	now, err := l.Index()
	if err != nil || keyOf(now) != keyOf(was) {
		t.Errorf("%s, was %s (%v)", keyOf(now), keyOf(was), err)
	}
	noParts(t, l)
	if _, err := Verify(t.Context(), l, old.Index, Policy{}, true); err != nil {
		t.Error(err)
	}
}
