// Package sign keeps signing keys and makes and checks signed statements with them.
//
// A private key is a file that cosign reads, too: a PEM block with the PKCS #8 key inside, encrypted by a passphrase with
// scrypt and NaCl's secretbox. A signed statement is an in-toto statement in a DSSE envelope
// (https://github.com/secure-systems-lab/dsse) in a sigstore bundle, which `cosign verify` takes with the public key.
package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The types and headers of the PEM blocks. The headers tell what a file is without its passphrase.
const (
	privateBlock = "ENCRYPTED SIGSTORE PRIVATE KEY"
	cosignBlock  = "ENCRYPTED COSIGN PRIVATE KEY" // of older versions of cosign
	publicBlock  = "PUBLIC KEY"

	headerExpires = "Expires"
	headerID      = "Key-Id"
)

// maxKeyFile is the longest file that is read as a key, in bytes.
const maxKeyFile = 64 << 10

// minPassphrase is the least number of bytes of a passphrase: what is shorter is found by trying.
const minPassphrase = 8

// Public is a public key.
type Public struct {
	Key     crypto.PublicKey // *ecdsa.PublicKey on P-256, or ed25519.PublicKey
	ID      string           // sha256:... of its PKIX form
	Expires time.Time        // zero: never
}

// Private is a private key and its public half.
type Private struct {
	Public
	signer crypto.Signer
}

// New makes an ECDSA key on P-256 that is valid until expires (zero: for ever). It is not an Ed25519 key because what
// verifies sigstore bundles does not agree on how one signs: with Ed25519 or with Ed25519ph (docs/decisions/0007).
func New(expires time.Time) (*Private, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return private(priv, expires)
}

func private(signer crypto.Signer, expires time.Time) (*Private, error) {
	pub, err := public(signer.Public(), expires)
	if err != nil {
		return nil, err
	}
	return &Private{pub, signer}, nil
}

func public(key crypto.PublicKey, expires time.Time) (Public, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return Public{}, fail.New(fail.Usage, "", "a key on %s is not supported", k.Curve.Params().Name).Hinted("ECDSA P-256 and Ed25519 are: `fairlead keys new`")
		}
	default:
		return Public{}, fail.New(fail.Usage, "", "a key of type %T is not supported", key).Hinted("ECDSA P-256 and Ed25519 are: `fairlead keys new`")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Public{}, err
	}
	sum := sha256.Sum256(der)
	return Public{Key: key, ID: "sha256:" + hex.EncodeToString(sum[:]), Expires: expires.UTC().Truncate(time.Second)}, nil
}

// PEM writes the public key with its expiry in a header.
func (p Public) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(p.Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Headers: headers(p, false), Bytes: der}), nil
}

func headers(p Public, withID bool) map[string]string {
	h := map[string]string{}
	if !p.Expires.IsZero() {
		h[headerExpires] = p.Expires.Format(time.RFC3339)
	}
	if withID {
		h[headerID] = p.ID
	}
	return h
}

// Seal writes the private key, encrypted with the passphrase. A passphrase of less than 8 bytes gives a [fail.Usage].
func (p *Private) Seal(passphrase []byte) ([]byte, error) {
	if len(passphrase) < minPassphrase {
		return nil, fail.New(fail.Usage, "", "a passphrase has at least %d bytes", minPassphrase)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.signer)
	if err != nil {
		return nil, err
	}
	box, err := encrypted.Encrypt(der, passphrase)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Headers: headers(p.Public, true), Bytes: box}), nil
}

func block(b []byte, what string, types ...string) (*pem.Block, time.Time, error) {
	if len(b) > maxKeyFile {
		return nil, time.Time{}, fail.New(fail.Usage, "", "it is too long for a key (%d bytes)", len(b))
	}
	blk, _ := pem.Decode(b)
	if blk == nil {
		return nil, time.Time{}, fail.New(fail.Usage, "", "it is not a %s key in PEM form", what).Hinted("`fairlead keys new` makes a pair of keys")
	}
	var expires time.Time
	if h := blk.Headers[headerExpires]; h != "" {
		var err error
		if expires, err = time.Parse(time.RFC3339, h); err != nil {
			return nil, time.Time{}, fail.New(fail.Usage, "", "its header %s: %w", headerExpires, err)
		}
	}
	for _, t := range types {
		if blk.Type == t {
			return blk, expires, nil
		}
	}
	e := fail.New(fail.Usage, "", "it holds a %q, not a %s key", blk.Type, what)
	switch blk.Type {
	case publicBlock:
		e.Hint = "the private key's file ends in .key by custom, the public one's in .pub"
	case privateBlock, cosignBlock:
		e.Hint = "give the public key here: it may be shown to everybody, the private one to nobody"
	case "PRIVATE KEY", "EC PRIVATE KEY":
		e.Hint = "it lies unencrypted on the disk: replace it with one of `fairlead keys new`"
	}
	return nil, expires, e
}

// ParsePublic reads a public key in PEM form. What it is not, is a [fail.Usage].
func ParsePublic(b []byte) (Public, error) {
	blk, expires, err := block(b, "public", publicBlock)
	if err != nil {
		return Public{}, err
	}
	key, err := x509.ParsePKIXPublicKey(blk.Bytes)
	if err != nil {
		return Public{}, fail.New(fail.Usage, "", "the public key is damaged: %w", err)
	}
	return public(key, expires)
}

// Sealed tells the public key's ID of an encrypted private key's file, without its passphrase; "" where the file does not say it.
func Sealed(b []byte) (id string, err error) {
	blk, _, err := block(b, "private", privateBlock, cosignBlock)
	if err != nil {
		return "", err
	}
	return blk.Headers[headerID], nil
}

// Open decrypts a private key. A wrong passphrase gives a [fail.Usage].
func Open(b, passphrase []byte) (*Private, error) {
	blk, expires, err := block(b, "private", privateBlock, cosignBlock)
	if err != nil {
		return nil, err
	}
	der, err := encrypted.Decrypt(blk.Bytes, passphrase)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "the passphrase is wrong, or the file is damaged").
			Hinted("the passphrase is asked for on a terminal, or taken from $FAIRLEAD_KEY_PASSPHRASE")
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fail.New(fail.Usage, "", "the private key is damaged: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fail.New(fail.Usage, "", "a key of type %T cannot sign", key)
	}
	p, err := private(signer, expires)
	if err != nil {
		return nil, err
	}
	if id := blk.Headers[headerID]; id != "" && id != p.ID {
		return nil, fail.New(fail.Usage, "", "its header names another key than the one inside (%s)", short(p.ID))
	}
	return p, nil
}

// short is an ID as people compare them.
func short(id string) string { return id[:min(len(id), len("sha256:")+12)] }
