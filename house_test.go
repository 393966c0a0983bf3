// Package fairlead_test holds the rules of the house as ordinary tests: which room may import which, how big things may
// get, and that every room says what it is for.
package fairlead_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/fairlead-dev/fairlead"

// ranks gives each room its height. Imports go strictly down, so that a reader who knows a room and those below it knows
// everything it can do, and so that mechanisms never learn of rollouts. A new room gets its line here.
var ranks = map[string]int{
	"cmd/fairlead":                 9,
	"internal/cli":                 8,
	"internal/deploy":              7,
	"internal/agent":               6,
	"internal/fleet":               6, // many agents as one environment; it knows them by their API
	"internal/target/machine":      5,
	"internal/gate":                5,
	"internal/journal":             5,
	"internal/rollout/rollouttest": 5, // the fake target and the suite that every target passes
	"internal/rollout":             4,
	"internal/agent/api":           4, // above depot: it speaks of offers and what is wanted
	"internal/registry":            3,
	"internal/depot":               3,
	"internal/alert":               3, // above metrics: it sends what the rules there raise
	"internal/bundle/bundletest":   3, // real bundles for other rooms' tests
	"internal/build":               2,
	"internal/preflight":           2,
	"internal/supervise":           2,
	"internal/edge":                2,
	"internal/steer":               2,
	"internal/bundle":              2,
	"internal/logs":                2,
	"internal/export":              2,
	"internal/spec":                1,
	"internal/release":             1,
	"internal/event":               1,
	"internal/inspect":             1,
	"internal/delta":               1,
	"internal/sign":                1,
	"internal/sbom":                1,
	"internal/vuln":                1,
	"internal/keeper":              1,
	"internal/rpc":                 1,
	"internal/proc":                1,
	"internal/home":                0,
	"internal/jsonl":               0,
	"internal/wait":                0,
	"internal/sequential":          0,
	"internal/metrics":             2,
	"internal/remote":              2, // machines over SSH
	"internal/platform":            0,
	"internal/fail":                0,
	"internal/certs":               1,
	"internal/httpcache":           1,
}

// onlyHere are imports that one room keeps to itself, with the reason.
var onlyHere = []struct{ path, room, why string }{
	{"github.com/spf13/cobra", "internal/cli", "only the command line knows of flags"},
	{"charm.land/", "internal/cli", "only the command line draws"},
	{"modernc.org/sqlite", "internal/journal", "one room knows how state is kept"},
	{"golang.org/x/vuln/", "internal/vuln", "one room knows how vulnerabilities are looked for"},
	{"github.com/cilium/ebpf/", "internal/steer", "one room knows what the kernel is told to run"},
	{"k8s.io/", "internal/target/kube", "one room knows Kubernetes"},
	{"text/template", "", "it switches off the linker's pruning of methods for the whole program: 9 MB"},
	{"html/template", "", "it switches off the linker's pruning of methods for the whole program: 9 MB"},
	{"log", "", "rooms return errors; what must be logged goes through log/slog"},
}

type source struct {
	path string // slash-separated, from the module's root
	room string // its folder
	file *ast.File
	fset *token.FileSet
}

// sources parses every Go file that is part of the program: not tests, not the suites, not the examples.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	for _, root := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			slash := filepath.ToSlash(path)
			out = append(out, source{slash, filepath.ToSlash(filepath.Dir(path)), f, fset})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 50 {
		t.Fatalf("only %d files found: the rules would hold for nothing", len(out))
	}
	return out
}

func TestImportsPointDown(t *testing.T) {
	for _, s := range sources(t) {
		from, ok := ranks[s.room]
		if !ok {
			t.Errorf("%s: the room %s has no rank; decide where it belongs and add it to house_test.go", s.path, s.room)
			continue
		}
		for _, im := range s.file.Imports {
			path := strings.Trim(im.Path.Value, `"`)
			for _, rule := range onlyHere {
				if (path == rule.path || strings.HasSuffix(rule.path, "/") && strings.HasPrefix(path, rule.path)) && s.room != rule.room {
					t.Errorf("%s imports %s: %s", s.path, path, rule.why)
				}
			}
			room, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			if to, ok := ranks[room]; !ok || to >= from {
				t.Errorf("%s (rank %d) imports %s (rank %d): imports go strictly to a lower rank, so that a room can be understood without those above it",
					s.path, from, room, to)
			}
		}
	}
}

func TestOnlyTheCommandLinePrints(t *testing.T) {
	for _, s := range sources(t) {
		if s.room == "internal/cli" || s.room == "cmd/fairlead" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch pkg.Name + "." + sel.Sel.Name {
			case "fmt.Print", "fmt.Println", "fmt.Printf", "os.Stdout", "os.Stderr", "os.Exit":
				t.Errorf("%s uses %s.%s: rooms return values and errors; internal/cli prints", s.fset.Position(n.Pos()), pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// The sizes, and the exceptions with their reasons.
const (
	maxFunc   = 100
	maxFile   = 500
	maxIface  = 6
	maxParams = 5
	maxMain   = 30
)

var sizeExceptions = map[string]string{}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		report := func(pos token.Pos, name, format string, args ...any) {
			if sizeExceptions[s.path+":"+name] == "" {
				t.Errorf("%s: %s "+format, append([]any{s.fset.Position(pos), name}, args...)...)
			}
		}
		lines := s.fset.File(s.file.Pos()).LineCount()
		limit := maxFile
		if s.room == "cmd/fairlead" {
			limit = maxMain
		}
		if lines > limit {
			report(s.file.Pos(), "file", "has %d lines, at most %d: a reader holds one noun a file", lines, limit)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if l := s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1; l > maxFunc {
					report(n.Pos(), n.Name.Name, "has %d lines, at most %d", l, maxFunc)
				}
				if p := n.Type.Params.NumFields(); p > maxParams {
					report(n.Pos(), n.Name.Name, "has %d parameters, at most %d: give them a struct with names", p, maxParams)
				}
			case *ast.InterfaceType:
				if m := n.Methods.NumFields(); m > maxIface {
					report(n.Pos(), "interface", "has %d methods, at most %d", m, maxIface)
				}
			}
			return true
		})
	}
}

func TestEveryRoomSaysWhatItIsFor(t *testing.T) {
	docs := map[string]string{}
	for _, s := range sources(t) {
		if s.file.Doc != nil {
			docs[s.room] += s.file.Doc.Text()
		} else if _, ok := docs[s.room]; !ok {
			docs[s.room] = ""
		}
	}
	for room, doc := range docs {
		if len(doc) < 40 {
			t.Errorf("%s has no package comment that says what it owns", room)
		}
	}
}

func TestExportedNamesAreExplained(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && receiverExported(d) {
					t.Errorf("%s: %s has no comment", s.fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, sp := range d.Specs {
					if ts, ok := sp.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil {
						t.Errorf("%s: type %s has no comment", s.fset.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// TestCrossBuilds holds the promise that the command line is built for every desktop, and vets the files that only those see.
func TestCrossBuilds(t *testing.T) {
	if os.Getenv("CI") != "true" && os.Getenv("CROSS") == "" {
		t.Skip("cross-building takes minutes on an empty cache: CI does it, and `make cross`")
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(goos+"/"+arch, func(t *testing.T) {
				for _, args := range [][]string{{"build", "-o", t.TempDir(), "./cmd/fairlead"}, {"vet", "./cmd/...", "./internal/..."}} {
					cmd := exec.CommandContext(t.Context(), "go", args...)
					cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+arch, "CGO_ENABLED=0")
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
					}
				}
			})
		}
	}
}
