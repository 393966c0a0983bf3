// Package sbom writes what a Go program is made of as CycloneDX and SPDX, from the build information inside the program
// itself. The same program gives the same bytes: nothing in them tells when, where or by whom they were written.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // UUIDs of version 5 are made with it (RFC 9562, section 5.5)
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"golang.org/x/mod/modfile"
)

// Media types of the two documents.
const (
	CycloneDXType = "application/vnd.cyclonedx+json"
	SPDXType      = "application/spdx+json"
)

// Program is a file and its build information.
type Program struct {
	Name   string
	Digest string // blake2b:... (of 512 bits)
	Info   *debug.BuildInfo
}

// Subject is what the document is about: the programs of one image.
type Subject struct {
	Name     string
	Version  string
	Time     time.Time // of the source; zero is written as 1970
	Tool     string    // version of this program
	Programs []Program // at least one
}

// Module is a Go module that a program contains; the standard library is the module "std".
type Module struct {
	Path    string
	Version string
	Sum     string // h1:..., "" where the go command knows none
}

// purlGo is how package URLs of Go modules begin.
const purlGo = "pkg:golang/"

// PURL is the module's package URL (https://github.com/package-url/purl-spec, type golang).
func (m Module) PURL() string {
	if m.Version == "" || m.Version == "(devel)" {
		return purlGo + m.Path
	}
	return purlGo + m.Path + "@" + url.QueryEscape(m.Version)
}

// Modules lists what the programs contain, each module once, by path: the standard library, the dependencies as they
// were replaced, and not the main module. One that comes from a folder keeps its own path, without a version: the folder
// means something on the machine of the build only, and says to nobody which module it is.
func Modules(programs ...Program) []Module {
	seen := map[string]int{} // by package URL, which stands for it in a document
	var out []Module
	add := func(m Module) {
		i, ok := seen[m.PURL()]
		if !ok {
			seen[m.PURL()] = len(out)
			out = append(out, m)
		} else if out[i].Sum == "" {
			out[i].Sum = m.Sum
		}
	}
	for _, p := range programs {
		add(Module{Path: "std", Version: strings.TrimPrefix(p.Info.GoVersion, "go")})
		for _, d := range p.Info.Deps {
			sum, m := d.Sum, d
			switch {
			case d.Replace != nil && modfile.IsDirectoryPath(d.Replace.Path):
				sum, m = "", &debug.Module{Path: d.Path}
			case d.Replace != nil:
				sum, m = d.Replace.Sum, d.Replace
			}
			add(Module{m.Path, m.Version, sum})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Path != out[j].Path {
			return out[i].Path < out[j].Path
		}
		return out[i].Version < out[j].Version
	})
	return out
}

func (p Program) hash() string { return strings.TrimPrefix(p.Digest, "blake2b:") }

// id is a UUID that follows from what the document is about.
func (s Subject) id(kind string) string {
	h := sha1.New() //nolint:gosec // see the import
	fmt.Fprintln(h, kind, s.Name, s.Version)
	for _, p := range s.Programs {
		fmt.Fprintln(h, p.Name, p.Digest)
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x50, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s Subject) created() string {
	t := s.Time
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(time.RFC3339)
}

func (s Subject) main() Module {
	m := s.Programs[0].Info.Main
	return Module{Path: cmp.Or(m.Path, s.Name), Version: s.Version} // a program of no module has no path
}

// CycloneDX writes the document in JSON, version 1.6.
func CycloneDX(s Subject) ([]byte, error) {
	main := s.main()
	root := cdx.Component{BOMRef: "application:" + s.Name, Type: cdx.ComponentTypeApplication, Name: s.Name, Version: s.Version, PackageURL: main.PURL()}
	files := []cdx.Component{}
	refs := []string{}
	for _, p := range s.Programs {
		ref := "file:" + p.Name
		files = append(files, cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeFile, Name: p.Name,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoBlake2b_512, Value: p.hash()}}})
	}
	comps := files
	for _, m := range Modules(s.Programs...) {
		c := cdx.Component{BOMRef: m.PURL(), Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: m.PURL(), Scope: cdx.ScopeRequired}
		if m.Sum != "" {
			// It is a hash of the module's file list, not of one file: under Hashes others would take it for that.
			c.Properties = &[]cdx.Property{{Name: "cdx:golang:sum", Value: m.Sum}}
		}
		comps = append(comps, c)
		refs = append(refs, m.PURL())
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + s.id("cyclonedx")
	bom.Metadata = &cdx.Metadata{Timestamp: s.created(), Component: &root,
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "fairlead", Version: s.Tool}}}}
	bom.Components = &comps
	bom.Dependencies = &[]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &refs}}
	var b bytes.Buffer
	err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(false).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return b.Bytes(), err
}

