package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/delta"
	"github.com/fairlead-dev/fairlead/test/rig"
)

// A source is one state of a program's source: a published version of a module, or a folder of this one, with or without an
// edit of one line.
type source struct {
	module, version string // a module, or
	dir             string // a folder of this repository
	main            string
	file, at, line  string // behind the text at in file, line is put
}

// BenchmarkDelta measures patches between two builds of real programs: their size in % of the new program, the time to make
// and to apply them, and the peak of this process's memory while it does, both programs included.
func BenchmarkDelta(b *testing.B) {
	caddy := source{module: "github.com/caddyserver/caddy/v2", version: "v2.11.9", main: "./cmd/caddy"}
	nats := source{module: "github.com/nats-io/nats-server/v2", version: "v2.15.2", main: "."}
	gin := source{dir: "examples/gin", main: "."}
	edit := func(s source, file, at, line string) source {
		s.file, s.at, s.line = file, at, line
		return s
	}
	release := func(s source, version string) source {
		s.version = version
		return s
	}
	for _, c := range []struct {
		name     string
		old, new source
	}{
		{"gin/edit", gin, edit(gin, "router.go", "api := r.Group(\"/\", logged(log), gin.Recovery())\n", "log.Info(\"the albums are served\")\n")},
		{"nats/edit", nats, edit(nats, "main.go", "func main() {\n", "println(\"an edited program\")\n")},
		{"nats/release", release(nats, "v2.15.1"), nats},
		{"caddy/edit-main", caddy, edit(caddy, "cmd/caddy/main.go", "func main() {\n", "println(\"an edited program\")\n")},
		{"caddy/edit-core", caddy, edit(caddy, "caddy.go", "func Run(cfg *Config) error {\n",
			"Log().Info(\"running a config\", zap.Int(\"apps\", len(cfg.AppsRaw)))\n")},
		{"caddy/release", release(caddy, "v2.11.8"), caddy},
	} {
		b.Run(c.name, func(b *testing.B) { patched(b, compiled(b, c.old), compiled(b, c.new)) })
	}
}

// compiled returns the stripped program.
func compiled(b *testing.B, s source) []byte {
	b.Helper()
	env := []string{"GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false -mod=mod"}
	from := filepath.Join(rig.Root(b), s.dir)
	if s.module != "" {
		out, err := rig.Command(b, b.TempDir(), env, "go", "mod", "download", "-json", s.module+"@"+s.version)
		if err != nil {
			rig.Missing(b, "the source cannot be fetched: %v", err)
		}
		var got struct{ Dir string }
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			b.Fatal(err)
		}
		from = got.Dir
	}
	// -trimpath makes the two builds the same but for their source, wherever it lies.
	tree := b.TempDir()
	if err := os.CopyFS(tree, os.DirFS(from)); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", s.file} {
		if err := os.Chmod(filepath.Join(tree, name), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if s.file != "" {
		path := filepath.Join(tree, s.file)
		text, err := os.ReadFile(path)
		if err != nil || bytes.Count(text, []byte(s.at)) != 1 {
			b.Fatalf("%s has not exactly one %q: %v", s.file, s.at, err)
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte(s.at), []byte(s.at+s.line), 1), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	bin := filepath.Join(b.TempDir(), "program")
	if _, err := rig.Command(b, tree, env, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, s.main); err != nil {
		rig.Missing(b, "the program cannot be built: %v", err)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		b.Fatal(err)
	}
	return program
}

func patched(b *testing.B, before, after []byte) {
	b.Helper()
	var patch []byte
	var making, applying time.Duration
	var makePeak, applyPeak float64
	n := 0
	for b.Loop() {
		n++
		var err error
		fresh(b)
		begun := time.Now()
		if patch, err = delta.Make(b.Context(), before, after, 0); err != nil {
			b.Fatal(err)
		}
		making += time.Since(begun)
		makePeak = max(makePeak, peak(b))
		fresh(b)
		begun = time.Now()
		got, err := delta.Apply(before, patch, int64(len(after)))
		if err != nil {
			b.Fatal(err)
		}
		applying += time.Since(begun)
		applyPeak = max(applyPeak, peak(b)-float64(len(after))/1e6) // who applies does not hold after
		if !bytes.Equal(got, after) {
			b.Fatal("the patch makes something else")
		}
	}
	b.ReportMetric(100*float64(len(patch))/float64(len(after)), "patch_%")
	b.ReportMetric(making.Seconds()/float64(n), "make_s")
	b.ReportMetric(applying.Seconds()/float64(n), "apply_s")
	b.ReportMetric(makePeak, "make_peak_MB")
	b.ReportMetric(applyPeak, "apply_peak_MB")
	b.ReportMetric(0, "ns/op")
}

// fresh gives memory back and lets Linux count this process's peak anew.
func fresh(b *testing.B) {
	b.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		rig.Missing(b, "the peak of memory cannot be reset: %v", err)
	}
}

// peak returns the greatest resident memory of this process since fresh, in MB.
func peak(b *testing.B) float64 {
	b.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if line, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			var kb float64
			if _, err := fmt.Sscan(line, &kb); err != nil {
				b.Fatal(err)
			}
			return kb * 1024 / 1e6
		}
	}
	b.Fatal("Linux does not say VmHWM")
	return 0
}
