package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/home"
)

// offline keeps a check from downloading: a look must be quick and must not wait for a network.
var offline = []string{"GOPROXY=off", "GONOPROXY=none"}

// notDownloaded is how go says that it would have to.
const notDownloaded = "module lookup disabled by GOPROXY=off"

// checkSum asks whether the packages of the build can be found with the sums that are written down. Loading them is the
// cheapest question that needs all of go.sum's relevant lines; only when it succeeds is the content hashed again.
func checkSum(ctx context.Context, r *run, modDir string, env goEnv) Finding {
	vendored := false
	mode := "-mod=readonly"
	if _, err := os.Stat(filepath.Join(modDir, "vendor", "modules.txt")); err == nil {
		vendored, mode = true, "-mod=vendor"
	}
	main := r.Spec.Build.Main
	if main == "" {
		main = "./..."
	}
	// The format prints nothing: only the errors are wanted.
	out, err := goCommand(ctx, r, r.Dir, "list", mode, "-deps", "-f", "{{if false}}{{end}}", "-tags="+strings.Join(r.Spec.Build.Tags, ","), main)
	if err != nil {
		return judgeList(out, env.GOPROXY)
	}
	if vendored {
		return Finding{ID: IDSum, Severity: OK, Found: "the vendor folder agrees with go.mod"}
	}
	stamp := r.verifyStamp(modDir, env.GOMODCACHE)
	if fi, err := os.Stat(stamp); err == nil && time.Since(fi.ModTime()) < r.VerifyEvery {
		return Finding{ID: IDSum, Severity: OK, Found: "go.sum is complete; the downloaded modules matched it at " + fi.ModTime().Format(time.DateTime)}
	}
	if out, err = goCommand(ctx, r, modDir, "mod", "verify"); err != nil {
		return judgeVerify(out)
	}
	if stamp != "" && os.MkdirAll(filepath.Dir(stamp), 0o755) == nil {
		os.WriteFile(stamp, nil, 0o644) // without it the next run verifies again
	}
	return Finding{ID: IDSum, Severity: OK, Found: "go.sum is complete and the downloaded modules match it"}
}

// verifyStamp is the file whose time says when these very modules were last found unchanged. Hashing every module again
// takes seconds for a service with many.
func (r *run) verifyStamp(modDir, cache string) string {
	sum, err := os.ReadFile(filepath.Join(modDir, "go.sum"))
	verified, e := home.Cache("verified")
	if err != nil || e != nil {
		return ""
	}
	return filepath.Join(verified, home.Key(string(sum)+cache))
}

// goCommand returns everything that go said, the errors first.
func goCommand(ctx context.Context, r *run, dir string, args ...string) (string, error) {
	out, stderr, err := command(ctx, dir, r.environ(offline...), append([]string{r.Go}, args...)...)
	return stderr + out, err
}

// complaints are go's words, with what to do about them.
var complaints = []struct{ words, need, fix string }{
	{"missing go.sum entry", "a go.sum that has every module", "type `go mod tidy`"},
	{"updates to go.mod needed", "a go.mod that lists every module", "type `go mod tidy`"},
	{"updates to go.sum needed", "a go.sum that has every module", "type `go mod tidy`"},
	{"inconsistent vendoring", "a vendor folder that agrees with go.mod", "type `go mod vendor`"},
	{"cannot find module providing package", "every import in a module", "type `go mod tidy`; in a vendored module then `go mod vendor`"},
	{"no required module provides package", "every import in a module", "type `go mod tidy`"},
	{"checksum mismatch", "modules with the content that go.sum names", "type `go clean -modcache`; if it comes back, somebody changed the module"},
	{"malformed go.sum", "a go.sum that parses", "correct that line, or remove go.sum and type `go mod tidy`"},
}

