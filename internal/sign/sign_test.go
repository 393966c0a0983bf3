package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func newKey(t *testing.T, expires time.Time) *Private {
	t.Helper()
	k, err := New(expires)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeysOnDisk(t *testing.T) {
	end := time.Now().Add(time.Hour)
	k := newKey(t, end)
	sealed, err := k.Seal([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := Sealed(sealed); err != nil || id != k.ID {
		t.Errorf("without its passphrase it is %q (%v)", id, err)
	}
	again, err := Open(sealed, []byte("correct horse"))
	if err != nil || again.ID != k.ID || !again.Expires.Equal(end.UTC().Truncate(time.Second)) {
		t.Errorf("%+v %v", again, err)
	}
	pem, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := ParsePublic(pem); err != nil || pub.ID != k.ID || !pub.Expires.Equal(k.Expires) {
		t.Errorf("%+v %v", pub, err)
	}
	for name, f := range map[string]func() error{
		"wrong passphrase":   func() error { _, err := Open(sealed, []byte("battery staple")); return err },
		"short passphrase":   func() error { _, err := k.Seal([]byte("short")); return err },
		"private for public": func() error { _, err := ParsePublic(sealed); return err },
		"public for private": func() error { _, err := Open(pem, nil); return err },
		"no key":             func() error { _, err := ParsePublic([]byte("hello")); return err },
		"too long":           func() error { _, err := ParsePublic(make([]byte, maxKeyFile+1)); return err },
		"another key's header": func() error {
			_, err := Open(bytes.Replace(sealed, []byte(k.ID), []byte("sha256:0"), 1), []byte("correct horse"))
			return err
		},
	} {
		if err := f(); fail.KindOf(err) != fail.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignAndVerify(t *testing.T) {
	now := time.Now()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edKey, err := private(ed, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	other := newKey(t, time.Time{})
	st, err := NewStatement([]Subject{{Name: "x", Digest: map[string]string{"sha256": "ab"}}}, "p", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Private{newKey(t, time.Time{}), edKey} {
		b, err := k.Sign(st, now)
		if err != nil {
			t.Fatal(err)
		}
		got, by, err := Verify(b, []Public{other.Public, k.Public})
		if err != nil || by.ID != k.ID || !got.Has("sha256:ab") || got.Has("sha256:ac") || got.PredicateType != "p" {
			t.Errorf("%+v by %s: %v", got, by.ID, err)
		}
		if _, _, err := Verify(b, []Public{other.Public}); fail.KindOf(err) != fail.Preflight || !strings.Contains(err.Error(), k.ID[:19]) {
			t.Errorf("with another key: %v", err)
		}
		for i := range b { // no changed byte may pass as something else that was signed
			c := bytes.Clone(b)
			c[i] ^= 1
			if s, _, err := Verify(c, []Public{k.Public}); err == nil && !s.Has("sha256:ab") {
				t.Fatalf("byte %d changed, and it says %+v", i, s)
			}
		}
	}
	if _, err := newKey(t, now.Add(-time.Minute)).Sign(st, now); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
}

func FuzzVerify(f *testing.F) {
	k, err := New(time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	st, err := NewStatement([]Subject{{Digest: map[string]string{"sha256": "ab"}}}, "p", nil)
	if err != nil {
		f.Fatal(err)
	}
	b, err := k.Sign(st, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"e30="}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, _, err := Verify(b, []Public{k.Public}); err == nil && !s.Has("sha256:ab") {
			t.Fatalf("it takes %+v, which was never signed", s)
		}
	})
}
