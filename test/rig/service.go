package rig

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Service copies a program of this module, by its path below the root, to a folder of the test's with this fairlead.yaml,
// and returns the folder.
func Service(t testing.TB, program, name, spec string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(Root(t), filepath.FromSlash(program)))); err != nil {
		t.Fatal(err)
	}
	Spec(t, dir, spec)
	return dir
}

// Spec writes the fairlead.yaml of a service's folder.
func Spec(t testing.TB, dir, text string) { Write(t, filepath.Join(dir, "fairlead.yaml"), text) }

// Write writes a file.
func Write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Sums adds up what `fairlead metrics` says of each metric over its labels.
func (m *Machine) Sums(t testing.TB) map[string]int64 {
	t.Helper()
	out, stderr, code := m.Run(t, "metrics")
	if code != 0 {
		t.Fatalf("metrics: %s", stderr)
	}
	sums := map[string]int64{}
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(line, "{")
		_, value, _ := strings.Cut(rest, "} ")
		var n float64
		if json.Unmarshal([]byte(strings.TrimSpace(value)), &n) == nil {
			sums[name] += int64(n)
		}
	}
	return sums
}

// Free returns an address of loopback that nothing listens on.
func Free(t testing.TB) string {
	t.Helper()
	return frees(t, 1)[0].String()
}

// FreePorts returns n ports of loopback that nothing listens on.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	var out []int
	for _, a := range frees(t, n) {
		out = append(out, a.(*net.TCPAddr).Port)
	}
	return out
}

func frees(t testing.TB, n int) (out []net.Addr) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only then: no two are the same
		out = append(out, l.Addr())
	}
	return out
}

// LinuxAndRoot is for what only root can do, and only on Linux. Elsewhere the test is [Missing].
func LinuxAndRoot(t testing.TB, what string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		Missing(t, "%s needs Linux and root", what)
	}
}
