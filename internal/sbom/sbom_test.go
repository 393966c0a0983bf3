package sbom

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// built is a subject with two real programs of one module, compiled here. One dependency comes from a folder.
func built(t testing.TB) Subject {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":     "module example.com/svc\n\ngo 1.25\n\nrequire example.com/dep v1.2.0\n\nreplace example.com/dep => ./dep\n",
		"main.go":    "package main\n\nimport \"example.com/dep\"\n\nfunc main() { println(dep.Name) }\n",
		"dep/go.mod": "module example.com/dep\n\ngo 1.25\n",
		"dep/dep.go": "// Package dep is a dependency.\npackage dep\n\n// Name is its name.\nconst Name = \"dep\"\n",
		"tool/a.go":  "package main\n\nfunc main() { println(\"tool\") }\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := Subject{Name: "svc", Version: "v1.2.3+meta", Tool: "test", Time: time.Unix(1_700_000_000, 0)}
	for i, pkg := range []string{".", "./tool"} {
		name := []string{"svc", "tool"}[i]
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join("out", name), pkg)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		info, err := buildinfo.ReadFile(filepath.Join(dir, "out", name))
		if err != nil {
			t.Fatal(err)
		}
		s.Programs = append(s.Programs, Program{Name: name, Digest: "blake2b:" + strings.Repeat(fmt.Sprint(i), 128), Info: info})
	}
	// What a go command at hand cannot be made to link without a network: modules with hashes, and one that is replaced.
	s.Programs[0].Info.Deps = append(s.Programs[0].Info.Deps,
		&debug.Module{Path: "github.com/BurntSushi/toml", Version: "v1.4.0+incompatible", Sum: "h1:AAAA="},
		&debug.Module{Path: "example.com/was", Version: "v1.0.0", Sum: "h1:BBBB=", Replace: &debug.Module{Path: "example.com/is", Version: "v1.0.1", Sum: "h1:CCCC="}},
		&debug.Module{Path: "example.com/both", Version: "v1.0.0"}, &debug.Module{Path: "example.com/local", Version: "(devel)"})
	s.Programs[1].Info.Deps = append(s.Programs[1].Info.Deps,
		&debug.Module{Path: "example.com/both", Version: "v1.0.0", Sum: "h1:DDDD="}, &debug.Module{Path: "example.com/local"},
		&debug.Module{Path: "example.com/svc", Version: "v1.2.3+meta"})
	return s
}

