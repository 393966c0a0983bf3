package build

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Source is what version control says of the tree.
type Source struct {
	VCS      bool      // the tree is in a git repository with a commit
	Version  string    // git describe, or the short commit
	Commit   string    // full hash
	Branch   string    // "" when none is checked out
	Remote   string    // where it came from, as https://HOST/PATH, without who fetched it; "" when unknown
	Modified bool      // the tree differs from the commit
	Time     time.Time // of the commit, so that it is the same in every build of it
}

// Describe asks git about the tree at dir; its commands run side by side, because starting them is what takes the time.
func Describe(ctx context.Context, dir string) Source {
	asked := [][]string{
		{"status", "--porcelain=v2", "--branch"},
		{"describe", "--tags", "--always"},
		{"log", "-1", "--format=%ct"},
		{"config", "--get", "remote.origin.url"},
	}
	said := make([]string, len(asked))
	var wg sync.WaitGroup
	for i, args := range asked {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, "git", args...)
			cmd.Dir = dir
			if b, err := cmd.Output(); err == nil {
				said[i] = strings.TrimSpace(string(b))
			}
		})
	}
	wg.Wait()
	s := Source{VCS: true, Version: said[1], Remote: plainRemote(said[3])}
	for line := range strings.Lines(said[0]) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "# ")), " ")
		switch {
		case !strings.HasPrefix(line, "#"):
			s.Modified = true // also by an untracked file: the go command counts it too
		case name == "branch.oid" && value != "(initial)":
			s.Commit = value
		case name == "branch.head" && value != "(detached)":
			s.Branch = value
		}
	}
	if s.Commit == "" {
		return Source{Version: "v0.0.0-unknown"}
	}
	if s.Modified {
		s.Version += "-dirty"
	}
	if sec, err := strconv.ParseInt(said[2], 10, 64); err == nil {
		s.Time = time.Unix(sec, 0).UTC()
	}
	return s
}

// plainRemote writes the address of a repository the same whoever cloned it and however: without user, password and
// ".git". What is no address of a host, as the path of a folder, says nothing to others and is dropped.
func plainRemote(raw string) string {
	if host, path, ok := strings.Cut(raw, ":"); ok && !strings.Contains(raw, "://") && strings.Contains(host, "@") {
		raw = "ssh://" + host + "/" + path // as scp writes it
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme == "file" {
		return ""
	}
	return "https://" + u.Hostname() + "/" + strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
}

// versionVars returns the -X values for the variables that programs usually keep their version in: package-level strings
// of the main package. The date is the commit's, never today's, or no build could be made twice.
func versionVars(main Package, s Source) []string {
	values := map[string]string{
		"version": s.Version, "commit": s.Commit, "gitcommit": s.Commit, "revision": s.Commit,
		"date": s.Time.Format(time.RFC3339), "builddate": s.Time.Format(time.RFC3339), "buildtime": s.Time.Format(time.RFC3339),
	}
	if !s.VCS {
		return nil
	}
	var out []string
	fset := token.NewFileSet()
	for _, name := range main.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(main.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			continue // the compiler will say it better
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, sp := range g.Specs {
				v := sp.(*ast.ValueSpec)
				for i, id := range v.Names {
					if val, ok := values[strings.ToLower(id.Name)]; ok && stringVar(v, i) {
						out = append(out, "main."+id.Name+"="+val)
					}
				}
			}
		}
	}
	return out
}

// stringVar reports whether the linker can set the variable: a string without an initialiser or with a constant one.
func stringVar(v *ast.ValueSpec, i int) bool {
	if t, ok := v.Type.(*ast.Ident); ok && t.Name != "string" || v.Type != nil && !ok {
		return false
	}
	if i >= len(v.Values) {
		return v.Type != nil
	}
	lit, ok := v.Values[i].(*ast.BasicLit)
	return ok && lit.Kind == token.STRING
}
