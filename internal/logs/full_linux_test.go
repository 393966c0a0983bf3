package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk fills a real file system of 1 MB, makes room again, and reads the log: whole lines only, and a remark that
// tells how many are missing.
func TestFullDisk(t *testing.T) {
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
