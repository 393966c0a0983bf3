package artifact_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// other is the user who builds the same source a second time. It is nobody's, and differs from the first in all that has
// ever found its way into a program or an archive: number, home, umask, time zone, language, folders and files' times.
const other = 65534

// TestSameDigestForEverybody builds real programs as two users in two folders and holds every digest of the two artifacts
// against each other: the programs', the layers', configurations, manifests, SBOMs, provenance and the index.
//
// The second user has a module cache of its own, which it unpacks itself, and for gin a build cache of its own, empty. For
// the others it begins with the first user's compiled packages, since compiling Caddy twice takes minutes: there, what is
// shown is that the linker, version control and the packaging depend on nothing but the source, not that the compiler does.
// `fairlead build --check` shows that of any program.
func TestSameDigestForEverybody(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() != 0 {
		rig.Missing(t, "to build as another user, this test must be root's")
	}
	for _, c := range []struct{ name, module, spec string }{
		{"gin", "", ""},
		{"nats-server", "github.com/nats-io/nats-server/v2@v2.15.2", "service: nats-server\nbuild: {main: ., platforms: [linux/amd64, linux/arm64]}\n"},
		{"caddy", "github.com/caddyserver/caddy/v2@v2.11.9", "service: caddy\nbuild: {main: ./cmd/caddy}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := openDir(t)
			first := filepath.Join(root, "one")
			lay(t, c.module, c.spec, first)
			one := buildAs(t, builder{dir: first, root: filepath.Join(root, "home of one"), uid: 0, umask: "022", cache: goCache(t),
				env: []string{"TZ=America/Adak", "LANG=C", "USER=root"}})
			second := filepath.Join(root, "home of another", "src", "a much longer folder", "two")
			git(t, root, "clone", "-q", first, second)
			two := builder{dir: second, root: filepath.Join(root, "home of another"), uid: other, umask: "077",
				env: []string{"TZ=Pacific/Kiritimati", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8", "USER=nobody", "LOGNAME=nobody", "GOPROXY=" + proxy(t), "GOSUMDB=off"}}
			two.cache = filepath.Join(two.root, "go-build")
			if c.module != "" {
				lend(t, goCache(t), two.cache)
			}
			own(t, two.root, time.Date(2001, 9, 9, 1, 46, 40, 0, time.UTC))
			same(t, one, buildAs(t, two))
		})
	}
}

// openDir makes a folder that every user may pass through: those of the testing package are their maker's alone.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl-same")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Go's module cache has no right to write, and root needs none.
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// git runs without the user's own configuration, at one time.
func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	env := []string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t",
		"GIT_COMMITTER_EMAIL=t@example.com", "GIT_AUTHOR_DATE=2026-01-31T12:00:00Z", "GIT_COMMITTER_DATE=2026-01-31T12:00:00Z"}
	if out, err := rig.Command(t, dir, env, "git", args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// lay puts the source of a published module, or of examples/gin, into a new repository with one tagged commit.
func lay(t *testing.T, module, spec, tree string) {
	t.Helper()
	from := filepath.Join(rig.Root(t), "examples", "gin")
	if module != "" {
		out, err := rig.Command(t, t.TempDir(), []string{"GOTOOLCHAIN=local", "GOWORK=off"}, "go", "mod", "download", "-json", module)
		if err != nil {
			rig.Missing(t, "the source cannot be fetched: %v", err)
		}
		var got struct{ Dir string }
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		from = got.Dir
	}
	if err := os.CopyFS(tree, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if spec != "" {
		if err := os.WriteFile(filepath.Join(tree, "fairlead.yaml"), []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git(t, tree, "init", "-q", "-b", "main")
	git(t, tree, "add", "--all", "--force")
	git(t, tree, "commit", "-q", "-m", "one")
	git(t, tree, "tag", "v1.2.3")
}

// proxy serves what is downloaded already, so that an empty module cache needs no network.
func proxy(t *testing.T) string {
	t.Helper()
	out, err := rig.Command(t, "", nil, "go", "env", "GOMODCACHE")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(strings.TrimSpace(out), "cache", "download"))))
	t.Cleanup(s.Close)
	return s.URL
}

// lend gives the files of a build cache to another user without copying them: the go command reads entries that are there
// and writes those that are not. Where links cannot be made the other cache stays empty, which takes longer and shows more.
func lend(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // others build, too, and Go removes what is old
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch dir, name, ok := strings.Cut(rel, string(filepath.Separator)); {
		case d.IsDir() && len(rel) == 2:
			return os.Mkdir(filepath.Join(to, rel), 0o755)
		case d.IsDir() && rel != ".":
			return filepath.SkipDir // what is not the cache of packages
		case ok && len(dir) == 2 && (strings.HasSuffix(name, "-a") || strings.HasSuffix(name, "-d")):
			if err := os.Link(path, filepath.Join(to, rel)); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Logf("the other user begins with an empty build cache: %v", err)
	}
}

// own gives a folder to the other user and its files a time. What is linked is the first user's, too, and is left alone.
func own(t *testing.T, root string, at time.Time) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); d.Type().IsRegular() && st.Nlink > 1 {
			return nil
		}
		if err := os.Lchown(path, other, other); err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// builder is a user who builds.
