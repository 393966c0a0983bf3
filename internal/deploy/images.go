package deploy

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/mod/semver"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/event"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/registry"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// PushOptions say what is sent where.
type PushOptions struct {
	Dir    string   // the service's folder
	Ref    string   // HOST/PATH[:TAG]; "" for build.image.repository
	Layout string   // an image layout to send; "" to build
	Tags   []string // in place of those by rule
}

// Pushed is what a registry has now.
type Pushed struct {
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Tags       []string `json:"tags"`
	Kept       []string `json:"kept,omitempty"` // tags that stay where they are, because they name a newer version
}

// Push sends an artifact to a registry.
func (d Deploy) Push(ctx context.Context, o PushOptions) (*Pushed, error) {
	layout, root, ref, tags, err := d.toPush(ctx, o)
	if err != nil {
		return nil, err
	}
	r, err := registry.Connect(ctx, ref, true, d.Registry)
	if err != nil {
		return nil, err
	}
	out := &Pushed{Repository: ref.Repository(), Digest: root.Digest.String()}
	version := versionOf(ctx, layout, root)
	for _, t := range tags {
		newer, err := r.Newer(ctx, t, version)
		if err != nil {
			return nil, err
		}
		if newer != "" {
			out.Kept = append(out.Kept, t)
			d.Events.Send(event.Event{Type: "tag", Text: fmt.Sprintf("%s stays at %s, which is newer", t, newer)})
			continue
		}
		out.Tags = append(out.Tags, t)
	}
	d.Events.Send(event.Event{Type: "push", Text: "push " + ref.Repository()})
	if err := r.Push(ctx, layout, root, out.Tags); err != nil {
		return nil, err
	}
	text := "pushed " + out.Digest
	if len(out.Tags) > 0 {
		text += " as " + strings.Join(out.Tags, ", ")
	}
	d.Events.Send(event.Event{Type: "push", Text: text, Data: out})
	return out, nil
}

// toPush is what is sent, where to, and what it is called there.
func (d Deploy) toPush(ctx context.Context, o PushOptions) (l bundle.Layout, root v1.Descriptor, ref registry.Ref, tags []string, err error) {
	wanted := o.Tags
	if o.Layout != "" {
		if l, err = bundle.OpenLayout(o.Layout); err != nil {
			return l, root, ref, nil, err
		}
		if root, err = l.Find(""); err != nil {
			return l, root, ref, nil, err
		}
		if o.Ref == "" {
			return l, root, ref, nil, fail.New(fail.Usage, "", "where to?").Hinted("`fairlead push --layout %s HOST/PATH:TAG`", o.Layout)
		}
	} else {
		m, err := d.Build(ctx, BuildOptions{})
		if err != nil {
			return l, root, ref, nil, err
		}
		l, root = m.Layout, m.Index
		if o.Ref == "" {
			o.Ref = m.Spec.Build.Image.Repository
		}
		if o.Ref == "" {
			return l, root, ref, nil, fail.New(fail.Usage, "", "where to?").Hinted("name it, `fairlead push HOST/PATH`, or set `build: {image: {repository: HOST/PATH}}`")
		}
		tags = m.tags(m.Spec.Build.Image.Tags)
	}
	if ref, err = registry.ParseRef(o.Ref); err != nil {
		return l, root, ref, nil, err
	}
	if ref.Digest != "" {
		return l, root, ref, nil, fail.New(fail.Usage, "", "%s: the digest follows from what is sent", o.Ref).Hinted("leave it out")
	}
	if ref.Tag != "" {
		wanted = append([]string{ref.Tag}, wanted...)
	}
	if len(wanted) > 0 {
		tags = wanted
	}
	return l, root, ref, tags, nil
}

// tags are what an artifact is called by rule. Only a clean checkout of a version's tag is called by that version, and only
// a version that is no pre-release is the latest.
func (m *Made) tags(rules []string) []string {
	if len(rules) == 0 {
		rules = []string{"version", "minor", "commit", "latest"}
	}
	s := m.Source
	released := semver.IsValid(s.Version) && semver.Canonical(s.Version) == s.Version && !s.Modified && !describes(s.Version)
	var out []string
	for _, r := range rules {
		switch {
		case r == "version" && released:
			out = append(out, s.Version)
		case r == "minor" && released && semver.Prerelease(s.Version) == "":
			out = append(out, strings.TrimPrefix(semver.MajorMinor(s.Version), "v"))
		case r == "latest" && released && semver.Prerelease(s.Version) == "":
			out = append(out, "latest")
		case r == "commit" && s.Commit != "":
			tag := "sha-" + s.Commit[:12]
			if s.Modified {
				tag += "-dirty"
			}
			out = append(out, tag)
		case r != "version" && r != "minor" && r != "latest" && r != "commit":
			out = append(out, r)
		}
	}
	return out
}

