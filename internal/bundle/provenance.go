package bundle

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fairlead-dev/fairlead/internal/sbom"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Predicate types of the statements.
const (
	ProvenanceV1 = "https://slsa.dev/provenance/v1"      // https://slsa.dev/spec/v1.1/provenance
	SignatureV1  = "https://sigstore.dev/cosign/sign/v1" // what cosign calls a signature
	buildType    = "https://github.com/fairlead-dev/fairlead/blob/main/docs/reference/provenance.md"
	builderID    = "https://github.com/fairlead-dev/fairlead"
	createdKey   = "org.opencontainers.image.created"
	predicateKey = "dev.sigstore.bundle.predicateType"
)

// EmptyType is the media type of the configuration of artifacts that have none.
const EmptyType = "application/vnd.oci.empty.v1+json"

// Build is what provenance tells of how the programs were made.
type Build struct {
	Parameters any `json:"parameters"` // the spec's build section
}

type resource struct {
	Name      string            `json:"name,omitempty"`
	URI       string            `json:"uri,omitempty"`
	Digest    map[string]string `json:"digest,omitempty"`
	MediaType string            `json:"mediaType,omitempty"`
}

type provenance struct {
	Definition struct {
		Type         string         `json:"buildType"`
		External     map[string]any `json:"externalParameters"`
		Internal     map[string]any `json:"internalParameters"`
		Dependencies []resource     `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	Run struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version"`
		} `json:"builder"`
		Byproducts []resource `json:"byproducts"`
	} `json:"runDetails"`
}

