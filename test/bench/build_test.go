package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// buildRounds is how many times each tool builds; the median counts. Between two of its turns all others have theirs, so that
// a busy moment of the machine hits all of them.
const buildRounds = 5

// fourPlatforms are those of the promise.
var fourPlatforms = []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64"}

// BenchmarkBuild measures from source to a complete OCI layout, with SBOMs, provenance and signature, on a warm build cache,
// beside a plain `go build` with the same flags and beside ko: after an edit of one line, when nothing changed, and for four
// platforms beside `go build` for one after the other.
//
// Each build after an edit has a line of its own, or the second tool would find what the first one compiled. The first run
// on a machine compiles everything for all platforms, which takes minutes.
func BenchmarkBuild(b *testing.B) {
	for _, s := range []struct {
		name string
		source
	}{
		{"gin", source{dir: "examples/gin", main: ".", file: "router.go", at: "api := r.Group(\"/\", logged(log), gin.Recovery())\n", line: "log.Info(%q)\n"}},
		{"nats-server", source{module: "github.com/nats-io/nats-server/v2", version: "v2.15.2", main: ".", file: "main.go", at: "func main() {\n", line: "println(%q)\n"}},
		{"caddy", source{module: "github.com/caddyserver/caddy/v2", version: "v2.11.9", main: "./cmd/caddy", file: "cmd/caddy/main.go", at: "func main() {\n", line: "println(%q)\n"}},
	} {
		b.Run(s.name+"/one", func(b *testing.B) { newBuilding(b, s.name, s.source).one(b) })
		b.Run(s.name+"/four", func(b *testing.B) { newBuilding(b, s.name, s.source).four(b) })
	}
}

// building is a source tree that is edited and built.
type building struct {
	source
	tree string
	out  string // for what the tools write
	env  []string
	fl   string
	ko   string
	text string // of the file that is edited
	edit int
}