// describes reports whether a version is git's description of a commit behind a tag, as v1.2.3-4-gabcdef0.
func describes(version string) bool {
	i := strings.LastIndex(version, "-g")
	return i > 0 && strings.Contains(version[:i], "-") && strings.Trim(version[i+2:], "0123456789abcdef") == ""
}

func versionOf(ctx context.Context, l bundle.Layout, root v1.Descriptor) string {
	var x v1.IndexManifest
	if bundle.Document(ctx, l, root, &x) != nil {
		return ""
	}
	return x.Annotations["org.opencontainers.image.version"]
}

// Pull fetches an artifact into an image layout: to, or a new folder with the repository's last name.
func (d Deploy) Pull(ctx context.Context, what, to string) (v1.Descriptor, error) {
	ref, err := registry.ParseRef(what)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if to == "" {
		to = path.Base(ref.Repository())
		if _, err := os.Lstat(to); err == nil {
			return v1.Descriptor{}, fail.New(fail.Usage, "", "%s is there already", to).Hinted("name the image layout to write to: -o FOLDER")
		}
	}
	r, err := registry.Connect(ctx, ref, false, d.Registry)
	if err != nil {
		return v1.Descriptor{}, err
	}
	root, err := r.Resolve(ctx)
	if err != nil {
		return root, err
	}
	l, err := pullInto(to)
	if err != nil {
		return root, err
	}
	d.Events.Send(event.Event{Type: "pull", Text: "pull " + ref.String()})
	if err := r.Pull(ctx, root, l); err != nil {
		return root, err
	}
	d.Events.Send(event.Event{Type: "pull", Text: "pulled " + root.Digest.String(), Data: root})
	return root, nil
}

// pullInto opens a layout, or makes one where nothing is or where an earlier pull was broken off.
func pullInto(dir string) (bundle.Layout, error) {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
			return bundle.Layout{}, fail.New(fail.Usage, "", "%s is not empty and not an image layout", dir).Hinted("name another folder: -o FOLDER")
		}
	}
	return bundle.Create(dir)
}

// VerifyOptions say what must hold.
type VerifyOptions struct {
	What   string   // HOST/PATH:TAG or an image layout; "" for the last build in Dir
	Keys   []string // files of public keys
	Policy string   // a policy's file
	Forbid []string // modules
}

// Verify checks an artifact. The result is there also when the policy refuses it.
func (d Deploy) Verify(ctx context.Context, o VerifyOptions) (*bundle.Verified, error) {
	p, err := o.policy()
	if err != nil {
		return nil, err
	}
	from, root, err := d.Find(ctx, o.What)
	if err != nil {
		return nil, err
	}
	return bundle.Verify(ctx, from, root, p, true)
}

func (o VerifyOptions) policy() (bundle.Policy, error) {
	var p bundle.Policy
	if o.Policy != "" {
		b, err := os.ReadFile(o.Policy)
		if err != nil {
			return p, fail.New(fail.Usage, "--policy", "%w", err)
		}
		file, err := depot.ParsePolicy(b, o.Policy)
		if err != nil {
			return p, err
		}
		if p, err = file.Compile(); err != nil {
			return p, err
		}
	}
	for _, k := range o.Keys {
		b, err := os.ReadFile(k)
		if err != nil {
			return p, fail.New(fail.Usage, "--key", "%w", err)
		}
		pub, err := sign.ParsePublic(b)
		if err != nil {
			e := *fail.As(err)
			e.Op = "--key " + k
			return p, &e
		}
		p.Keys, p.Signed = append(p.Keys, pub), true
	}
	for _, f := range o.Forbid {
		r, err := bundle.ParseRule(f)
		if err != nil {
			return p, fail.New(fail.Usage, "--forbid", "%w", err)
		}
		p.Forbid = append(p.Forbid, r)
	}
	return p, nil
}

// Find opens what a person names: an image layout (FOLDER or FOLDER:NAME), a reference into a registry, or, for "", the
// last build of the service in Dir.
func (d Deploy) Find(ctx context.Context, what string) (bundle.Blobs, v1.Descriptor, error) {
	if what == "" {
		return d.last()
	}
	dir, name, _ := strings.Cut(strings.TrimPrefix(what, "oci:"), ":")
	if _, err := os.Stat(dir); err == nil {
		l, err := bundle.OpenLayout(dir)
		if err != nil {
			return nil, v1.Descriptor{}, err
		}
		root, err := l.Find(name)
		return l, root, err
	}
	ref, err := registry.ParseRef(what)
	if err != nil {
		e := *fail.As(err)
		e.Err = fmt.Errorf("%s is neither a folder that is there nor HOST/PATH:TAG", what)
		return nil, v1.Descriptor{}, &e
	}
	r, err := registry.Connect(ctx, ref, false, d.Registry)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	root, err := r.Resolve(ctx)
	return r, root, err
}
