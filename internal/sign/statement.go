package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Media types and names of the formats.
const (
	BundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json" // a signed statement
	StatementType = "application/vnd.in-toto+json"                  // an unsigned one, and the payload of a signed one
	statementV1   = "https://in-toto.io/Statement/v1"
)

// Statement says something about artifacts (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is an artifact that a statement is about.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// Has reports whether the statement is about digest ("sha256:...").
func (s Statement) Has(digest string) bool {
	for _, x := range s.Subject {
		if "sha256:"+x.Digest["sha256"] == digest {
			return true
		}
	}
	return false
}

// NewStatement makes the JSON form of a statement.
func NewStatement(subjects []Subject, predicateType string, predicate any) ([]byte, error) {
	p, err := json.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Statement{Type: statementV1, Subject: subjects, PredicateType: predicateType, Predicate: p})
}

// ParseStatement reads an in-toto statement; what is none gives a [fail.Usage].
func ParseStatement(b []byte) (Statement, error) {
	var s Statement
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fail.New(fail.Usage, "", "it is no in-toto statement: %w", err)
	}
	if s.Type != statementV1 && s.Type != "https://in-toto.io/Statement/v0.1" {
		return s, fail.New(fail.Usage, "", "it is no in-toto statement, its _type is %q", s.Type)
	}
	return s, nil
}

// bundle is the part of a sigstore bundle that is used with a key of one's own
// (https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto).
type bundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	Envelope dsse.Envelope `json:"dsseEnvelope"`
}

// Sign puts a statement into a bundle. A key that has expired at now gives a [fail.Usage].
func (p *Private) Sign(statement []byte, now time.Time) ([]byte, error) {
	if !p.Expires.IsZero() && now.After(p.Expires) {
		return nil, fail.New(fail.Usage, "sign", "the key %s expired on %s", short(p.ID), p.Expires.Format(time.DateOnly)).Hinted("make a new one: `fairlead keys new`")
	}
	sum := sha256.Sum256(dsse.PAE(StatementType, statement))
	msg, opts := sum[:], crypto.SignerOpts(crypto.SHA256)
	if _, ok := p.signer.(ed25519.PrivateKey); ok {
		long := sha512.Sum512(dsse.PAE(StatementType, statement))
		msg, opts = long[:], crypto.SHA512 // Ed25519ph, which is what cosign takes
	}
	sig, err := p.signer.Sign(rand.Reader, msg, opts)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", short(p.ID), err)
	}
	// No key ID in the envelope: verifiers name keys in ways of their own and pass over a signature with another name.
	b := bundle{MediaType: BundleType, Envelope: dsse.Envelope{PayloadType: StatementType, Payload: base64.StdEncoding.EncodeToString(statement),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}}}}
	b.VerificationMaterial.PublicKey.Hint = p.ID
	return json.Marshal(b)
}

// maxSignatures bounds how many signatures of one envelope are tried.
const maxSignatures = 16

// Verify reads a bundle and returns its statement and the one of keys that signed it. Expiry is for the caller to judge.
// What is no bundle, or is signed by none of the keys, gives a [fail.Preflight].
func Verify(b []byte, keys []Public) (Statement, Public, error) {
	var u bundle
	if err := json.Unmarshal(b, &u); err != nil {
		return Statement{}, Public{}, fail.New(fail.Preflight, "", "the signature cannot be read: %w", err)
	}
	if u.Envelope.PayloadType != StatementType || len(u.Envelope.Signatures) > maxSignatures {
		return Statement{}, Public{}, fail.New(fail.Preflight, "", "the signature is over %q with %d signatures, not over an in-toto statement",
			u.Envelope.PayloadType, len(u.Envelope.Signatures))
	}
	payload, err := base64.StdEncoding.DecodeString(u.Envelope.Payload)
	if err != nil {
		return Statement{}, Public{}, fail.New(fail.Preflight, "", "the signed statement cannot be read: %w", err)
	}
	msg := dsse.PAE(u.Envelope.PayloadType, payload)
	for _, s := range u.Envelope.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			continue
		}
		for _, k := range keys {
			if k.verify(msg, sig) {
				st, err := ParseStatement(payload)
				if err != nil {
					return st, k, fail.New(fail.Preflight, "", "what is signed cannot be used: %w", err)
				}
				return st, k, nil
			}
		}
	}
	by := "an unnamed key"
	if h := u.VerificationMaterial.PublicKey.Hint; h != "" {
		by = "the key " + short(h)
	}
	return Statement{}, Public{}, fail.New(fail.Preflight, "", "it is signed with %s, and that is none of the allowed keys, or what it signs was changed", by)
}

func (p Public) verify(msg, sig []byte) bool {
	switch k := p.Key.(type) {
	case ed25519.PublicKey:
		sum := sha512.Sum512(msg)
		return ed25519.Verify(k, msg, sig) || ed25519.VerifyWithOptions(k, sum[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}