func newBuilding(b *testing.B, name string, s source) *building {
	b.Helper()
	out, err := os.MkdirTemp("", "fl-build") // not b.TempDir: ko wants a layout's path without capitals
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(out); err != nil {
			b.Error(err)
		}
	})
	x := &building{source: s, tree: filepath.Join(out, "src"), out: filepath.Join(out, "out"), fl: rig.CLI(b), ko: rig.GoTool(b, "github.com/google/ko@v0.19.1")}
	if err := os.CopyFS(x.tree, os.DirFS(fetched(b, s))); err != nil {
		b.Fatal(err)
	}
	cache, err := rig.Command(b, "", nil, "go", "env", "GOCACHE")
	if err != nil {
		b.Fatal(err)
	}
	x.env = []string{"GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GOCACHE=" + strings.TrimSpace(cache), "XDG_CACHE_HOME=" + filepath.Join(x.out, "cache"),
		"FAIRLEAD_DIR=" + filepath.Join(x.out, "fairlead"), "FAIRLEAD_KEY_PASSPHRASE=correct horse", "KO_DOCKER_REPO=registry.example.com/team", "KO_DEFAULTBASEIMAGE=" + emptyBase(b)}
	if err := os.Mkdir(x.out, 0o755); err != nil {
		b.Fatal(err)
	}
	key := filepath.Join(x.out, "release")
	x.must(b, x.fl, "keys", "new", key)
	for file, text := range map[string]string{
		"fairlead.yaml": fmt.Sprintf("service: %s\nbuild: {main: %s, sign: %s.key}\n", name, s.main, key),
		".ko.yaml":      fmt.Sprintf("builds: [{id: main, main: %s, flags: [-buildvcs=true], ldflags: [-s, -w]}]\n", s.main),
	} {
		if err := os.WriteFile(filepath.Join(x.tree, file), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	file := filepath.Join(x.tree, s.file)
	text, err := os.ReadFile(file)
	if err != nil || strings.Count(string(text), s.at) != 1 {
		b.Fatalf("%s has not exactly one %q: %v", s.file, s.at, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		b.Fatal(err)
	}
	x.text = string(text)
	for _, args := range [][]string{{"init", "-q"}, {"add", "--all", "--force"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one"}, {"tag", "v1.2.3"}} {
		x.must(b, "git", args...)
	}
	return x
}

// fetched is the folder of a source.
func fetched(b *testing.B, s source) string {
	b.Helper()
	if s.module == "" {
		return filepath.Join(rig.Root(b), s.dir)
	}
	out, err := rig.Command(b, b.TempDir(), []string{"GOTOOLCHAIN=local", "GOWORK=off"}, "go", "mod", "download", "-json", s.module+"@"+s.version)
	if err != nil {
		rig.Missing(b, "the source cannot be fetched: %v", err)
	}
	var got struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		b.Fatal(err)
	}
	return got.Dir
}

// emptyBase serves an image without layers for ko, which must have a base, as fairlead's images need none.
func emptyBase(b *testing.B) string {
	b.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	b.Cleanup(s.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/base:latest")
	if err != nil {
		b.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		b.Fatal(err)
	}
	return ref.String()
}

func (x *building) must(b *testing.B, name string, args ...string) string {
	b.Helper()
	out, err := rig.Command(b, x.tree, x.env, name, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// change puts a line into the source that was never there before.
func (x *building) change(b *testing.B) {
	b.Helper()
	x.edit++
	line := fmt.Sprintf(x.line, fmt.Sprintf("edit %d of %d", x.edit, time.Now().UnixNano()))
	if err := os.WriteFile(filepath.Join(x.tree, x.file), []byte(strings.Replace(x.text, x.at, x.at+line, 1)), 0o644); err != nil {
		b.Fatal(err)
	}
}

// took runs a program of a tool and returns how long that took.
func (x *building) took(b *testing.B, env []string, name string, args ...string) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), name, args...)
	cmd.Dir, cmd.Env = x.tree, append(append(os.Environ(), x.env...), env...)
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	d := time.Since(begun)
	if err != nil {
		b.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return d
}

func (x *building) goBuild(b *testing.B, platform string) time.Duration {
	b.Helper()
	var env []string
	if os, arch, ok := strings.Cut(platform, "/"); ok {
		env = []string{"GOOS=" + os, "GOARCH=" + arch}
	}
	out := filepath.Join(x.out, "go", strings.ReplaceAll(platform, "/", "-"), "program")
	return x.took(b, env, "go", "build", "-trimpath", "-ldflags=-s -w", "-buildvcs=true", "-o", out, x.main)
}

func (x *building) fairlead(b *testing.B, platforms ...string) time.Duration {
	b.Helper()
	args := []string{"build"}
	for _, p := range platforms {
		args = append(args, "--platform", p)
	}
	return x.took(b, nil, x.fl, args...)
}

func (x *building) koBuild(b *testing.B) time.Duration {
	b.Helper()
	return x.took(b, nil, x.ko, "build", "--push=false", "--oci-layout-path", filepath.Join(x.out, "ko"), x.main)
}

// one measures a single platform: every tool after an edit of its own, and again with nothing changed.
func (x *building) one(b *testing.B) {
	tools := []struct {
		name  string
		build func() time.Duration
	}{
		{"go", func() time.Duration { return x.goBuild(b, "") }},
		{"fairlead", func() time.Duration { return x.fairlead(b) }},
		{"ko", func() time.Duration { return x.koBuild(b) }},
	}
	for _, t := range tools {
		t.build() // the caches are warm from here on
	}
	for b.Loop() {
		edits, nothing := map[string][]time.Duration{}, map[string][]time.Duration{}
		for round := range buildRounds {
			for i := range tools {
				t := tools[(i+round)%len(tools)] // nobody is always the first
				x.change(b)
				edits[t.name] = append(edits[t.name], t.build())
				nothing[t.name] = append(nothing[t.name], t.build())
			}
		}
		x.complete(b)
		report(b, "edit", edits)
		report(b, "nothing", nothing)
	}
	b.ReportMetric(0, "ns/op")
}

// complete holds that what was measured is the whole artifact.
func (x *building) complete(b *testing.B) {
	b.Helper()
	var got struct {
		Artifact struct {
			SignedBy  string `json:"signed_by"`
			Referrers []struct{ ArtifactType string }
		}
	}
	lines := strings.Split(strings.TrimSpace(x.must(b, x.fl, "build", "--json")), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		b.Fatal(err)
	}
	if n := len(got.Artifact.Referrers); got.Artifact.SignedBy == "" || n < 4 {
		b.Fatalf("signed by %q, with %d referrers: two SBOMs, provenance and a signature are the least", got.Artifact.SignedBy, n)
	}
}

// report tells medians, and each tool's ratio to plain Go.
func report(b *testing.B, what string, all map[string][]time.Duration) {
	b.Helper()
	for tool, times := range all {
		b.Logf("%s, %s: %v", what, tool, times)
		b.ReportMetric(middle(times).Seconds(), tool+"_"+what+"_s")
		if tool != "go" {
			b.ReportMetric(middle(times).Seconds()/middle(all["go"]).Seconds(), tool+"_"+what+"_x")
		}
	}
}

func middle(times []time.Duration) time.Duration {
	times = slices.Sorted(slices.Values(times))
	return times[len(times)/2]
}

// four measures four platforms at once, from an edit to the signed index, beside itself and `go build` for one after the
// other.
func (x *building) four(b *testing.B) {
	inTurn := func() (sum time.Duration) {
		for _, p := range fourPlatforms {
			sum += x.goBuild(b, p)
		}
		return sum
	}
	inTurn()
	x.fairlead(b, fourPlatforms...)
	for b.Loop() {
		all := map[string][]time.Duration{}
		for round := range buildRounds {
			for i := range 3 {
				x.change(b)
				switch (i + round) % 3 {
				case 0:
					all["go"] = append(all["go"], inTurn())
				case 1:
					all["fairlead"] = append(all["fairlead"], x.fairlead(b, fourPlatforms...))
				default:
					var sum time.Duration
					for _, p := range fourPlatforms {
						sum += x.fairlead(b, p)
					}
					all["in_turn"] = append(all["in_turn"], sum)
				}
			}
		}
		report(b, "four", all)
		b.ReportMetric(middle(all["fairlead"]).Seconds()/middle(all["in_turn"]).Seconds(), "fairlead_four_of_in_turn_x")
	}
	b.ReportMetric(0, "ns/op")
}