type builder struct {
	dir   string // of the source
	root  string // for everything of the user's own
	cache string // GOCACHE
	uid   uint32
	umask string
	env   []string
}

// buildAs runs `fairlead build` and returns the digest of everything that is in the layout.
func buildAs(t *testing.T, b builder) map[string]string {
	t.Helper()
	bin, err := os.ReadFile(rig.CLI(t))
	if err != nil {
		t.Fatal(err)
	}
	fl, layout := filepath.Join(b.root, "bin", "fairlead"), filepath.Join(b.root, "layout")
	if err := os.MkdirAll(filepath.Dir(fl), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fl, bin, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `umask "$0" && exec "$@"`, b.umask, fl, "build", b.dir, "-o", layout)
	cmd.Dir, cmd.SysProcAttr = b.root, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: b.uid, Gid: b.uid}}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.root, "FAIRLEAD_DIR=" + filepath.Join(b.root, "fairlead"), "GOCACHE=" + b.cache, "GOWORK=off", "GOTOOLCHAIN=local"}, b.env...)
	if b.uid == 0 { // it has the modules; the other one fetches them
		out, err := rig.Command(t, "", nil, "go", "env", "GOMODCACHE")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "GOMODCACHE="+strings.TrimSpace(out))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fairlead build as user %d: %v\n%s", b.uid, err, out)
	}
	return everything(t, layout)
}

// everything names the digest of each part of a layout: what it is, not where it lies.
func everything(t *testing.T, layout string) map[string]string {
	t.Helper()
	type descriptor struct {
		MediaType, Digest, ArtifactType string
		Platform                        struct{ OS, Architecture string }
	}
	type document struct {
		Config, Subject   descriptor
		Layers, Manifests []descriptor
		Rootfs            struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	read := func(path string) (d document) {
		b, err := os.ReadFile(filepath.Join(layout, path))
		if err == nil {
			err = json.Unmarshal(b, &d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	blob := func(d descriptor) document {
		return read(filepath.Join("blobs", "sha256", strings.TrimPrefix(d.Digest, "sha256:")))
	}
	out := map[string]string{}
	for _, m := range read("index.json").Manifests {
		if m.ArtifactType != "" {
			ref := blob(m)
			kind := m.ArtifactType + " about " + ref.Subject.Digest
			out[kind], out["what is in "+kind] = m.Digest, ref.Layers[0].Digest
			continue
		}
		out["index"] = m.Digest
		for _, img := range blob(m).Manifests {
			name := img.Platform.OS + "/" + img.Platform.Architecture
			image := blob(img)
			out[name+" manifest"], out[name+" configuration"] = img.Digest, image.Config.Digest
			for i, l := range image.Layers {
				out[name+" layer "+strconv.Itoa(i)] = l.Digest
			}
			for i, d := range blob(image.Config).Rootfs.DiffIDs {
				out[name+" layer "+strconv.Itoa(i)+" unpacked"] = d
			}
		}
	}
	return out
}

func same(t *testing.T, one, two map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(one)) {
		if one[name] != two[name] {
			t.Errorf("%s: %s, and for the other user %q", name, one[name], two[name])
		}
	}
	for name := range two {
		if one[name] == "" {
			t.Errorf("only the other user has %s", name)
		}
	}
	// Index, one image of two layers and their unpacked forms, two SBOMs and provenance: less is not everything.
	if len(one) < 1+2+4+2*3 || one["index"] == "" {
		t.Errorf("only these parts were found: %v", one)
	}
	t.Logf("%d digests are the same; the index is %s", len(one), one["index"])
}