// The parts of an SPDX 2.3 document that are written (https://spdx.github.io/spdx-spec/v2.3/).
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID         string         `json:"SPDXID"`
		Name       string         `json:"name"`
		Version    string         `json:"versionInfo,omitempty"`
		File       string         `json:"packageFileName,omitempty"`
		Location   string         `json:"downloadLocation"`
		Analyzed   bool           `json:"filesAnalyzed"`
		Purpose    string         `json:"primaryPackagePurpose"`
		Concluded  string         `json:"licenseConcluded"`
		Declared   string         `json:"licenseDeclared"`
		Copyright  string         `json:"copyrightText"`
		Checksums  []spdxChecksum `json:"checksums,omitempty"`
		References []spdxExternal `json:"externalRefs,omitempty"`
		Comment    string         `json:"comment,omitempty"`
	}
	spdxExternal struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRelationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	noAssertion = "NOASSERTION"
	goSum       = "go.sum " // before a module's hash in a package's comment
)

// spdxID makes an identifier of letters, digits, dots and dashes. The hash keeps apart what only differs in others.
func spdxID(kind, name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, name)
	sum := sha256.Sum256([]byte(name))
	return "SPDXRef-" + kind + "-" + clean + "-" + hex.EncodeToString(sum[:4])
}

// SPDX writes the document in JSON, version 2.3.
func SPDX(s Subject) ([]byte, error) {
	main := s.main()
	root := spdxID("Application", main.PURL())
	d := spdxDocument{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: s.Name,
		Namespace: "https://spdx.org/spdxdocs/" + url.PathEscape(s.Name) + "-" + s.id("spdx"),
		Creation:  spdxCreation{s.created(), []string{"Tool: fairlead-" + s.Tool}}}
	d.Packages = append(d.Packages, spdxModule(root, main, "APPLICATION"))
	d.Relationships = append(d.Relationships, spdxRelationship{d.ID, "DESCRIBES", root})
	for _, p := range s.Programs {
		// A package, not a file: files need a SHA-1 (section 8.4), and a package with files the hash of them all (section 7.9).
		id := spdxID("File", p.Name)
		d.Packages = append(d.Packages, spdxPackage{ID: id, Name: p.Name, File: "./" + p.Name, Location: noAssertion, Purpose: "FILE", Concluded: noAssertion,
			Declared: noAssertion, Copyright: noAssertion, Checksums: []spdxChecksum{{"BLAKE2b-512", p.hash()}}})
		d.Relationships = append(d.Relationships, spdxRelationship{root, "GENERATES", id})
	}
	for _, m := range Modules(s.Programs...) {
		id := spdxID("Module", m.PURL())
		d.Packages = append(d.Packages, spdxModule(id, m, "LIBRARY"))
		d.Relationships = append(d.Relationships, spdxRelationship{root, "DEPENDS_ON", id})
	}
	return json.Marshal(d)
}

func spdxModule(id string, m Module, purpose string) spdxPackage {
	p := spdxPackage{ID: id, Name: m.Path, Version: m.Version, Location: noAssertion, Purpose: purpose, Concluded: noAssertion, Declared: noAssertion,
		Copyright: noAssertion, References: []spdxExternal{{"PACKAGE-MANAGER", "purl", m.PURL()}}}
	if m.Sum != "" {
		p.Comment = goSum + m.Sum
	}
	return p
}

// Read lists the Go modules of a CycloneDX or SPDX document in JSON, of ours or of others.
func Read(document []byte) ([]Module, error) {
	var kind struct {
		SPDX string `json:"spdxVersion"`
	}
	if err := json.Unmarshal(document, &kind); err != nil {
		return nil, err
	}
	if kind.SPDX != "" {
		return readSPDX(document)
	}
	var bom cdx.BOM
	if err := json.Unmarshal(document, &bom); err != nil {
		return nil, err
	}
	return components(nil, bom.Components), nil
}

// components adds the modules among a document's components and those inside them.
func components(to []Module, all *[]cdx.Component) []Module {
	if all == nil {
		return to
	}
	for _, c := range *all {
		to = components(to, c.Components)
		if !strings.HasPrefix(c.PackageURL, purlGo) {
			continue
		}
		m := Module{Path: c.Name, Version: c.Version}
		if c.Group != "" {
			m.Path = c.Group + "/" + c.Name
		}
		if c.Properties != nil {
			for _, p := range *c.Properties {
				if p.Name == "cdx:golang:sum" {
					m.Sum = p.Value
				}
			}
		}
		to = append(to, m)
	}
	return to
}

// readSPDX lists the modules among the packages, without those that the document itself is about.
func readSPDX(document []byte) ([]Module, error) {
	var d spdxDocument
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, err
	}
	about := map[string]bool{}
	for _, r := range d.Relationships {
		if r.Type == "DESCRIBES" {
			about[r.To] = true
		}
	}
	var out []Module
	for _, p := range d.Packages {
		if about[p.ID] || !slices.ContainsFunc(p.References, func(x spdxExternal) bool { return strings.HasPrefix(x.Locator, purlGo) }) {
			continue
		}
		m := Module{Path: p.Name, Version: p.Version}
		if sum, ok := strings.CutPrefix(p.Comment, goSum); ok {
			m.Sum = sum
		}
		out = append(out, m)
	}
	return out, nil
}
