package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// bigBundle is the argument with which the test binary bundles a program and unpacks it again, as a process of its own
// whose memory can be measured.
const bigBundle = "make-a-big-bundle"

const bigSize = 300 << 20

// bigProgram writes a program of 300 MB: mostly zeros, and 64 KiB of noise in every 4 MiB.
func bigProgram(t *testing.T) Program {
	t.Helper()
	small := program(t, "svc")
	b, err := os.ReadFile(small.Path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "svc")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise, random := make([]byte, 64<<10), rand.NewChaCha8([32]byte{1})
	for at := int64(8 << 20); at < bigSize; at += 4 << 20 {
		if _, err := random.Read(noise); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(noise, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(bigSize); err != nil {
		t.Fatal(err)
	}
	return programAt(t, "svc", path)
}

// makeBig is the child: it bundles the program args[0] into args[1] and unpacks it into args[2], with the compression args[3].
func makeBig(args []string) int {
	err := func() error {
		fi, err := os.Stat(args[0])
		if err != nil {
			return err
		}
		l, err := Create(args[1])
		if err != nil {
			return err
		}
		ctx := context.Background()
		b, err := Make(ctx, l, Input{Name: "svc", Zones: zones, Zip: args[3], Images: []Image{{Platform: amd64,
			Programs: []Program{{Name: "svc", Path: args[0], Digest: "blake2b:big", Size: fi.Size()}}}}})
		if err != nil {
			return err
		}
		layer := b.Images[0].Layers[1]
		r, w := io.Pipe()
		go func() { w.CloseWithError(CheckLayer(ctx, l, layer, w)) }()
		if err := Unpack(r, layer.DiffID, args[2]); err != nil {
			return err
		}
		return errors.Join(CheckUnpacked(args[2], layer.DiffID), os.RemoveAll(args[2]))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
