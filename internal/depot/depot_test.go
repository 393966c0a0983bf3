package depot

import (
	"bytes"
	"debug/buildinfo"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/bundle/bundletest"
	"github.com/fairlead-dev/fairlead/internal/delta"
	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// made is a bundle of this test binary; tail stands behind the program, as another version's bytes would.
type made struct {
	layout bundle.Layout
	bundle *bundle.Bundle
	offer  Offer
	tar    []byte
}

func build(t *testing.T, key *sign.Private, tail string) made {
	t.Helper()
	var m made
	var err error
	m.layout, m.bundle = bundletest.Make(t, key, tail)
	if m.offer, err = NewOffer(t.Context(), m.layout, m.bundle.Index); err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	if err := bundle.CheckLayer(t.Context(), m.layout, m.bundle.Images[0].Layers[1], &tar); err != nil {
		t.Fatal(err)
	}
	m.tar = tar.Bytes()
	return m
}

func machine(t *testing.T) Depot {
	t.Helper()
	d := home.Dirs{State: filepath.Join(t.TempDir(), "state"), Run: filepath.Join(t.TempDir(), "run")}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	return At(d)
}

func newKey(t *testing.T, expires time.Time) *sign.Private {
	t.Helper()
	k, err := sign.New(expires)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (m made) digest() string { return m.bundle.Index.Digest.String() }

func put(t *testing.T, d Depot, w Wanted, form, base string, body io.Reader) error {
	t.Helper()
	return d.Put(t.Context(), Parcel{DiffID: w.Layer.DiffID, Form: form, Base: base, Body: body})
}

func TestWholeThenDelta(t *testing.T) {
	d, one, two := machine(t), build(t, nil, "one"), build(t, nil, "two")
	w, err := d.Take(t.Context(), one.offer, bundle.Policy{})
	if err != nil || w.Has || len(w.Bases) != 0 {
		t.Fatalf("%+v %v", w, err)
	}
	if _, err := d.Program(t.Context(), one.digest(), bundle.Policy{}); fail.KindOf(err) != fail.NotFound {
		t.Errorf("before the layer came: %v", err)
	}
	if err := put(t, d, w, Tar, "", bytes.NewReader(one.tar[:len(one.tar)/2])); err == nil {
		t.Error("half of a layer is taken")
	}
	if err := put(t, d, w, Tar, "", bytes.NewReader(one.tar)); err != nil {
		t.Fatal(err)
	}
	if w, err = d.Take(t.Context(), two.offer, bundle.Policy{}); err != nil || w.Has || len(w.Bases) != 1 {
		t.Fatalf("%+v %v", w, err)
	}
	patch, err := delta.Make(t.Context(), one.tar, two.tar, 0)
	if err != nil || len(patch) > len(two.tar)/100 {
		t.Fatalf("a patch of %d bytes: %v", len(patch), err)
	}
	if err := put(t, d, w, Delta, w.Bases[0], bytes.NewReader(patch[:len(patch)-1])); fail.KindOf(err) != fail.Preflight {
		t.Errorf("a patch that was cut off: %v", err)
	}
	if err := put(t, d, w, Delta, w.Bases[0], bytes.NewReader(patch)); err != nil {
		t.Fatal(err)
	}
	p, err := d.Program(t.Context(), two.digest(), bundle.Policy{})
	if err != nil || p.Start != "svc" {
		t.Fatalf("%+v %v", p, err)
	}
	if _, err := buildinfo.ReadFile(filepath.Join(p.Dir, p.Start)); err != nil {
		t.Error(err)
	}
	f, err := os.OpenFile(filepath.Join(p.Dir, p.Start), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Program(t.Context(), two.digest(), bundle.Policy{}); fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), "were changed") {
		t.Errorf("a program that somebody changed: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	good, other := newKey(t, time.Time{}), newKey(t, time.Time{})
	short := newKey(t, time.Now().Add(time.Hour))
	late := short.Public
	late.Expires = time.Now().Add(-time.Minute)
	signed, unsigned, soon := build(t, good, "s"), build(t, nil, "u"), build(t, short, "e")
	rule := func(s string) bundle.Rule {
		r, err := bundle.ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	allow := bundle.Policy{Signed: true, Keys: []sign.Public{good.Public}}
	forbid := func(s string) bundle.Policy {
		return bundle.Policy{Signed: true, Keys: allow.Keys, Forbid: []bundle.Rule{rule(s)}}
	}
	for _, c := range []struct {
		name string
		what made
		p    bundle.Policy
		want string // "" is taken
	}{
		{"no policy", unsigned, bundle.Policy{}, ""},
		{"signed", signed, allow, ""},
		{"unsigned", unsigned, allow, "no signature"},
		{"another key", signed, bundle.Policy{Signed: true, Keys: []sign.Public{other.Public}}, "none of the allowed keys"},
		{"an expired key", soon, bundle.Policy{Signed: true, Keys: []sign.Public{late}}, "expired"},
		{"too old", signed, bundle.Policy{Signed: true, Keys: allow.Keys, MaxAge: time.Nanosecond}, "max_age"},
		{"a forbidden module", signed, forbid("std"), "which the policy forbids"},
		{"forbidden below a path", signed, forbid("std/..."), "which the policy forbids"},
		{"an older version forbidden", signed, forbid("std@<v1.0.0"), ""},
		{"Go too old", signed, forbid("std@<v99.0.0"), "which the policy forbids"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := machine(t).Take(t.Context(), c.what.offer, c.p)
			if c.want == "" && err != nil || c.want != "" && (fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), c.want) || fail.As(err).Hint == "") {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	t.Run("accepted once", func(t *testing.T) {
		d := machine(t)
		w, err := d.Take(t.Context(), soon.offer, bundle.Policy{Signed: true, Keys: []sign.Public{short.Public}})
		if err != nil {
			t.Fatal(err)
		}
		if err := put(t, d, w, Tar, "", bytes.NewReader(soon.tar)); err != nil {
			t.Fatal(err)
		}
		later := short.Public
		later.Expires = time.Now().Add(time.Millisecond)
		if _, err := d.Program(t.Context(), soon.digest(), bundle.Policy{Signed: true, Keys: []sign.Public{later}}); err != nil {
			t.Errorf("its key gets old: %v", err)
		}
		if _, err := d.Program(t.Context(), soon.digest(), allow); fail.KindOf(err) != fail.Preflight {
			t.Errorf("its key is not allowed any more: %v", err)
		}
	})
}

// TestTamperedOffer changes every document in turn, and leaves each out.
func TestTamperedOffer(t *testing.T) {
	key := newKey(t, time.Time{})
	m := build(t, key, "x")
	p := bundle.Policy{Signed: true, Keys: []sign.Public{key.Public}, Forbid: []bundle.Rule{{Path: "example.com/none"}}}
	for name, doc := range m.offer.Documents {
		if strings.Contains(string(doc), "SPDX") || strings.Contains(string(doc), "spdx") || string(doc) == "{}" {
			continue // an SPDX document decides nothing
		}
		changed := bytes.Clone(doc)
		changed[len(changed)/2] ^= 1
		for what, with := range map[string][]byte{"changed": changed, "missing": nil} {
			o := m.offer
			o.Documents = map[string][]byte{}
			for k, v := range m.offer.Documents {
				o.Documents[k] = v
			}
			if delete(o.Documents, name); with != nil {
				o.Documents[name] = with
			}
			if _, err := machine(t).Take(t.Context(), o, p); err == nil {
				t.Errorf("%s %s: taken\n%.200s", what, name, doc)
			}
		}
	}
}

func TestPolicyFile(t *testing.T) {
	d := machine(t)
	key := newKey(t, time.Time{})
	pem, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.pub"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "policy.yaml")
	p, err := ParsePolicy([]byte("require: signed\nkeys: [a.pub]\nmax_age: 720h\nforbid: [example.com/x@<v1.2.3]\n"), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
	if _, c, err := d.Policy(); err != nil || !c.Signed || len(c.Keys) != 1 || c.Keys[0].ID != key.ID || c.MaxAge != 720*time.Hour || c.Forbid[0].String() != "example.com/x@<v1.2.3" {
		t.Errorf("%+v %v", c, err)
	}
	for text, want := range map[string]string{"require: maybe": "neither signed nor digest", "require: signed": "needs keys", "keys: [none.pub]": "none.pub",
		"max_age: 1h": "require: signed", "forbid: ['x@@']": "forbid[0]", "requires: signed": "requires", "keys: ['-----BEGIN x']": "keys[0]"} {
		if _, err := ParsePolicy([]byte(text), name); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := os.WriteFile(d.dirs.Policy(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Policy(); fail.KindOf(err) != fail.Preflight {
		t.Errorf("a damaged policy: %v", err)
	}
}
