// Package vuln asks which known vulnerabilities a Go program has, and which of them it can reach.
//
// It is govulncheck's analysis (golang.org/x/vuln) in this process: the program's call graph against the symbols that the
// Go vulnerability database names. It is the only room that knows that module.
package vuln

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/vuln/scan"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// Level says how near a vulnerability is to the program.
type Level string

// The levels, nearest first.
const (
	Reachable Level = "reachable" // the program's functions call, by some way, what is vulnerable
	Present   Level = "present"   // a module has it, and nothing calls it
)

// Found is one vulnerability in one module.
type Found struct {
	ID      string   `json:"id"` // GO-YYYY-NNNN
	Aliases []string `json:"aliases,omitempty"`
	Summary string   `json:"summary,omitempty"`
	Level   Level    `json:"level"`
	Module  string   `json:"module"` // "stdlib" for Go's own packages
	Version string   `json:"version,omitempty"`
	Fixed   string   `json:"fixed,omitempty"` // the first version without it; "" when there is none
	Trace   []string `json:"trace,omitempty"` // from the program's own function to the vulnerable one
}

// Is reports whether the vulnerability goes by this name, in whatever database.
func (f Found) Is(id string) bool { return f.ID == id || slices.Contains(f.Aliases, id) }

// Report is the answer of one scan.
type Report struct {
	DB       string    `json:"db"`
	Modified time.Time `json:"modified,omitzero"` // when the database was changed last
	Go       string    `json:"go"`                // the version whose standard library was judged
	Found    []Found   `json:"found"`             // reachable ones first, then by ID
}

// Params is what to scan.
type Params struct {
	Dir      string   // where the packages are named from
	Packages []string // as the go command takes them; none means ./...
	Tags     []string
	Env      []string // of the go command; nil means our own
	DB       string   // https://..., file://... or a folder; "" is Go's own
}

// Scan loads the packages with the go command that is on PATH and looks for what the database knows of them. It needs the
// modules' sources. A [fail.Usage] says that DB is not one; what else goes wrong (sources that do not compile, a database
// that does not answer) is a [fail.Preflight].
func Scan(ctx context.Context, p Params) (*Report, error) {
	args := []string{"-format", "json", "-C", p.Dir}
	if p.DB != "" {
		db, err := address(p.DB)
		if err != nil {
			return nil, err
		}
		args = append(args, "-db", db)
	}
	if len(p.Tags) > 0 {
		args = append(args, "-tags", strings.Join(p.Tags, ","))
	}
	if len(p.Packages) == 0 {
		p.Packages = []string{"./..."}
	}
	var out, complaints bytes.Buffer
	c := scan.Command(ctx, append(args, p.Packages...)...)
	c.Env, c.Stdin, c.Stdout, c.Stderr = p.Env, strings.NewReader(""), &out, &complaints
	err := c.Start()
	if err == nil {
		err = c.Wait()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, explain(err, complaints.String())
	}
	return read(&out)
}

// address makes a URL of a database's folder.
func address(db string) (string, error) {
	if strings.HasPrefix(db, "https://") || strings.HasPrefix(db, "http://") {
		return db, nil
	}
	dir, err := filepath.Abs(strings.TrimPrefix(db, "file://"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "index", "modules.json")); err != nil {
		return "", fail.New(fail.Usage, "", "%s is not a vulnerability database: %w", db, err).
			Hinted("name a folder with index/ and ID/ as https://go.dev/security/vuln/database describes, or an https:// address")
	}
	return "file://" + filepath.ToSlash(dir), nil
}

func explain(err error, complaints string) error {
	text := err.Error()
	hint := "make `go vet ./...` pass first"
	for _, net := range []string{"dial ", "lookup ", "no such host", "HTTP GET", "timeout", "connection", "creating client", "fetching vulnerabilities"} {
		if strings.Contains(text, net) {
			hint = "set `build: {vulns: {db: ...}}` to a copy that this machine can reach, a folder or an address"
			break
		}
	}
	f := fail.New(fail.Preflight, "look for known vulnerabilities", "%s", strings.TrimSpace(text)).Hinted("%s", hint)
	if lines := strings.TrimSpace(complaints); lines != "" {
		f = f.WithLines(strings.Split(lines, "\n"))
	}
	return f
}

// The messages of govulncheck's protocol v1.0.0, as far as they are used (golang.org/x/vuln/internal/govulncheck).
type message struct {
	Config *struct {
		DB       string     `json:"db"`
		Modified *time.Time `json:"db_last_modified"`
		Go       string     `json:"go_version"`
	} `json:"config"`
	OSV *struct {
		ID      string   `json:"id"`
		Aliases []string `json:"aliases"`
		Summary string   `json:"summary"`
	} `json:"osv"`
	Finding *finding `json:"finding"`
}

type finding struct {
	OSV   string  `json:"osv"`
	Fixed string  `json:"fixed_version"`
	Trace []frame `json:"trace"` // from the vulnerable symbol to the program's own
}

type frame struct {
	Module   string `json:"module"`
	Version  string `json:"version"`
	Package  string `json:"package"`
	Function string `json:"function"`
	Receiver string `json:"receiver"`
}

func (f frame) String() string {
	if f.Receiver != "" {
		return f.Package + "." + strings.TrimPrefix(f.Receiver, "*") + "." + f.Function
	}
	return f.Package + "." + f.Function
}

// read sums the stream up: a vulnerability is told of once a module, at its nearest level, by its shortest trace.
func read(in io.Reader) (*Report, error) {
	r := &Report{}
	known := map[string]Found{}
	nearest := map[[2]string]Found{}
	for d := json.NewDecoder(in); ; {
		var m message
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("the scan's answer: %w", err)
		}
		switch {
		case m.Config != nil:
			r.DB, r.Go = m.Config.DB, m.Config.Go
			if m.Config.Modified != nil {
				r.Modified = *m.Config.Modified
			}
		case m.OSV != nil:
			known[m.OSV.ID] = Found{ID: m.OSV.ID, Aliases: m.OSV.Aliases, Summary: m.OSV.Summary}
		case m.Finding != nil && len(m.Finding.Trace) > 0:
			f := m.Finding.found()
			at := [2]string{f.ID, f.Module}
			if old, ok := nearest[at]; !ok || f.nearer(old) {
				nearest[at] = f
			}
		}
	}
	for _, f := range nearest {
		f.Aliases, f.Summary = known[f.ID].Aliases, known[f.ID].Summary
		r.Found = append(r.Found, f)
	}
	slices.SortFunc(r.Found, func(a, b Found) int {
		return cmp.Or(-cmp.Compare(a.Level, b.Level), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Module, b.Module)) // "reachable" > "present"
	})
	return r, nil
}

func (f finding) found() Found {
	at := f.Trace[0]
	out := Found{ID: f.OSV, Fixed: f.Fixed, Module: at.Module, Version: at.Version, Level: Present}
	if at.Function == "" {
		return out
	}
	out.Level = Reachable
	for _, step := range slices.Backward(f.Trace) {
		out.Trace = append(out.Trace, step.String())
	}
	return out
}

func (f Found) nearer(than Found) bool {
	if f.Level != than.Level {
		return f.Level == Reachable
	}
	return f.Level == Reachable && len(f.Trace) < len(than.Trace)
}
