package sign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// pemOf is a public key as others write it.
func pemOf(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der})
}

func TestKeysOfOthers(t *testing.T) {
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := ParsePublic(pemOf(t, ed)); err != nil || !k.Expires.IsZero() {
		t.Errorf("%+v %v", k, err)
	}
	good := pemOf(t, newKey(t, time.Time{}).Key)
	block, _ := pem.Decode(good)
	damaged := pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: block.Bytes[:len(block.Bytes)-3]})
	for name, c := range map[string]struct {
		text       []byte
		want, hint string
	}{
		"RSA":          {pemOf(t, long.Public()), "*rsa.PublicKey is not supported", "fairlead keys new"},
		"P-384":        {pemOf(t, p384.Public()), "P-384 is not supported", "fairlead keys new"},
		"damaged":      {damaged, "damaged", ""},
		"another date": {bytes.Replace(good, []byte("KEY-----\n"), []byte("KEY-----\nExpires: soon\n\n"), 1), "Expires", ""},
		"plain":        {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}), "not a public key", "lies unencrypted"},
	} {
		_, err := ParsePublic(c.text)
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), c.want) || !strings.Contains(fail.As(err).Hint, c.hint) {
			t.Errorf("%s: %v (%s); want %q", name, err, fail.As(err).Hint, c.want)
		}
	}
}

// TestBrokenBundles are signed statements that something is wrong with: each is refused, and says why.
func TestBrokenBundles(t *testing.T) {
	k := newKey(t, time.Time{})
	signed := func(payload string) []byte {
		b, err := k.Sign([]byte(payload), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := signed(`{"_type":"` + statementV1 + `"}`)
	change := func(f func(*bundle)) []byte {
		var u bundle
		if err := json.Unmarshal(good, &u); err != nil {
			t.Fatal(err)
		}
		f(&u)
		b, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, _, err := Verify(good, []Public{k.Public}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bundle []byte
		want   string
	}{
		"no JSON":                {[]byte("x"), "cannot be read"},
		"nothing":                {[]byte("{}"), "not over an in-toto statement"},
		"another payload type":   {change(func(u *bundle) { u.Envelope.PayloadType = "text/plain" }), `over "text/plain"`},
		"no base64":              {change(func(u *bundle) { u.Envelope.Payload = "%" }), "cannot be read"},
		"no signature":           {change(func(u *bundle) { u.Envelope.Signatures = nil }), "none of the allowed keys"},
		"no hint":                {change(func(u *bundle) { u.VerificationMaterial.PublicKey.Hint = ""; u.Envelope.Signatures = nil }), "an unnamed key"},
		"signature is no base64": {change(func(u *bundle) { u.Envelope.Signatures[0].Sig = "%" }), "none of the allowed keys"},
		"many signatures": {change(func(u *bundle) {
			for range maxSignatures {
				u.Envelope.Signatures = append(u.Envelope.Signatures, u.Envelope.Signatures[0])
			}
		}), "17 signatures"},
		"another payload":           {change(func(u *bundle) { u.Envelope.Payload = base64.StdEncoding.EncodeToString([]byte(`{}`)) }), "was changed"},
		"it signs no statement":     {signed(`{"_type":"x"}`), "cannot be used"},
		"it signs no JSON":          {signed(`x`), "cannot be used"},
		"it signs nothing in words": {signed(``), "cannot be used"},
	} {
		if _, _, err := Verify(c.bundle, []Public{k.Public}); fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %q", name, fail.KindOf(err), err, c.want)
		}
	}
}

// FuzzKeys gives foreign bytes as key files. What is taken as a public key is the same after it was written again.
func FuzzKeys(f *testing.F) {
	k, err := New(time.Now().Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := k.Seal([]byte("correct horse"))
	if err != nil {
		f.Fatal(err)
	}
	pub, err := k.PEM()
	if err != nil {
		f.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{sealed, pub, pemOf(f, ed), []byte("-----BEGIN PUBLIC KEY-----\nExpires: 1\n\n-----END PUBLIC KEY-----\n")} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, sealedErr := Sealed(b)
		p, err := ParsePublic(b)
		var openErr error
		if blk, _ := pem.Decode(b); blk == nil || !bytes.Contains(blk.Bytes, []byte("scrypt")) { // that one takes 32 MB and long: by the library's own limits
			_, openErr = Open(b, []byte("battery staple"))
		}
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+300*len(b)); got > limit {
			t.Errorf("%d bytes of key made %d bytes of memory", len(b), got)
		}
		for _, e := range []error{sealedErr, err, openErr} {
			if e != nil && fail.KindOf(e) != fail.Usage {
				t.Errorf("%v", e)
			}
		}
		if err != nil {
			return
		}
		text, err := p.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParsePublic(text); err != nil || again.ID != p.ID || !again.Expires.Equal(p.Expires) {
			t.Errorf("%+v is written as %s, which is %+v (%v)", p, text, again, err)
		}
	})
}
