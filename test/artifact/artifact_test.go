// Package artifact_test holds that what fairlead makes and pushes is what the tools of others take: cosign, skopeo, podman
// and crane, from two real registries, one with the referrers API and one without.
package artifact_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	cosign = "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3"
	crane  = "github.com/google/go-containerregistry/cmd/crane@v0.22.1"
)

// debian installs the programs that are missing, from the packages of their names.
func debian(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		rig.Tool(t, p, p)
	}
}

// registry starts a program that serves a registry, and returns its address once it answers.
func registry(t *testing.T, start func(addr string) *exec.Cmd) string {
	t.Helper()
	addr := rig.Free(t)
	cmd := start(addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed: that is its error
	})
	rig.Eventually(t, 30*time.Second, "a registry at "+addr, func() bool {
		res, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return addr
}

const source = `package main

import (
	"fmt"
	"os"
	"time"
)

var version string

func main() {
	_, zone := time.LoadLocation("Europe/Lisbon")
	_, roots := os.Stat("/etc/ssl/certs/ca-certificates.crt")
	fmt.Println("works", version, os.Getuid(), zone, roots)
}
`

// service is a committed and tagged Go module with a spec that signs.
func service(t *testing.T, fl string, env []string) (dir, key string) {
	t.Helper()
	root := t.TempDir()
	dir = filepath.Join(root, "svc")
	must := func(out string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	must(rig.Command(t, root, env, fl, "keys", "new", "rel", "--expires", "30d"))
	for name, text := range map[string]string{"main.go": source, "go.mod": "module example.com/svc\n\ngo 1.24\n",
		"fairlead.yaml": "service: svc\nbuild: {sign: ../rel.key, platforms: [linux/amd64, linux/arm64]}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one"}, {"tag", "v1.2.3"}} {
		must(rig.Command(t, dir, nil, "git", args...))
	}
	return dir, filepath.Join(root, "rel.pub")
}

func TestToolsOfOthersTakeIt(t *testing.T) {
	debian(t, "docker-registry", "skopeo")
	fl, cos, cr := rig.CLI(t), rig.GoTool(t, cosign), rig.GoTool(t, crane)
	env := []string{"FAIRLEAD_KEY_PASSPHRASE=correct horse", "XDG_CACHE_HOME=" + t.TempDir(), "GOCACHE=" + goCache(t)}
	dir, key := service(t, fl, env)
	debianRegistry := func(addr string) *exec.Cmd {
		conf := filepath.Join(t.TempDir(), "config.yml")
		text := "version: 0.1\nstorage: {filesystem: {rootdirectory: " + t.TempDir() + "}}\nhttp: {addr: '" + addr + "'}\n"
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command("docker-registry", "serve", conf)
	}
	for name, start := range map[string]func(string) *exec.Cmd{
		"docker-registry":        debianRegistry,
		"go-containerregistry's": func(addr string) *exec.Cmd { return exec.Command(cr, "registry", "serve", "--address", addr) },
	} {
		t.Run(name, func(t *testing.T) {
			repo := registry(t, start) + "/team/svc"
			ok := func(name string, args ...string) string {
				t.Helper()
				out, err := rig.Command(t, dir, env, name, args...)
				if err != nil {
					t.Fatalf("%v", err)
				}
				return out
			}
			pushed := strings.TrimSpace(ok(fl, "push", repo, "--plain-http"))
			for _, tag := range []string{"v1.2.3", "1.2", "latest"} {
				if got := strings.TrimSpace(ok(cr, "digest", repo+":"+tag)); repo+"@"+got != pushed {
					t.Errorf("%s is %s, pushed was %s", tag, got, pushed)
				}
			}
			ok(cr, "validate", "--remote", repo+":v1.2.3")
			verify := []string{"--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry"}
			ok(cos, append(append([]string{"verify"}, verify...), repo+":v1.2.3")...)
			ok(cos, append(append([]string{"verify-attestation", "--type", "slsaprovenance1"}, verify...), repo+":v1.2.3")...)
			var seen struct{ Digest, Os, Architecture string }
			if err := json.Unmarshal([]byte(ok("skopeo", "inspect", "--tls-verify=false", "docker://"+repo+":latest")), &seen); err != nil || seen.Os != "linux" || repo+"@"+seen.Digest != pushed {
				t.Errorf("skopeo sees %+v (%v)", seen, err)
			}
			copied := filepath.Join(t.TempDir(), "copy")
			ok("skopeo", "copy", "--all", "--src-tls-verify=false", "docker://"+repo+":v1.2.3", "oci:"+copied+":x")
			ok(fl, "verify", "--plain-http", "--key", key, repo+":v1.2.3")
			if out := ok(fl, "inspect", "--plain-http", repo+":v1.2.3"); !strings.Contains(out, seen.Digest) || !strings.Contains(out, "linux/arm64") || !strings.Contains(out, "65532") {
				t.Errorf("inspect says of %s:\n%s", repo, out)
			}
			if out, err := rig.Command(t, dir, env, fl, "verify", "--key", key, copied); err == nil || !strings.Contains(err.Error(), "no signature") {
				t.Errorf("a copy without its signature is taken: %v %s", err, out)
			}
		})
	}
}

// goCache is the user's build cache: without it each run compiles the standard library.
func goCache(t *testing.T) string {
	t.Helper()
	out, err := rig.Command(t, "", nil, "go", "env", "GOCACHE")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TestExportedImage loads the exported file with podman and skopeo, and runs it.
func TestExportedImage(t *testing.T) {
	debian(t, "skopeo", "podman", "runc")
	fl := rig.CLI(t)
	env := []string{"FAIRLEAD_KEY_PASSPHRASE=correct horse", "XDG_CACHE_HOME=" + t.TempDir(), "GOCACHE=" + goCache(t)}
	dir, _ := service(t, fl, env)
	file := filepath.Join(t.TempDir(), "svc.tar")
	if out, err := rig.Command(t, dir, env, fl, "export", "image", "-o", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, form := range []string{"docker-archive:", "oci-archive:"} {
		if out, err := rig.Command(t, dir, nil, "skopeo", "inspect", form+file); err != nil || !strings.Contains(out, "v1.2.3") {
			t.Errorf("%s: %v\n%s", form, err, out)
		}
	}
	store := []string{"--root", filepath.Join(t.TempDir(), "root"), "--runroot", filepath.Join(t.TempDir(), "run"), "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc"}
	podman := func(args ...string) (string, error) {
		return rig.Command(t, dir, nil, "podman", append(append([]string{}, store...), args...)...)
	}
	if out, err := podman("load", "-i", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := podman("run", "--rm", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "localhost/svc:v1.2.3")
	if err != nil {
		t.Fatalf("podman run: %v\n%s", err, out)
	}
	if out != "works v1.2.3 65532 <nil> <nil>\n" {
		t.Errorf("it says %q", out)
	}
}
