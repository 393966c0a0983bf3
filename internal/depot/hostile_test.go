package depot

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

// sha names bytes as a descriptor does.
func sha(t *testing.T, b []byte) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHostileOffers are offers whose digests hold and whose documents say nothing that a machine could use. They come
// before anybody looked at a signature: none may do more than be refused.
func TestHostileOffers(t *testing.T) {
	offer := func(config, manifest string) Offer {
		o := Offer{Documents: map[string][]byte{}}
		put := func(text, mediaType string) string {
			h := sha(t, []byte(text))
			o.Documents[h.String()] = []byte(text)
			d, err := json.Marshal(map[string]any{"mediaType": mediaType, "digest": h.String(), "size": len(text)})
			if err != nil {
				t.Fatal(err)
			}
			return string(d)
		}
		c := put(config, "application/vnd.oci.image.config.v1+json")
		m := put(strings.ReplaceAll(manifest, "CONFIG", c), "application/vnd.oci.image.manifest.v1+json")
		root := put(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[`+m+`]}`, "application/vnd.oci.image.index.v1+json")
		if err := json.Unmarshal([]byte(root), &o.Root); err != nil {
			t.Fatal(err)
		}
		return o
	}
	many := Offer{Root: v1.Descriptor{Digest: sha(t, nil)}, Documents: map[string][]byte{"x": make([]byte, maxDocuments+1)}}
	for name, c := range map[string]struct {
		offer Offer
		want  string
	}{
		"nothing":                    {Offer{}, "not a sha256 digest"},
		"an index that was not sent": {Offer{Root: v1.Descriptor{Digest: sha(t, nil)}}, "was not sent"},
		"very much":                  {many, "more than"},
		"no platform":                {offer(`{}`, `{"config":CONFIG,"layers":[]}`), "does not say for which platform"},
		"no configuration":           {offer(`{}`, `{"layers":[]}`), "was not sent"},
		"configuration of no JSON":   {offer(`x`, `{"config":CONFIG}`), "cannot be read"},
		"a layer too few":            {offer(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}`, `{"config":CONFIG,"layers":[CONFIG]}`), "has 1 layers and tells of 0"},
		"an image for no machine":    {offer(`{"os":"plan10","architecture":"pdp11"}`, `{"config":CONFIG}`), "none of them is this machine's platform"},
	} {
		t.Run(name, func(t *testing.T) {
			d := machine(t)
			w, err := d.Take(t.Context(), c.offer, bundle.Policy{})
			if k := fail.KindOf(err); err == nil || !slices.Contains([]fail.Kind{fail.Preflight, fail.Usage, fail.NotFound}, k) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v %s: %v; want %q", w, k, err, c.want)
			}
			if kept, err := os.ReadDir(d.dirs.Artifacts()); err != nil || len(kept) != 0 {
				t.Errorf("%v is kept of it (%v)", kept, err)
			}
		})
	}
}

// TestHostileParcels are layers that do not come as they should: nothing of them stays.
func TestHostileParcels(t *testing.T) {
	good := bytes.Repeat([]byte("\x00"), 1024) // the end of a tar, and so a tar of nothing
	for name, p := range map[string]Parcel{
		"another form":     {Form: "rar", Body: bytes.NewReader(good)},
		"no zstd":          {Form: Zstd, Body: strings.NewReader("x")},
		"no gzip":          {Form: Gzip, Body: strings.NewReader("x")},
		"no tar":           {Form: Tar, Body: strings.NewReader(strings.Repeat("x", 2000))},
		"another content":  {Form: Tar, Body: bytes.NewReader(append(good, good...))},
		"base of no hash":  {Form: Delta, Base: "../x", Body: bytes.NewReader(nil)},
		"base that is not": {Form: Delta, Base: sha(t, []byte("none")).String(), Body: bytes.NewReader(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			d := machine(t)
			p.DiffID = sha(t, good)
			if err := d.Put(t.Context(), p); err == nil || fail.KindOf(err) == fail.Internal {
				t.Errorf("%s: %v", fail.KindOf(err), err)
			}
			if left, err := os.ReadDir(d.dirs.Layers()); err != nil || len(left) != 0 {
				t.Errorf("%v is left of it (%v)", left, err)
			}
		})
	}
}

// FuzzParsePolicy holds that a policy that is read compiles to what it says, and what is not is a usage error.
func FuzzParsePolicy(f *testing.F) {
	key := "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
	for _, s := range []string{"require: digest\n", "forbid: [std@<v1.26.0, example.com/x/...]\n", "require: signed\nkeys:\n- |\n  " + strings.ReplaceAll(key, "\n", "\n  "),
		"max_age: 720h\n", "a: &a [*a]\n", "{}", ""} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.ContainsAny(b, `/\`) && bytes.Contains(b, []byte("keys")) {
			return // it may name a file of this machine
		}
		p, err := ParsePolicy(b, dir+"/policy.yaml")
		if err != nil {
			if fail.KindOf(err) != fail.Usage {
				t.Errorf("%v", err)
			}
			return
		}
		c, err := p.Compile()
		if err != nil || len(c.Forbid) != len(p.Forbid) || len(c.Keys) != len(p.Keys) || c.Signed != (p.Require == "signed") || c.MaxAge < 0 || c.MaxAge > 0 && p.MaxAge == "" || c.MaxAge > 1<<62*time.Nanosecond {
			t.Errorf("%+v is %+v: %v", p, c, err)
		}
	})
}