func TestModules(t *testing.T) {
	want := []Module{
		{"example.com/both", "v1.0.0", "h1:DDDD="}, {"example.com/dep", "", ""}, {"example.com/is", "v1.0.1", "h1:CCCC="}, {"example.com/local", "(devel)", ""},
		{"example.com/svc", "v1.2.3+meta", ""}, {"github.com/BurntSushi/toml", "v1.4.0+incompatible", "h1:AAAA="}, {"std", strings.TrimPrefix(runtime.Version(), "go"), ""},
	}
	if got := Modules(built(t).Programs...); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// purl is what a package URL of a Go module looks like: no empty segments, none of dots, and what is special escaped
// (purl specification, "Rules for each purl component").
var purl = regexp.MustCompile(`^pkg:golang(/[A-Za-z0-9_~!-][A-Za-z0-9._~!-]*)+(@[A-Za-z0-9._~%-]+)?$`)

func checkPURL(t *testing.T, s, path, version string) {
	t.Helper()
	if !purl.MatchString(s) {
		t.Errorf("%q is no package URL", s)
	}
	name, v, _ := strings.Cut(strings.TrimPrefix(s, "pkg:golang/"), "@")
	if v, err := url.PathUnescape(v); err != nil || name != path || v != version && version != "(devel)" {
		t.Errorf("%q is for %q %q (%v), the component is %q %q", s, name, v, err, path, version)
	}
}

// TestCycloneDX holds the document against what version 1.6 demands
// (https://cyclonedx.org/docs/1.6/json/): required fields, forms, references that lead somewhere, and none twice.
func TestCycloneDX(t *testing.T) {
	s := built(t)
	b, err := CycloneDX(s)
	if err != nil {
		t.Fatal(err)
	}
	type component struct {
		Ref     string `json:"bom-ref"`
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
		Hashes  []struct{ Alg, Content string }
	}
	var d struct {
		Schema   string `json:"$schema"`
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Serial   string `json:"serialNumber"`
		Version  int    `json:"version"`
		Metadata struct {
			Timestamp time.Time
			Component component
			Tools     struct{ Components []component }
		}
		Components   []component
		Dependencies []struct {
			Ref       string
			DependsOn []string `json:"dependsOn"`
		}
	}
	strict(t, b, &d)
	if d.Format != "CycloneDX" || d.Spec != "1.6" || d.Version != 1 || !d.Metadata.Timestamp.Equal(s.Time) || d.Schema != "http://cyclonedx.org/schema/bom-1.6.schema.json" {
		t.Errorf("%+v", d)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(d.Serial) {
		t.Errorf("serialNumber %q", d.Serial)
	}
	refs := map[string]bool{}
	hashed := 0
	for _, c := range append([]component{d.Metadata.Component}, d.Components...) {
		if refs[c.Ref] || c.Ref == "" || c.Name == "" || !slices.Contains([]string{"application", "file", "library"}, c.Type) {
			t.Errorf("%+v (its reference is there: %t)", c, refs[c.Ref])
		}
		refs[c.Ref] = true
		if c.Type == "library" {
			checkPURL(t, c.PURL, c.Name, c.Version)
		}
		for _, h := range c.Hashes {
			hashed++
			if h.Alg != "BLAKE2b-512" || len(h.Content) != 128 {
				t.Errorf("%+v", c)
			}
		}
	}
	if len(d.Dependencies) != 1 || d.Dependencies[0].Ref != d.Metadata.Component.Ref || len(d.Dependencies[0].DependsOn) != len(Modules(s.Programs...)) {
		t.Errorf("%+v", d.Dependencies)
	}
	on := map[string]bool{}
	for _, r := range d.Dependencies[0].DependsOn {
		if !refs[r] || on[r] {
			t.Errorf("%q leads nowhere, or is named twice", r)
		}
		on[r] = true
	}
	if hashed != 2 || d.Metadata.Tools.Components[0].Version != "test" {
		t.Errorf("%d hashes, %+v", hashed, d.Metadata.Tools)
	}
	checkPURL(t, d.Metadata.Component.PURL, "example.com/svc", "v1.2.3+meta")
}

// strict decodes a document; what is twice or behind it would be read otherwise by others.
func strict(t *testing.T, b []byte, v any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(v); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if dec.More() {
		t.Errorf("something stands behind the document")
	}
}

// TestSPDX holds the document against what version 2.3 demands (https://spdx.github.io/spdx-spec/v2.3/): required
// fields, identifiers, what a package whose files were not analyzed may have, relationships that lead somewhere.
func TestSPDX(t *testing.T) {
	s := built(t)
	b, err := SPDX(s)
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]json.RawMessage
	var packages []map[string]any
	var relations []struct{ SpdxElementID, RelationshipType, RelatedSpdxElement string }
	strict(t, b, &d)
	strict(t, d["packages"], &packages)
	strict(t, d["relationships"], &relations)
	text := func(raw json.RawMessage) string {
		var s string
		strict(t, raw, &s)
		return s
	}
	if text(d["spdxVersion"]) != "SPDX-2.3" || text(d["dataLicense"]) != "CC0-1.0" || text(d["SPDXID"]) != "SPDXRef-DOCUMENT" || text(d["name"]) != "svc" {
		t.Errorf("%s", b)
	}
	ns, err := url.Parse(text(d["documentNamespace"]))
	if err != nil || !ns.IsAbs() || ns.Fragment != "" || strings.Contains(text(d["documentNamespace"]), "#") {
		t.Errorf("%s: %v", d["documentNamespace"], err)
	}
	var creation struct {
		Created  string
		Creators []string
	}
	strict(t, d["creationInfo"], &creation)
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(creation.Created) || !slices.Equal(creation.Creators, []string{"Tool: fairlead-test"}) {
		t.Errorf("%+v", creation)
	}
	if _, ok := d["files"]; ok {
		t.Error("there are files, which would each need a SHA-1")
	}
	ids := map[string]string{"SPDXRef-DOCUMENT": "document"}
	for _, p := range packages {
		id, _ := p["SPDXID"].(string)
		if ids[id] != "" || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(id) {
			t.Errorf("the identifier %q is wrong or there twice", id)
		}
		ids[id], _ = p["primaryPackagePurpose"].(string)
		if p["name"] == "" || p["downloadLocation"] != "NOASSERTION" || p["filesAnalyzed"] != false || p["licenseConcluded"] == nil || p["licenseDeclared"] == nil || p["copyrightText"] == nil {
			t.Errorf("%v", p)
		}
		refs, _ := p["externalRefs"].([]any)
		for _, r := range refs {
			r, _ := r.(map[string]any)
			if r["referenceCategory"] != "PACKAGE-MANAGER" || r["referenceType"] != "purl" {
				t.Errorf("%v", r)
			}
			name, _ := p["name"].(string)
			version, _ := p["versionInfo"].(string)
			locator, _ := r["referenceLocator"].(string)
			checkPURL(t, locator, name, version)
		}
	}
	count := map[string]int{}
	for _, r := range relations {
		kind := r.RelationshipType + " " + ids[r.RelatedSpdxElement]
		if count[kind]++; ids[r.SpdxElementID] == "" || ids[r.RelatedSpdxElement] == "" {
			t.Errorf("%+v leads nowhere", r)
		}
	}
	want := map[string]int{"DESCRIBES APPLICATION": 1, "GENERATES FILE": 2, "DEPENDS_ON LIBRARY": len(Modules(s.Programs...))}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", count, want)
	}
}

