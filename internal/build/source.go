package build

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// source is what version control says of the tree.
type source struct {
	vcs      bool
	version  string // git describe, or the short commit
	commit   string
	modified bool
	time     time.Time // of the commit, so that it is the same in every build of it
}

func describe(ctx context.Context, dir string) source {
	git := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		b, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	s := source{commit: git("rev-parse", "HEAD")}
	if s.commit == "" {
		return source{version: "v0.0.0-unknown"}
	}
	s.vcs = true
	s.version = git("describe", "--tags", "--always", "--dirty")
	s.modified = git("status", "--porcelain") != ""
	if s.modified && !strings.HasSuffix(s.version, "-dirty") {
		s.version += "-dirty" // describe does not look at untracked files; the Go command does
	}
	if sec, err := strconv.ParseInt(git("log", "-1", "--format=%ct"), 10, 64); err == nil {
		s.time = time.Unix(sec, 0).UTC()
	}
	return s
}

// versionVars returns the -X values for the variables that programs usually keep their version in: package-level strings
// of the main package. The date is the commit's, never today's, or no build could be made twice.
func versionVars(main Package, s source) []string {
	values := map[string]string{
		"version": s.version, "commit": s.commit, "gitcommit": s.commit, "revision": s.commit,
		"date": s.time.Format(time.RFC3339), "builddate": s.time.Format(time.RFC3339), "buildtime": s.time.Format(time.RFC3339),
	}
	if !s.vcs {
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
