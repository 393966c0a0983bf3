package preflight

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
	"github.com/fairlead-dev/fairlead/internal/home"
	"github.com/fairlead-dev/fairlead/internal/platform"
	"github.com/fairlead-dev/fairlead/internal/spec"
	"github.com/fairlead-dev/fairlead/internal/vuln"
)

// What build.vulns.refuse may say.
const (
	RefuseReachable = "reachable"
	RefusePresent   = "present"
)

// scanEvery is how long an answer for the same sources counts in a deploy: the database grows by a few entries a day.
const scanEvery = time.Hour

// checkVulns looks for known vulnerabilities, where the spec makes them a gate or the user asks.
func checkVulns(ctx context.Context, r *run) []Finding {
	v := r.Spec.Build.Vulns
	if !r.Vulns && v.Refuse == "" {
		return nil
	}
	report, err := r.scan(ctx)
	if err != nil {
		e := fail.As(err)
		f := Finding{ID: IDVulns, Severity: Warning, Found: err.Error(), Need: "an answer about known vulnerabilities", Fix: e.Hint}
		if len(e.Lines) > 0 {
			f.Found += ": " + e.Lines[0]
		}
		if v.Refuse != "" {
			f.Severity = Error // a gate that cannot look does not open
		}
		return []Finding{f}
	}
	return judgeVulns(report, v, time.Now())
}

func (r *run) scan(ctx context.Context) (*vuln.Report, error) {
	b := r.Spec.Build
	var mains []string
	if r.Mains != nil {
		var err error
		if mains, err = r.Mains(ctx); err != nil {
			return nil, err
		}
	}
	env := []string{"CGO_ENABLED=0"}
	if b.Cgo || b.Race {
		env = []string{"CGO_ENABLED=1"}
	}
	if len(b.Platforms) > 0 {
		if p, err := platform.Parse(b.Platforms[0]); err == nil {
			env = append(env, p.Env()...)
		}
	}
	p := vuln.Params{Dir: r.Dir, Packages: mains, Tags: b.Tags, Env: r.environ(env...), DB: b.Vulns.DB}
	memo := ""
	if r.VerifyEvery > 0 {
		memo = r.vulnMemo(p, env)
	}
	if memo != "" {
		var known vuln.Report
		if fi, err := os.Stat(memo); err == nil && time.Since(fi.ModTime()) < scanEvery && home.ReadJSON(memo, &known) == nil {
			return &known, nil
		}
	}
	report, err := vuln.Scan(ctx, p)
	if err == nil && memo != "" && os.MkdirAll(filepath.Dir(memo), 0o755) == nil {
		home.WriteJSON(memo, report, 0o644) // without it the next run scans again
	}
	return report, err
}

// vulnMemo is the file that keeps the answer for these sources; "" where what is compiled may lie outside the module,
// by a replacement or a workspace.
func (r *run) vulnMemo(p vuln.Params, env []string) string {
	mod, _ := checkModule(r.Dir)
	goVersion, err := r.goEnv()
	if mod == nil || err != nil || os.Getenv("GOWORK") != "" {
		return ""
	}
	for _, rep := range mod.file.Replace {
		if rep.New.Version == "" {
			return ""
		}
	}
	sum, err := sourceSum(mod.dir)
	cache, e := home.Cache("vulns")
	if err != nil || e != nil {
		return ""
	}
	key := fmt.Sprintf("%s %v %v %q %q %s", sum, p.Packages, p.Tags, env, p.DB, goVersion.GOVERSION)
	return filepath.Join(cache, home.Key(key)+".json")
}

// sourceSum is a digest of every Go file and the module's files below dir.
func sourceSum(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != dir && (strings.HasPrefix(name, ".") || name == "node_modules") {
			return fs.SkipDir
		}
		if name == "go.work" {
			return fmt.Errorf("%s is a workspace", dir)
		}
		if !d.Type().IsRegular() || !strings.HasSuffix(name, ".go") && name != "go.mod" && name != "go.sum" && name != "modules.txt" {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(h, "%s\x00", path)
		_, err = io.Copy(h, f)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// judgeVulns holds what was found against what the spec refuses and allows.
func judgeVulns(r *vuln.Report, v spec.Vulns, now time.Time) []Finding {
	var out []Finding
	used := map[int]bool{}
	for _, f := range r.Found {
		finding := describeVuln(f)
		finding.Severity = Warning
		if v.Refuse == RefusePresent || v.Refuse == RefuseReachable && f.Level == vuln.Reachable {
			finding.Severity = Error
		} else if f.Level == vuln.Present {
			finding.Severity = Info
		}
		for i, a := range v.Allow {
			if !f.Is(a.ID) {
				continue
			}
			used[i] = true
			if now.Before(a.End()) {
				finding.Severity = Info
				finding.Found += fmt.Sprintf("; allowed until %s: %s", a.Until, a.Reason)
			} else {
				finding.Found += fmt.Sprintf("; build.vulns.allow[%d] ended on %s", i, a.Until)
			}
		}
		out = append(out, finding)
	}
	for i, a := range v.Allow {
		if !used[i] {
			out = append(out, Finding{ID: IDVulns, Severity: Info, Found: fmt.Sprintf("%s is allowed and not there any more", a.ID), Fix: fmt.Sprintf("remove build.vulns.allow[%d]", i)})
		}
	}
	if len(r.Found) == 0 {
		out = append(out, Finding{ID: IDVulns, Severity: OK, Found: "no known vulnerability, by " + source(r)})
	}
	return out
}

func source(r *vuln.Report) string {
	if r.Modified.IsZero() {
		return r.DB
	}
	return r.DB + " as of " + r.Modified.UTC().Format(time.DateOnly)
}

func describeVuln(f vuln.Found) Finding {
	name := f.ID
	if len(f.Aliases) > 0 {
		name += " (" + f.Aliases[0] + ")"
	}
	module, fixed := f.Module+" "+f.Version, f.Module+" "+f.Fixed
	out := Finding{ID: IDVulns, Fix: "type `go get " + f.Module + "@" + f.Fixed + "`"}
	if f.Module == "stdlib" {
		module, fixed = "Go "+strings.TrimPrefix(f.Version, "v"), "Go "+strings.TrimPrefix(f.Fixed, "v")
		out.Fix = "build with " + fixed + ": type `go get go@" + strings.TrimPrefix(f.Fixed, "v") + "`"
	}
	out.Need = fixed
	if f.Fixed == "" {
		out.Need, out.Fix = "a version without it, and there is none yet", "do without it, or add it to build.vulns.allow with a reason and a date"
	}
	if f.Level == vuln.Present {
		out.Found = fmt.Sprintf("%s in %s is present, and nothing calls it: %s", name, module, f.Summary)
		return out
	}
	out.Found = fmt.Sprintf("%s in %s is reachable: %s; %s", name, module, f.Summary, shorten(f.Trace))
	return out
}

// shorten leaves out the middle of a long way.
func shorten(trace []string) string {
	if len(trace) > 4 {
		trace = []string{trace[0], trace[1], fmt.Sprintf("%d more", len(trace)-3), trace[len(trace)-1]}
	}
	return strings.Join(trace, " -> ")
}
