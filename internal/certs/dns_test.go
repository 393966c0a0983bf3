//go:build unix

package certs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mholt/acmez/v3/acme"
)

func TestDNSHook(t *testing.T) {
	dir := t.TempDir()
	challenge := acme.Challenge{Type: acme.ChallengeTypeDNS01, Identifier: acme.Identifier{Type: "dns", Value: "shop.test"}, KeyAuthorization: "x"}
	hook := func(name, script string, mode os.FileMode) dnsHook {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return dnsHook{path}
	}
	const shell = "#!/bin/sh\n"
	h := hook("good", shell+"echo \"$@\" >>"+filepath.Join(dir, "said")+"\n", 0o755)
	if err := h.Present(t.Context(), challenge); err != nil {
		t.Fatal(err)
	}
	if err := h.CleanUp(t.Context(), challenge); err != nil {
		t.Fatal(err)
	}
	value := challenge.DNS01KeyAuthorization()
	b, err := os.ReadFile(filepath.Join(dir, "said"))
	if want := "present _acme-challenge.shop.test. " + value + "\ncleanup _acme-challenge.shop.test. " + value + "\n"; err != nil || string(b) != want {
		t.Errorf("%v %q, want %q", err, b, want)
	}
	for want, h := range map[string]dnsHook{
		"chmod go-w":        hook("open", shell+"exit 0", 0o777),
		"no such file":      {filepath.Join(dir, "missing")},
		"no such zone":      hook("fails", shell+"echo trying\necho no such zone >&2\nexit 1", 0o755),
		"exec format error": hook("binary", "\x7fELF\x00", 0o755),
		"permission denied": hook("plain", shell+"exit 0", 0o600),
	} {
		if err := h.Present(t.Context(), challenge); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "route.acme.dns") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
