package bundle

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// The user that images run as, which the customs of distroless images made the usual one.
const (
	userName = "nonroot"
	userID   = 65532
	certFile = "etc/ssl/certs/ca-certificates.crt"
	homeDir  = "home/" + userName
)

// rootEntries is what a program finds around it in an image without a base: CA roots, time zones, names for its user, a
// home and a folder for temporary files. No shell, and nothing that could be run. zones is Go's zoneinfo.zip.
func rootEntries(zones string) ([]entry, error) {
	out := []entry{
		text(certFile, certificates()),
		text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\n"+userName+":x:65532:65532:"+userName+":/"+homeDir+":/sbin/nologin\n"),
		text("etc/group", "root:x:0:\n"+userName+":x:65532:\n"),
		text("etc/nsswitch.conf", "hosts: files dns\n"),
		{name: homeDir + "/", mode: 0o700, uid: userID},
		{name: "tmp/", mode: 0o1777},
	}
	z, err := zip.OpenReader(zones)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail.New(fail.Preflight, "", "Go's time zones are not at %s", zones).
			Hinted("install a whole Go, or name a base image with its own: `build: {image: {base: NAME@sha256:DIGEST}}`")
	}
	if err != nil {
		return nil, err
	}
	defer z.Close()
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		b, err := fs.ReadFile(z, f.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, entry{name: "usr/share/zoneinfo/" + f.Name, mode: 0o644, data: b, size: int64(len(b))})
	}
	return out, nil
}

func text(name, s string) entry {
	return entry{name: name, mode: 0o644, data: []byte(s), size: int64(len(s))}
}

// certificates are Mozilla's roots that are trusted without conditions: a file cannot say those.
func certificates() string {
	var b bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint != nil {
			continue
		}
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}); err != nil {
			panic(err) // a buffer takes everything
		}
	}
	return b.String()
}

// Zones is where the time zones of the Go installation at goroot lie.
func Zones(goroot string) string { return filepath.Join(goroot, "lib", "time", "zoneinfo.zip") }

// rootLayer returns the layer below the programs, which is made once for each Go release and compression.
func (l Layout) rootLayer(ctx context.Context, compression, zones string) (Layer, error) {
	f, err := os.Open(zones)
	key := ""
	if err == nil {
		in := newSum(f)
		_, err = io.Copy(io.Discard, in)
		key = in.hash().Hex
		f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Layer{}, err
	}
	return l.memoLayer("root\x00"+rootVersion+"\x00"+compression+"\x00"+key, func() (Layer, error) {
		entries, err := rootEntries(zones)
		if err != nil {
			return Layer{}, err
		}
		return l.putLayer(ctx, compression, entries)
	})
}

// rootVersion changes when the code above writes other bytes for the same time zones.
const rootVersion = "1"