// TestReadBack holds that both documents say the same modules, and that they are the same whenever they are written.
func TestReadBack(t *testing.T) {
	s := built(t)
	for name, write := range map[string]func(Subject) ([]byte, error){"CycloneDX": CycloneDX, "SPDX": SPDX} {
		b, err := write(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := write(s)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: written twice it differs (%v)", name, err)
		}
		got, err := Read(b)
		slices.SortFunc(got, func(a, b Module) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version)) })
		if want := Modules(s.Programs...); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q (%v)\nwant %q", name, got, err, want)
		}
		other := s
		other.Programs = slices.Clone(s.Programs)
		other.Programs[0].Digest = "blake2b:" + strings.Repeat("f", 128)
		if c, err := write(other); err != nil || bytes.Equal(c, b) {
			t.Errorf("%s: another program gives the same document (%v)", name, err)
		}
	}
	no := s
	no.Programs = []Program{{Name: "svc", Info: &debug.BuildInfo{GoVersion: "go1.26.8"}}}
	if b, err := CycloneDX(no); err != nil || !bytes.Contains(b, []byte(`"purl":"pkg:golang/svc@`)) {
		t.Errorf("a program of no module: %s %v", b, err)
	}
}

// TestReadOthers reads documents as other programs write them.
func TestReadOthers(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []Module // nil is an error
	}{
		"group and name": {`{"bomFormat":"CycloneDX","components":[{"type":"library","group":"github.com/a","name":"b","version":"v1.0.0","purl":"pkg:golang/github.com/a/b@v1.0.0"}]}`,
			[]Module{{"github.com/a/b", "v1.0.0", ""}}},
		"nested": {`{"bomFormat":"CycloneDX","components":[{"type":"application","name":"x","components":[{"type":"library","name":"a.b/c","version":"v1","purl":"pkg:golang/a.b/c@v1"}]}]}`,
			[]Module{{"a.b/c", "v1", ""}}},
		"of other languages": {`{"components":[{"name":"left-pad","purl":"pkg:npm/left-pad@1"}]}`, []Module{}},
		"empty":              {`{}`, []Module{}},
		"SPDX": {`{"spdxVersion":"SPDX-2.3","packages":[{"SPDXID":"SPDXRef-a","name":"a.b/c","versionInfo":"v1","externalRefs":[{"referenceLocator":"pkg:golang/a.b/c@v1"}]},
			{"SPDXID":"SPDXRef-b","name":"img"}]}`, []Module{{"a.b/c", "v1", ""}}},
		"no JSON":      {`<bom/>`, nil},
		"another type": {`{"components":{}}`, nil},
	} {
		got, err := Read([]byte(c.text))
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}

// FuzzRead bounds what a document may make of memory, and holds that what is read can be written.
func FuzzRead(f *testing.F) {
	s := Subject{Name: "svc", Programs: []Program{{Name: "svc", Digest: "blake2b:00", Info: &debug.BuildInfo{GoVersion: "go1.26.8",
		Deps: []*debug.Module{{Path: "example.com/x", Version: "v1.0.0", Sum: "h1:AAAA="}}}}}}
	for _, write := range []func(Subject) ([]byte, error){CycloneDX, SPDX} {
		b, err := write(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"components":[{"components":[{"components":[null,{}]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		mods, err := Read(b)
		runtime.ReadMemStats(&after)
		// One component has some 600 bytes and may stand there as "{}," or even "0,": and slices that grow are copied.
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+3000*len(b)); got > limit {
			t.Errorf("%d bytes of document made %d bytes of memory", len(b), got)
		}
		if err != nil && mods != nil {
			t.Errorf("%v and %v", mods, err)
		}
		if len(mods) > len(b) {
			t.Errorf("%d modules in %d bytes", len(mods), len(b))
		}
	})
}
