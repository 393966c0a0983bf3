package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
)

// goEnv is what the checks need of `go env`, under its own names.
type goEnv struct {
	GOVERSION, GOTOOLCHAIN, GOPROXY, GOMODCACHE, GOCACHE string
}

// readGoEnv asks outside the module: inside, go would first switch to the toolchain that go.mod names, or download it.
func readGoEnv(ctx context.Context, r *run) (goEnv, error) {
	var e goEnv
	root := filepath.VolumeName(r.Dir) + string(filepath.Separator)
	out, stderr, err := command(ctx, root, r.environ("GOWORK=off"), r.Go, "env", "-json", "GOVERSION", "GOTOOLCHAIN", "GOPROXY", "GOMODCACHE", "GOCACHE")
	if err != nil {
		return e, fmt.Errorf("%w %s", err, strings.TrimSpace(stderr))
	}
	return e, json.Unmarshal([]byte(out), &e)
}

// module is the go.mod that holds for a folder.
type module struct {
	dir  string
	file *modfile.File
}

// checkGo looks at toolchain and module in turn: each answer needs the one before it.
func checkGo(ctx context.Context, r *run) []Finding {
	mod, found := checkModule(r.Dir)
	env, err := r.goEnv()
	if err != nil {
		return []Finding{judgeNoGo(r.Go, err), found}
	}
	if mod == nil {
		return []Finding{judgeToolchain(env, &modfile.File{}, nil), found}
	}
	name := wantedToolchain(env, mod.file)
	local := func() bool { return haveToolchain(env, name) }
	tool := judgeToolchain(env, mod.file, local)
	if v := r.Spec.Build.Env["GOTOOLCHAIN"]; v != "" && tool.Severity == Error {
		tool.Fix = "remove GOTOOLCHAIN from build.env, which sets it to " + v
	}
	out := append([]Finding{tool, found}, checkReplace(mod)...)
	if tool.Severity == Error {
		return out
	}
	if mustSwitch(env, mod.file) && !local() {
		return append(out, Finding{ID: IDSum, Severity: Info, Found: "go.sum was not checked: " + name + " is not downloaded yet"})
	}
	return append(out, checkSum(ctx, r, mod.dir, env))
}

func judgeNoGo(command string, err error) Finding {
	f := Finding{ID: IDToolchain, Severity: Error, Found: fmt.Sprintf("`%s env` fails: %v", command, err), Need: "a Go toolchain",
		Fix: "make `go version` answer"}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		f.Found, f.Fix = fmt.Sprintf("there is no `%s` on PATH", command), "install Go, or add the folder of its `go` to PATH"
	}
	return f
}

// checkModule finds go.mod in dir or above and reads it; the module is nil when there is none to go on with.
func checkModule(dir string) (*module, Finding) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, Finding{ID: IDModule, Severity: Error, Found: err.Error()}
	}
	for at := abs; ; at = filepath.Dir(at) {
		path := filepath.Join(at, "go.mod")
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, Finding{ID: IDModule, Severity: Error, Found: "no go.mod in " + abs + " or above", Need: "a Go module",
				Fix: "type `go mod init NAME` in " + abs}
		}
		if err != nil {
			return nil, Finding{ID: IDModule, Severity: Error, Found: err.Error(), Need: "a go.mod that can be read"}
		}
		return parseModule(path, b)
	}
}

func parseModule(path string, b []byte) (*module, Finding) {
	f, err := modfile.Parse(path, b, nil)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, Finding{ID: IDModule, Severity: Error, Found: first, Need: "a go.mod that parses", Fix: "correct that line, then type `go mod tidy`"}
	}
	if f.Module == nil {
		return nil, Finding{ID: IDModule, Severity: Error, Found: path + " has no module line", Need: "module NAME",
			Fix: "add a line `module NAME` to it"}
	}
	return &module{filepath.Dir(path), f}, Finding{ID: IDModule, Severity: OK, Found: "module " + f.Module.Mod.Path + " in " + filepath.Dir(path)}
}

