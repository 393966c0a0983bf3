package deploy

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/build"
	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/spec"
)

// BuildOptions change what the spec says of a build.
type BuildOptions struct {
	Platforms []string // in place of build.platforms
	Race      bool
	Output    string // a folder, not there so far, for the image layout; "" for the user's store only
}

// Build makes the artifact and changes nothing on any machine.
func (d Deploy) Build(ctx context.Context, o BuildOptions) (*Made, error) {
	s, err := d.loadFor(o)
	if err != nil {
		return nil, err
	}
	if o.Output != "" {
		if _, err := os.Lstat(o.Output); err == nil {
			return nil, fail.New(fail.Usage, "", "%s is there already", o.Output).Hinted("name a folder that is not there, or remove this one")
		}
	}
	m, err := d.make(ctx, s)
	if err != nil || o.Output == "" {
		return m, err
	}
	return m, WriteLayout(ctx, m.Layout, m.Index, o.Output)
}

func (d Deploy) loadFor(o BuildOptions) (*spec.Spec, error) {
	s, err := spec.Load(d.Dir, d.Env)
	if err != nil {
		return nil, err
	}
	if len(o.Platforms) > 0 {
		s.Build.Platforms = o.Platforms
	}
	s.Build.Race = s.Build.Race || o.Race
	return s, nil
}

// WriteLayout copies one bundle out of a layout to a new folder: it is there whole, or not at all.
func WriteLayout(ctx context.Context, from bundle.Layout, root v1.Descriptor, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".*")
	if err != nil {
		return fail.New(fail.Usage, "write "+dir, "%w", err)
	}
	defer os.RemoveAll(tmp)
	to, err := bundle.Create(tmp)
	if err != nil {
		return err
	}
	if err := bundle.Copy(ctx, from, root, to); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // it is for others to read
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fail.New(fail.Usage, "write "+dir, "%w", err).Hinted("name a folder that is not there")
	}
	return nil
}

// Check is what two builds of the same source came to.
type Check struct {
	Digest      string             `json:"digest"` // of the index
	Other       string             `json:"other"`  // of the index built in another folder
	Same        bool               `json:"same"`
	Differences []build.Difference `json:"differences,omitempty"`
}

// Hint is what to do first.
func (c *Check) Hint() string {
	for _, x := range c.Differences {
		if x.Fix != "" {
			return x.Fix
		}
	}
	return "compare the two programs with `fairlead inspect`"
}

// CheckBuild builds, and builds a second time, from a copy of the source in a temporary folder and with nothing of the first
// build at hand, and compares. It changes neither the user's store nor what lies in the folder. A copy that does not build
// gives a [fail.Build] which says so.
func (d Deploy) CheckBuild(ctx context.Context, o BuildOptions) (*Check, error) {
	s, err := d.loadFor(o)
	if err != nil {
		return nil, err
	}
	platforms, err := platformsOf(s)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "fairlead-check-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	p := build.Params{Dir: s.Dir, Build: s.Build, Name: s.Service, Platforms: platforms}
	first, err := d.bare(ctx, s, p, filepath.Join(tmp, "first"))
	if err != nil {
		return nil, err
	}
	defer first.output.Close()
	again := p
	again.Cache, again.Fresh = filepath.Join(tmp, "build"), filepath.Join(tmp, "go-build")
	var tree build.Tree
	if again.Dir, tree, err = build.CopySource(ctx, p, filepath.Join(tmp, "a folder with another name")); err != nil {
		return nil, err
	}
	text := "build again in " + tmp + ", from what is committed and with an empty build cache"
	if !tree.Clone {
		text = "build again in " + tmp + ", from a copy of the folder as it is and with an empty build cache"
	}
	d.Events.Send(event.Event{Type: "build", Text: text})
	second, err := d.bare(ctx, s, again, filepath.Join(tmp, "second"))
	if err != nil {
		return nil, notAgain(err, tree)
	}
	defer second.output.Close()
	c := &Check{Digest: first.Index.Digest.String(), Other: second.Index.Digest.String()}
	if c.Same = c.Digest == c.Other; c.Same {
		return c, nil
	}
	c.Differences, err = build.Explain(first.output, second.output, build.Where{First: p.Dir, Second: again.Dir, Tree: tree})
	return c, err
}

// notAgain says of the second build's error that the first one had worked, and what it may have lacked.
func notAgain(err error, tree build.Tree) error {
	if fail.KindOf(err) != fail.Build {
		return err
	}
	e := *fail.As(err)
	switch {
	case len(tree.Unknown) > 0:
		e.Op, e.Hint = "build from what is committed", "the build here reads what git ignores: commit it, or generate it before each build: "+strings.Join(tree.Unknown[:min(len(tree.Unknown), 5)], ", ")
	case tree.Clone:
		e.Op = "build from what is committed"
	default:
		e.Op = "build a copy of the folder"
	}
	return &e
}

// bare is make into a layout of its own and without a signature: what is compared is what gets signed.
func (d Deploy) bare(ctx context.Context, s *spec.Spec, p build.Params, layout string) (*Made, error) {
	l, err := bundle.Create(layout)
	if err != nil {
		return nil, err
	}
	out, err := build.Run(ctx, p, d.Events)
	if err != nil {
		return nil, err
	}
	moved := *s
	moved.Dir = p.Dir
	in := d.input(&moved, out)
	in.Zones = zones(ctx, p.Dir)
	if in.Base, err = d.base(ctx, s, l, out); err == nil {
		var b *bundle.Bundle
		if b, err = bundle.Make(ctx, l, in); err == nil {
			return &Made{Bundle: b, Layout: l, Spec: &moved, Source: out.Source, output: out}, nil
		}
	}
	out.Close()
	return nil, err
}

// last is the newest bundle of the service in Dir.
func (d Deploy) last() (bundle.Layout, v1.Descriptor, error) {
	l, err := Store(d.Dir)
	if err != nil {
		return l, v1.Descriptor{}, err
	}
	root, err := l.Find("")
	if fail.KindOf(err) == fail.NotFound {
		err = fail.New(fail.NotFound, "", "nothing was built here so far").Hinted("run `fairlead build` in the service's folder, or name an image layout or HOST/PATH:TAG")
	}
	return l, root, err
}
