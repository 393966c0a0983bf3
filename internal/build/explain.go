package build

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/inspect"
)

// Difference is one file that two builds did not make the same.
type Difference struct {
	File   string   `json:"file"`   // platform/program
	What   string   `json:"what"`   // where in it
	Causes []string `json:"causes"` // likely ones, the likeliest first
	Fix    string   `json:"fix,omitempty"`
}

// Where is where two builds were made.
type Where struct {
	First, Second string // the services' folders
	Tree          Tree
}

// Explain compares what two builds made and looks for why they differ.
func Explain(a, b *Output, w Where) ([]Difference, error) {
	var out []Difference
	for i := range a.Builds {
		for j, one := range a.Builds[i].Programs {
			two := b.Builds[i].Programs[j]
			if one.Digest == two.Digest {
				continue
			}
			d, err := explain(one, two, w)
			if err != nil {
				return nil, err
			}
			d.File = a.Builds[i].Platform.String() + "/" + one.Name
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		out = append(out, Difference{File: "image", What: "the programs are the same, what is said of them is not",
			Causes: []string{fmt.Sprintf("version %s, %s", a.Source.Version, b.Source.Version), fmt.Sprintf("commit %s, %s", a.Source.Commit, b.Source.Commit)},
			Fix:    "a clone lacks tags or commits that this folder has: push them, or fetch all of them"})
	}
	return out, nil
}

func explain(one, two Program, w Where) (Difference, error) {
	var d Difference
	ra, err := inspect.File(one.Path, inspect.Options{FileOnly: true})
	if err != nil {
		return d, err
	}
	rb, err := inspect.File(two.Path, inspect.Options{FileOnly: true})
	if err != nil {
		return d, err
	}
	ba, err := os.ReadFile(one.Path)
	if err != nil {
		return d, err
	}
	bb, err := os.ReadFile(two.Path)
	if err != nil {
		return d, err
	}
	d.What = sections(ra, rb, ba, bb)
	add := func(fix, format string, args ...any) {
		d.Causes = append(d.Causes, fmt.Sprintf(format, args...))
		if d.Fix == "" {
			d.Fix = fix
		}
	}
	for _, s := range differing(ra.Go.Settings, rb.Go.Settings) {
		switch {
		case strings.HasPrefix(s, "vcs.modified"):
			add("commit or ignore what `git status` lists", "version control: %s (an untracked file is enough)", s)
		case strings.HasPrefix(s, "-ldflags"):
			add("take what changes from build to build out of build.ldflags", "linker flags: %s", s)
		default:
			add("", "build setting %s", s)
		}
	}
	for _, x := range []struct{ dir, name string }{{w.First, "this folder"}, {w.Second, "the temporary folder"}} {
		b := ba
		if x.dir == w.Second {
			b = bb
		}
		if bytes.Contains(b, []byte(x.dir)) {
			add("build with -trimpath (remove what switches it off from build.flags and GOFLAGS); a path in the program's own text comes from a code generator", "the path of %s stands in it", x.name)
		}
	}
	texts(ba, bb, add)
	if ra.Go.Cgo {
		add("build without cgo", "cgo: the C compiler writes paths, and its version is not Go's to fix")
	}
	if w.Tree.Missing != "" {
		add("commit "+w.Tree.Missing+", or generate it before every build", "%s is in this folder and not in the commit: a generated file", w.Tree.Missing)
	}
	if len(d.Causes) == 0 {
		add("", "no cause found: look for maps that a code generator writes in changing order, and for `go:embed` of files that change")
	}
	return d, nil
}

// sections names the parts that differ.
func sections(a, b *inspect.Report, ba, bb []byte) string {
	if len(ba) != len(bb) {
		var names []string
		for _, s := range a.Sections {
			i := slices.IndexFunc(b.Sections, func(x inspect.Section) bool { return x.Name == s.Name })
			if i < 0 || b.Sections[i].Size != s.Size {
				names = append(names, s.Name)
			}
		}
		return fmt.Sprintf("%d and %d bytes; sections of other sizes: %s", len(ba), len(bb), or(strings.Join(names, ", "), "none"))
	}
	n, first := 0, -1
	for i := range ba {
		if ba[i] != bb[i] {
			if n++; first < 0 {
				first = i
			}
		}
	}
	return fmt.Sprintf("%d of %d bytes, from offset %#x on%s", n, len(ba), first, inSection(ba, uint64(first)))
}

// inSection names the part of an ELF file that an offset lies in.
func inSection(file []byte, off uint64) string {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return "" // of other formats the offset must do
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && off >= s.Offset && off < s.Offset+s.FileSize {
			return " (" + s.Name + ")"
		}
	}
	return ""
}

// stamp is a date or a time as programs and people write them.
var stamp = regexp.MustCompile(`20[2-9][0-9]-[01][0-9]-[0-3][0-9]([T _][0-2][0-9][:.]?[0-5][0-9]([:.]?[0-5][0-9])?)?|[A-Z][a-z]{2} +[0-9]{1,2} [0-2][0-9]:[0-5][0-9]|1[6-9][0-9]{8}`)

// texts looks at what is written where the two programs first differ.
func texts(a, b []byte, add func(fix, format string, args ...any)) {
	seen := map[string]bool{}
	for i, found := 0, 0; i < min(len(a), len(b)) && found < 3; i++ {
		if a[i] == b[i] {
			continue
		}
		one, two := word(a, i), word(b, i)
		if m, n := stamp.FindString(one), stamp.FindString(two); m != "" && n != "" && m != n && !seen[m] {
			seen[m] = true
			found++
			add("take the time from the commit, as fairlead does for variables named date or buildTime: remove it from build.ldflags and generated files", "a time: %q, %q", m, n)
		}
		i += max(len(one), 64)
	}
}

// word is the printable text around an offset.
func word(b []byte, at int) string {
	lo, hi := at, at
	for lo > 0 && at-lo < 48 && b[lo-1] >= ' ' && b[lo-1] < 0x7f {
		lo--
	}
	for hi < len(b) && hi-at < 48 && b[hi] >= ' ' && b[hi] < 0x7f {
		hi++
	}
	return string(b[lo:hi])
}
