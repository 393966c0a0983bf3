package deploy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/release"
	"github.com/fairlead-dev/fairlead/internal/sign"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// Made is an artifact in this user's store.
type Made struct {
	*bundle.Bundle
	Layout bundle.Layout // where it lies
	Spec   *spec.Spec
	Source build.Source
	output *build.Output

	mu      sync.Mutex
	patches map[string]patch // that were made for machines
}

// ahead is what takes a while and begins while the go command works, as soon as that compiles something.
type ahead struct {
	key   *key
	zones func() (string, error)
	begun sync.Once
}

func (a *ahead) begin() {
	a.begun.Do(func() {
		a.key.prepare()
		go a.zones()
	})
}

// build makes the programs. What is linked is packed while it is looked at, and while other platforms are built.
func (d Deploy) build(ctx context.Context, s *spec.Spec, a *ahead) (*build.Output, error) {
	platforms, err := platformsOf(s)
	if err != nil {
		return nil, err
	}
	l, err := Store(s.Dir)
	if err != nil {
		return nil, err
	}
	var packing sync.WaitGroup
	return build.Run(ctx, build.Params{Dir: s.Dir, Build: s.Build, Name: s.Service, Platforms: platforms, Reading: &packing}, func(e event.Event) {
		if e.Type == "compile" {
			a.begin()
		}
		if linked, ok := e.Data.([]build.Program); ok && e.Type == build.EventLinked {
			if !slices.ContainsFunc(linked, func(p build.Program) bool { return p.BuildID == "" }) { // by which they are found again
				packing.Go(func() { l.Programs(ctx, s.Build.Image.Compression, programs(linked)) }) // its error comes again when it is needed
			}
			return
		}
		d.Events.Send(e)
	})
}

func platformsOf(s *spec.Spec) ([]platform.Platform, error) {
	var out []platform.Platform
	for _, text := range s.Build.Platforms {
		p, err := platform.Parse(text)
		if err != nil {
			return nil, fail.New(fail.Usage, "build.platforms", "%w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// bundle puts the programs into images, with SBOMs, provenance and, where the spec names a key, a signature.
func (d Deploy) bundle(ctx context.Context, s *spec.Spec, b *build.Output, a *ahead) (*Made, error) {
	l, err := Store(s.Dir)
	if err != nil {
		return nil, err
	}
	in := d.input(s, b)
	in.Zones, in.Signer = a.zones, a.key.signer()
	if in.Base, err = d.base(ctx, s, l, b); err != nil {
		return nil, err
	}
	made, err := bundle.Make(ctx, l, in)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("image %s (%.1f MB", made.Index.Digest, float64(made.Size())/1e6)
	if made.SignedBy != "" {
		text += ", signed"
	}
	d.Events.Send(event.Event{Type: "bundle", Text: text + ")", Data: made})
	return &Made{Bundle: made, Layout: l, Spec: s, Source: b.Source, output: b}, nil
}

// Store is the image layout that a service folder's artifacts are kept in, in the user's cache folder.
func Store(dir string) (bundle.Layout, error) {
	root, err := home.Cache("bundle")
	if err != nil {
		return bundle.Layout{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return bundle.Layout{}, err
	}
	return bundle.Create(filepath.Join(root, home.Key(dir)))
}

// input says what the bundle is made of.
func (d Deploy) input(s *spec.Spec, b *build.Output) bundle.Input {
	in := bundle.Input{
		Name: s.Service, GoVersion: b.GoVersion, Labels: s.Build.Image.Labels, Zip: s.Build.Image.Compression, Tool: d.Version,
		Source: bundle.Source{Version: b.Source.Version, Commit: b.Source.Commit, Branch: b.Source.Branch, Remote: b.Source.Remote,
			Modified: b.Source.Modified, Time: b.Source.Time},
		Build: bundle.Build{Parameters: parameters(s.Build)},
	}
	for _, x := range b.Builds {
		in.Images = append(in.Images, bundle.Image{Platform: x.Platform, Args: x.Args, Env: x.Env, Programs: programs(x.Programs)})
	}
	return in
}

// zones finds the time zones of the Go that builds in dir, once.
func zones(ctx context.Context, dir string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		cmd := exec.CommandContext(ctx, "go", "env", "GOROOT")
		cmd.Dir = dir
		root, err := cmd.Output()
		return bundle.Zones(strings.TrimSpace(string(root))), err
	})
}

func programs(built []build.Program) []bundle.Program {
	var out []bundle.Program
	for _, p := range built {
		out = append(out, bundle.Program{Name: filepath.Base(p.Path), Path: p.Path, Main: p.Main, Digest: p.Digest, Size: p.Size, ID: p.BuildID})
	}
	return out
}

// parameters is the build section as provenance tells it: where the key lies and what the environment holds is nobody's
// business.
func parameters(b spec.Build) spec.Build {
	b.Sign, b.Env = "", nil
	return b
}

// artifact is what a release remembers of it on platform p.
func (m *Made) artifact(p platform.Platform) release.Artifact {
	a := release.Artifact{Digest: m.Index.Digest.String(), Name: m.Spec.Service, Platform: p.String(), Version: m.Source.Version, Commit: m.Source.Commit,
		Modified: m.Source.Modified, Time: m.Source.Time, GoVersion: m.output.GoVersion, SignedBy: m.SignedBy}
	for _, b := range m.output.Builds {
		a.Main = b.Programs[0].Main
		if b.Platform.OS == p.OS && b.Platform.Arch == p.Arch {
			a.Size = 0
			for _, x := range b.Programs {
				a.Size += x.Size
			}
		}
	}
	return a
}

// key is the signing key of a spec, which takes a passphrase and a tenth of a second to open.
type key struct {
	id      string
	open    func() (*sign.Private, error)
	unasked bool // the passphrase is known without asking a person
}

// key looks at the spec's key without opening it; no key is a nil one.
func (d Deploy) key(s *spec.Spec) (*key, error) {
	if s.Build.Sign == "" {
		return nil, nil //nolint:nilnil // no key is no error, and its methods know it
	}
	path := s.Build.Sign
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.New(fail.Usage, "build.sign", "%w", err).Hinted("`fairlead keys new %s` makes a pair of keys", strings.TrimSuffix(filepath.Base(path), ".key"))
	}
	id, err := sign.Sealed(b)
	if err != nil {
		e := *fail.As(err)
		e.Op = "build.sign: " + path
		return nil, &e
	}
	if id == "" {
		id = "file:" + home.Key(string(b)) // a key that cosign made
	}
	_, known := d.known()
	return &key{id: id, unasked: known, open: sync.OnceValues(func() (*sign.Private, error) {
		pass, ok := d.known()
		if !ok {
			if pass, err = d.Passphrase("Passphrase of " + path + ": "); err != nil {
				return nil, err
			}
		}
		p, err := sign.Open(b, pass)
		if err != nil {
			e := *fail.As(err)
			e.Op = "open " + path
			return nil, &e
		}
		return p, nil
	})}, nil
}

// known is a passphrase that nobody needs to type.
func (d Deploy) known() ([]byte, bool) {
	p := d.Getenv("FAIRLEAD_KEY_PASSPHRASE")
	return []byte(p), p != ""
}

// prepare begins to open the key in the background, if nobody has to be asked.
func (k *key) prepare() {
	if k != nil && k.unasked {
		go k.open()
	}
}

func (k *key) signer() bundle.Signer {
	if k == nil {
		return bundle.Signer{}
	}
	return bundle.Signer{ID: k.id, Open: k.open}
}
