// Package bundletest makes real bundles for the tests of rooms that send, keep and start them.
package bundletest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/bundle"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/sign"
)

// Make makes a bundle of a service "svc", version v1.2.3, for the machine that runs the test: its program is the test binary
// itself with tail behind it, so that another tail makes another bundle. A key signs it; nil leaves it unsigned.
func Make(t testing.TB, key *sign.Private, tail string) (bundle.Layout, *bundle.Bundle) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, tail...)
	path := filepath.Join(t.TempDir(), "svc")
	if err := os.WriteFile(path, b, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	l, err := bundle.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := bundle.Input{Name: "svc", Source: bundle.Source{Version: "v1.2.3"}, Tool: "test", Zones: zones(t),
		Images: []bundle.Image{{Platform: platform.Host(), Programs: []bundle.Program{{Name: "svc", Path: path, Digest: "of " + tail, Size: int64(len(b))}}}}}
	if key != nil {
		in.Signer = bundle.Signer{ID: key.ID, Open: func() (*sign.Private, error) { return key, nil }}
	}
	made, err := bundle.Make(t.Context(), l, in)
	if err != nil {
		t.Fatal(err)
	}
	return l, made
}

// zones finds the time zones that come with Go.
func zones(t testing.TB) func() (string, error) {
	return func() (string, error) {
		root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
		return bundle.Zones(strings.TrimSpace(string(root))), err
	}
}