// vouch writes what hangs on the bundle: SBOMs on each image, provenance and signature on the index.
func (l Layout) vouch(b *Bundle, in Input, docs []sbomDocument) error {
	for _, d := range docs {
		ref, err := l.attach(d.about, d.blob, map[string]string{createdKey: in.created().Format(time.RFC3339)})
		if err != nil {
			return err
		}
		b.Referrers = append(b.Referrers, ref)
	}
	subjects := []sign.Subject{{Name: in.Name, Digest: digestSet(b.Index.Digest)}}
	for i, m := range b.Images {
		subjects = append(subjects, sign.Subject{Name: in.Name + " " + m.Platform, Digest: digestSet(m.Manifest.Digest)})
		for _, p := range in.Images[i].Programs {
			subjects = append(subjects, sign.Subject{Name: m.Platform + "/" + p.Name, Digest: map[string]string{"blake2b": strings.TrimPrefix(p.Digest, "blake2b:")}})
		}
	}
	prov, err := in.provenance(docs)
	if err != nil {
		return err
	}
	statement, err := sign.NewStatement(subjects, ProvenanceV1, prov)
	if err != nil {
		return err
	}
	if in.Signer.ID == "" {
		return l.attachStatement(b, in, ProvenanceV1, statement)
	}
	key, err := in.Signer.Open()
	if err != nil {
		return err
	}
	now := time.Now()
	signature, err := sign.NewStatement(subjects[:1], SignatureV1, map[string]string{signedAt: now.UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	for _, s := range []struct {
		predicate string
		statement []byte
	}{{ProvenanceV1, statement}, {SignatureV1, signature}} {
		signed, err := key.Sign(s.statement, now)
		if err != nil {
			return err
		}
		if err := l.attachBundle(b, s.predicate, signed, now); err != nil {
			return err
		}
	}
	b.SignedBy = key.ID
	return nil
}

// signedAt is the signature's time in its predicate: the signer's own word, which max_age of a policy takes.
const signedAt = "signedAt"

func (l Layout) attachStatement(b *Bundle, in Input, predicate string, statement []byte) error {
	blob, err := l.Put(sign.StatementType, statement)
	if err != nil {
		return err
	}
	ref, err := l.attach(b.Index, blob, map[string]string{createdKey: in.created().Format(time.RFC3339), "in-toto.io/predicate-type": predicate})
	b.Referrers = append(b.Referrers, ref)
	return err
}

// attachBundle hangs a signed statement on the index, in the form in which cosign looks for it.
func (l Layout) attachBundle(b *Bundle, predicate string, signed []byte, now time.Time) error {
	blob, err := l.Put(sign.BundleType, signed)
	if err != nil {
		return err
	}
	ref, err := l.attach(b.Index, blob, map[string]string{createdKey: now.UTC().Format(time.RFC3339),
		"dev.sigstore.bundle.content": "dsse-envelope", predicateKey: predicate})
	b.Referrers = append(b.Referrers, ref)
	return err
}

// attach writes a manifest that says that blob is about a subject, and describes it for an index of referrers
// (distribution specification 1.1, "Listing Referrers").
func (l Layout) attach(about, blob v1.Descriptor, annotations map[string]string) (v1.Descriptor, error) {
	empty, err := l.Put(EmptyType, []byte("{}"))
	if err != nil {
		return v1.Descriptor{}, err
	}
	subject := v1.Descriptor{MediaType: about.MediaType, Size: about.Size, Digest: about.Digest}
	d, err := l.PutJSON(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: string(blob.MediaType),
		Config: empty, Layers: []v1.Descriptor{blob}, Subject: &subject, Annotations: annotations})
	d.ArtifactType, d.Annotations = string(blob.MediaType), annotations
	return d, err
}

func digestSet(h v1.Hash) map[string]string { return map[string]string{h.Algorithm: h.Hex} }

// provenance says what was built from what, how and by which builder. There is nothing in it that another build of the
// same source would say differently, except what version control knows of where the source came from.
func (in Input) provenance(docs []sbomDocument) (provenance, error) {
	var p provenance
	d := &p.Definition
	d.Type = buildType
	d.External = map[string]any{"service": in.Name, "build": in.Build.Parameters}
	commands := map[string]any{}
	for _, img := range in.Images {
		commands[img.Platform.String()] = map[string]any{"args": img.Args, "env": plainEnv(img.Env)}
	}
	d.Internal = map[string]any{"go build": commands}
	if in.Source.Branch != "" {
		d.Internal["branch"] = in.Source.Branch
	}
	if in.Source.Modified {
		d.Internal["modified"] = true
	}
	if in.Source.Commit != "" {
		src := resource{Name: "source", Digest: map[string]string{"gitCommit": in.Source.Commit}}
		if in.Source.Remote != "" {
			src.URI = "git+" + in.Source.Remote
		}
		d.Dependencies = append(d.Dependencies, src)
	}
	if in.Base != nil {
		d.Dependencies = append(d.Dependencies, resource{Name: "base", URI: in.Base.Name, Digest: digestSet(in.Base.Digest)})
	}
	modules, err := in.modules()
	if err != nil {
		return p, err
	}
	d.Dependencies = append(d.Dependencies, modules...)
	p.Run.Builder.ID = builderID
	p.Run.Builder.Version = map[string]string{"fairlead": in.Tool, "go": in.GoVersion}
	for _, x := range docs {
		p.Run.Byproducts = append(p.Run.Byproducts, resource{Name: x.name, Digest: digestSet(x.blob.Digest), MediaType: string(x.blob.MediaType)})
	}
	return p, nil
}

// modules are the Go modules that went in, with their go.sum hashes as in-toto writes them: "dirHash", in hexadecimal
// (https://github.com/in-toto/attestation/blob/main/spec/v1/digest_set.md).
func (in Input) modules() ([]resource, error) {
	var programs []sbom.Program
	for _, img := range in.Images {
		for _, p := range img.Programs {
			info, err := readInfo(p.Path)
			if err != nil {
				return nil, err
			}
			programs = append(programs, sbom.Program{Info: info})
		}
	}
	var out []resource
	for _, m := range sbom.Modules(programs...) {
		r := resource{URI: m.PURL()}
		if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
			b, err := base64.StdEncoding.DecodeString(sum)
			if err != nil {
				return nil, fmt.Errorf("the hash of %s: %w", m.Path, err)
			}
			r.Digest = map[string]string{"dirHash": hex.EncodeToString(b)}
		}
		out = append(out, r)
	}
	return out, nil
}

// plainEnv keeps the values of Go's own variables and only the names of others, which may be secrets.
func plainEnv(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "CGO_") {
			name = e
		}
		out = append(out, name)
	}
	return out
}