// judgeList reads what `go list` said.
func judgeList(out, goproxy string) Finding {
	for _, c := range complaints {
		if line := lineWith(out, c.words); line != "" {
			return Finding{ID: IDSum, Severity: Error, Found: line, Need: c.need, Fix: c.fix}
		}
	}
	if strings.Contains(out, notDownloaded) {
		return judgeAbsent(goproxy)
	}
	return Finding{ID: IDSum, Severity: Error, Found: lineWith(out, ""), Need: "packages that load", Fix: "type `go build ./...` to see all of it"}
}

// judgeVerify reads what `go mod verify` said: "MODULE VERSION: dir has been modified (FOLDER)".
func judgeVerify(out string) Finding {
	if strings.Contains(out, notDownloaded) {
		return Finding{ID: IDSum, Severity: Info, Found: "go.sum is complete; `go mod verify` needs modules that the build does not, and they are not downloaded",
			Fix: "type `go mod download`", Fixable: true}
	}
	n := strings.Count(out, "has been modified")
	found := lineWith(out, "has been modified")
	if n == 0 {
		found = lineWith(out, "")
	} else if n > 1 {
		found += fmt.Sprintf(" and %d more", n-1)
	}
	return Finding{ID: IDSum, Severity: Error, Found: found, Need: "modules as they were downloaded", Fix: "type `go clean -modcache`"}
}

// judgeAbsent is for modules that are not on this machine. The build gets them by itself unless it may not.
func judgeAbsent(goproxy string) Finding {
	if goproxy == "off" {
		return Finding{ID: IDSum, Severity: Error, Found: "modules are not downloaded, and GOPROXY=off forbids it", Need: "every module of go.mod",
			Fix: "type `unset GOPROXY`, then `go mod download`"}
	}
	return Finding{ID: IDSum, Severity: Info, Found: "modules are not downloaded yet; the build will do it", Fix: "type `go mod download`", Fixable: true}
}

// lineWith returns the first line that has words in it, without what go puts around its own progress.
func lineWith(out, words string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line != "" && strings.Contains(line, words) && !strings.HasPrefix(line, "go: downloading ") {
			return strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(line, ":"), " to add"), ";")
		}
	}
	return ""
}

// downloadModules fills the module cache; it writes neither go.mod nor go.sum.
func downloadModules(ctx context.Context, r *run) error {
	if _, stderr, err := command(ctx, r.Dir, r.environ(), r.Go, "mod", "download"); err != nil {
		return fmt.Errorf("go mod download: %w: %s", err, strings.TrimSpace(stderr))
	}
	return nil
}

// checkReplace looks at the replacements by local folders.
func checkReplace(mod *module) []Finding {
	root := repository(mod.dir)
	var out []Finding
	for _, rep := range mod.file.Replace {
		if rep.New.Version != "" {
			continue
		}
		dir := rep.New.Path
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(mod.dir, dir)
		}
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		out = append(out, judgeReplace(rep.Old.String(), dir, root, err))
	}
	if out == nil {
		out = []Finding{{ID: IDReplace, Severity: OK, Found: "no module is replaced by a local folder"}}
	}
	return out
}

func judgeReplace(path, dir, root string, missing error) Finding {
	f := Finding{ID: IDReplace, Found: path + " is replaced by " + dir}
	switch {
	case missing != nil:
		f.Severity, f.Found, f.Need = Error, f.Found+", which has no go.mod", "a Go module there"
		f.Fix = "put it there, or type `go mod edit -dropreplace=" + path + "`"
	case root != "" && within(dir, root):
		f.Severity, f.Found = OK, f.Found+", a part of this repository"
	default:
		f.Severity, f.Need = Warning, "sources that another machine has too"
		f.Fix = "publish that version and type `go mod edit -dropreplace=" + path + "`"
	}
	return f
}

func within(dir, root string) bool {
	rel, err := filepath.Rel(root, dir)
	return err == nil && filepath.IsLocal(rel)
}

// repository returns the folder with .git at or above dir, "" where there is none.
func repository(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}
