package artifact_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"

	"github.com/fairlead-dev/fairlead/test/rig"
)

// TestDockerfile exports a Dockerfile, commits it, as one would, and lets podman build it: its programs must have the digests
// of those that fairlead builds of that commit.
//
// The image golang:VERSION is made here, of this machine's Go, git and shell: what the build needs of the real one, which is
// on no registry that a test may ask.
func TestDockerfile(t *testing.T) {
	debian(t, "podman", "runc", "git")
	if os.Geteuid() != 0 {
		rig.Missing(t, "a container without a daemon and without user namespaces needs root")
	}
	rig.Tool(t, "busybox", "busybox-static")
	fl, tmp := rig.CLI(t), t.TempDir()
	env := []string{"XDG_CACHE_HOME=" + filepath.Join(tmp, "cache"), "FAIRLEAD_DIR=" + filepath.Join(tmp, "fairlead"), "GOCACHE=" + goCache(t), "GOWORK=off", "GOTOOLCHAIN=local", "GOFLAGS=", "TMPDIR=" + tmp}
	repo := filepath.Join(tmp, "src")
	folder := filepath.Join(repo, "services", "svc")
	dockerService(t, repo, folder)
	run := func(args ...string) string {
		t.Helper()
		out, err := rig.Command(t, folder, env, fl, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	run("export", "dockerfile", "-o", "Dockerfile")
	git(t, repo, "add", ".")
	git(t, repo, "commit", "-qm", "two")
	if text := run("export", "dockerfile"); strings.Contains(text, "hush") || strings.Contains(text, "v1.2.3") {
		t.Errorf("it has a secret or a version in it:\n%s", text)
	} else if b, err := os.ReadFile(filepath.Join(folder, "Dockerfile")); err != nil || string(b) != text {
		t.Errorf("it is another one for another commit: %v", err)
	}
	run("build", "-o", filepath.Join(tmp, "layout"))
	want := ourPrograms(t, filepath.Join(tmp, "layout"))

	podman := []string{"--root", filepath.Join(tmp, "root"), "--runroot", filepath.Join(tmp, "run"), "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc"}
	in := func(stdin func(io.Writer) error, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "podman", append(append([]string{}, podman...), args...)...)
		cmd.Dir, cmd.Env = repo, append(os.Environ(), env...)
		var done chan error
		if stdin != nil {
			r, w := io.Pipe()
			cmd.Stdin, done = r, make(chan error, 1)
			go func() {
				err := stdin(w)
				done <- err
				w.CloseWithError(err)
			}()
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if done != nil {
			err = errors.Join(err, <-done)
		}
		if err != nil {
			t.Fatalf("podman %s: %v\n%s%s", strings.Join(args, " "), err, stderr.String(), out)
		}
		return strings.TrimSpace(string(out))
	}
	version := strings.TrimPrefix(goEnv(t, "GOVERSION"), "go")
	in(func(w io.Writer) error { return goImage(t, w) }, "import", "--change", "ENV PATH=/usr/local/go/bin:/bin:/usr/bin", "--change", "ENV GOTOOLCHAIN=local", "-", "localhost/golang:"+version)
	in(nil, "build", "--layers=false", "--isolation=chroot", "--network=host", "--pull=never", "-f", "services/svc/Dockerfile", "-t", "localhost/svc", ".")

	c := in(nil, "create", "localhost/svc")
	in(nil, "export", "-o", filepath.Join(tmp, "built.tar"), c)
	f, err := os.Open(filepath.Join(tmp, "built.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := programs(t, f)
	for _, name := range []string{"app/svc", "app/tool"} {
		if want[name] == "" || got[name] != want[name] {
			t.Errorf("%s: podman made %s, fairlead %s", name, got[name], want[name])
		}
	}
	if out := in(nil, "run", "--rm", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "localhost/svc"); !strings.HasPrefix(out, "works v1.2.3-1-g") || !strings.HasSuffix(out, " 65532 <nil> <nil>") {
		t.Errorf("it says %q", out)
	}
	if label := in(nil, "inspect", "--format", "{{index .Config.Labels \"price\"}}", "localhost/svc"); label != `$5 "now"` {
		t.Errorf("the label is %q", label)
	}
}

// dockerService lays out a repository with a service of two programs in one of its folders.
func dockerService(t *testing.T, repo, folder string) {
	t.Helper()
	for name, text := range map[string]string{
		"go.mod":           "module example.com/svc\n\ngo 1.26\n",
		"main.go":          source,
		"cmd/tool/main.go": "package main\n\nvar Commit, date string\n\nvar note = \"none\"\n\nfunc main() { println(Commit, date, note) }\n",
		"fairlead.yaml": `service: svc
build:
  main: .
  programs: {tool: ./cmd/tool}
  ldflags: ["-X 'main.note=costs $5 \"now\"'"]
  env: {TOKEN: hush}
  image: {labels: {price: "$5 \"now\""}}
`,
	} {
		file := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-qm", "one"}, {"tag", "v1.2.3"}} {
		git(t, repo, args...)
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := rig.Command(t, "", nil, "go", "env", name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// ourPrograms are the digests of the programs in a layout, as the provenance tells them.
func ourPrograms(t *testing.T, layout string) map[string]string {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(layout, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, b := range blobs {
		text, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", b.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			PredicateType string
			Subject       []struct {
				Name   string
				Digest map[string]string
			}
		}
		if json.Unmarshal(text, &s) != nil || !strings.HasPrefix(s.PredicateType, "https://slsa.dev/provenance/") {
			continue
		}
		for _, x := range s.Subject {
			out["app/"+path.Base(x.Name)] = x.Digest["blake2b"]
		}
	}
	return out
}

// programs are the digests of the files in a tar.
func programs(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = fmt.Sprintf("%x", blake2b.Sum512(body))
	}
}

// goImage writes the root of an image with Go, git and a shell as a tar.
func goImage(t *testing.T, w io.Writer) error {
	out := tar.NewWriter(w)
	put := func(h tar.Header, body []byte) error {
		h.Size = int64(len(body))
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		_, err := out.Write(body)
		return err
	}
	for _, dir := range []string{"tmp/", "root/", "proc/", "sys/", "dev/"} {
		if err := put(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o1777}, nil); err != nil {
			return err
		}
	}
	for _, program := range []string{"busybox", "git"} {
		for _, file := range withLibraries(t, program) {
			body, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(file, "/")
			if path.Base(file) == program {
				name = "bin/" + program
			}
			if err := put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, body); err != nil {
				return err
			}
		}
	}
	for _, applet := range []string{"sh", "cp", "mkdir", "chmod", "chown", "echo", "test"} {
		if err := put(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/ssl/certs/ca-certificates.crt": "roots\n"} {
		if err := put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(text)); err != nil {
			return err
		}
	}
	if err := putGo(goEnv(t, "GOROOT"), func(name string, mode fs.FileMode, body []byte) error {
		return put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm())}, body)
	}); err != nil {
		return err
	}
	return out.Close()
}

// putGo gives the files of a Go installation that a build needs.
func putGo(goroot string, put func(name string, mode fs.FileMode, body []byte) error) error {
	goroot, err := filepath.EvalSymlinks(goroot)
	if err != nil {
		return err
	}
	return filepath.WalkDir(goroot, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(goroot, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "test" || rel == "api" || rel == "doc" || rel == "misc" || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		fi, err := os.Stat(file) // what distributions link elsewhere is there, too
		if err != nil || !fi.Mode().IsRegular() || strings.HasSuffix(file, "_test.go") {
			return err
		}
		body, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return put(path.Join("usr/local/go", filepath.ToSlash(rel)), fi.Mode(), body)
	})
}

// withLibraries is a program's file and those of the libraries that its loader would take.
func withLibraries(t *testing.T, program string) []string {
	file, err := exec.LookPath(program)
	if err != nil {
		t.Error(err)
		return nil
	}
	files := []string{file}
	out, err := rig.Command(t, "", nil, "ldd", file)
	if err != nil {
		return files // it is static
	}
	for word := range strings.FieldsSeq(out) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	return files
}
