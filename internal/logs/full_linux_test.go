package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of 1 MB.
func smallDisk(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m"); errors.Is(err, unix.EPERM) {
		t.Skip("mounting a small file system needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// TestFullDisk fills a real file system of 1 MB, makes room again, and reads the log: whole lines only, and a remark that
// tells how many are missing.
func TestFullDisk(t *testing.T) {
	root := smallDisk(t)
	m := meta
	m.Size = 64 << 20
	w := writer(t, root, m)
	ballast := filepath.Join(root, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 2000
	line := func(i int) []byte { return fmt.Appendf(nil, "{\"msg\":\"%06d\",\"x\":\"%s\"}\n", i, noise(1000)) }
	for i := range n {
		w.Write("stdout", line(i))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	w.Write("stdout", line(n))
	w.Close()
	got := records(t, root, all)
	have, lost := 0, 0
	for i, r := range got {
		switch {
		case r.Stream == "fairlead":
			var k int
			if _, err := fmt.Sscanf(r.Message, "%d records could not be written", &k); err != nil || i != len(got)-2 {
				t.Errorf("record %d of %d: %q", i, len(got), r.Message)
			}
			lost += k
		case len(r.Fields) != 1 || len(r.Fields[0].Value) != 1002:
			t.Errorf("a torn record: %.60q", r.Message)
		default:
			have++
		}
	}
	if lost < 1000 || have+lost != n+1 {
		t.Errorf("%d records are there, %d are said to be lost, together they should be %d", have, lost, n+1)
	}
	if last := got[len(got)-1].Message; !strings.HasSuffix(last, fmt.Sprint(n)) {
		t.Errorf("the last record is %s", last)
	}
}

// A disk that fills up in the middle of a batch keeps its whole lines.
func TestSharedLogOnFullDisk(t *testing.T) {
	root := smallDisk(t)
	l := NewLines(AccessDir(root, "shop", "default"), 64<<20, time.Hour)
	kept, lost := 0, 0
	for b := range 40 {
		var batch []byte
		for i := range 7 {
			batch = append(batch, requestLine(1, b*7+i, 9973)...)
		}
		n, err := l.Write(batch)
		kept += bytes.Count(batch[:n], []byte("\n"))
		lost += bytes.Count(batch[n:], []byte("\n"))
		if (err == nil) != (n == len(batch)) || n > 0 && batch[n-1] != '\n' {
			t.Fatalf("%d of %d bytes: %v", n, len(batch), err)
		}
	}
	if got := records(t, root, access); len(got) != kept || lost == 0 || kept < 50 {
		t.Errorf("%d records, %d said to be kept and %d lost", len(got), kept, lost)
	}
}