// switching returns how go may change its version: "auto" may download, "path" only looks on PATH, "" stays.
func switching(gotoolchain string) string {
	_, mode, plus := strings.Cut(gotoolchain, "+")
	if !plus {
		mode = gotoolchain
	}
	if mode == "auto" || mode == "path" {
		return mode
	}
	return ""
}

// wantedToolchain is the release that go.mod makes the go command use. The toolchain line is a wish, which only a go that
// may switch follows.
func wantedToolchain(e goEnv, f *modfile.File) string {
	want := "go1.16" // what a go.mod without a go line means
	if f.Go != nil {
		want = "go" + f.Go.Version
	}
	if f.Toolchain != nil && switching(e.GOTOOLCHAIN) != "" && version.Compare(f.Toolchain.Name, want) > 0 {
		want = f.Toolchain.Name
	}
	if version.Lang(want) == want && version.Compare(want, "go1.21") >= 0 {
		want += ".0" // a language version is no release; go takes its first one
	}
	return want
}

// haveToolchain reports whether go can switch to the release without the network.
func haveToolchain(e goEnv, name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	_, err := os.Stat(filepath.Join(e.GOMODCACHE, "golang.org", fmt.Sprintf("toolchain@v0.0.1-%s.%s-%s", name, runtime.GOOS, runtime.GOARCH)))
	return err == nil
}

// judgeToolchain compares go's version with what go.mod asks for; local is asked only where go has to switch.
func judgeToolchain(e goEnv, f *modfile.File, local func() bool) Finding {
	have, want := e.version(), wantedToolchain(e, f)
	if !mustSwitch(e, f) {
		if t := f.Toolchain; t != nil && version.Compare(t.Name, have) > 0 && version.IsValid(have) {
			return Finding{ID: IDToolchain, Severity: Info, Found: fmt.Sprintf("%s, and GOTOOLCHAIN=%s keeps it", have, e.GOTOOLCHAIN),
				Need: t.Name + ", as go.mod's toolchain line wishes", Fix: "type `export GOTOOLCHAIN=auto` to build with it"}
		}
		return Finding{ID: IDToolchain, Severity: OK, Found: have}
	}
	mode := switching(e.GOTOOLCHAIN)
	out := Finding{ID: IDToolchain, Severity: Error, Found: fmt.Sprintf("%s with GOTOOLCHAIN=%s", have, e.GOTOOLCHAIN), Need: want + " or newer, as go.mod asks"}
	switch {
	case mode == "":
		out.Fix = "type `export GOTOOLCHAIN=auto`, or install " + want
	case local():
		out.Severity, out.Found, out.Need = OK, have+" will switch to "+want, ""
	case mode == "path":
		out.Found += ", and no " + want + " on PATH"
		out.Fix = "install " + want + ", or type `export GOTOOLCHAIN=auto`"
	case e.GOPROXY == "off":
		out.Found += " and GOPROXY=off, so it cannot download " + want
		out.Fix = "type `unset GOPROXY`, or install " + want
	default:
		out.Severity, out.Found, out.Need = Info, have+" will download "+want+" for this build", ""
	}
	return out
}

// mustSwitch reports whether this go is too old for the module. A development version counts as new enough. Where the go
// line has no patch release, a release candidate of it will do.
func mustSwitch(e goEnv, f *modfile.File) bool {
	have, want := e.version(), wantedToolchain(e, f)
	if f.Go != nil && "go"+f.Go.Version+".0" == want {
		want = "go" + f.Go.Version
	}
	return version.IsValid(have) && version.Compare(have, want) < 0
}

// version is the release without the experiments that GOVERSION may name behind it.
func (e goEnv) version() string {
	v, _, _ := strings.Cut(e.GOVERSION, " ")
	return v
}
