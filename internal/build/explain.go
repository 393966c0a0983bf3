package build

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/inspect"
)

// Difference is one file that two builds did not make the same.
type Difference struct {
	File     string    `json:"file"`               // platform/program
	What     string    `json:"what"`               // where in it, in words
	Sections []Section `json:"sections,omitempty"` // where in it
	Causes   []string  `json:"causes"`             // likely ones, the likeliest first
	Fix      string    `json:"fix,omitempty"`
}

// Section is a part of a program that is not the same in two builds.
type Section struct {
	Name   string `json:"name"`   // as the format calls it, or "headers" for what is in no section
	First  int    `json:"first"`  // size in bytes in the first build; 0 where it is missing
	Second int    `json:"second"` // in the second
	Bytes  int    `json:"bytes"`  // how many are not the same, where the sizes are
}

// String tells it in words.
func (s Section) String() string {
	if s.First != s.Second {
		return fmt.Sprintf("%s (%d and %d bytes)", s.Name, s.First, s.Second)
	}
	return fmt.Sprintf("%s (%d of %d bytes)", s.Name, s.Bytes, s.First)
}

// Where is where two builds were made.
type Where struct {
	First, Second string // the services' folders
	Tree          Tree
}

// Explain compares what two builds made for the same platforms and looks for why they differ.
func Explain(a, b *Output, w Where) ([]Difference, error) {
	var out []Difference
	for i := range a.Builds {
		one, two := a.Builds[i], b.Builds[i]
		for j, p := range one.Programs {
			if p.Digest == two.Programs[j].Digest {
				continue
			}
			d, err := compare(p, two.Programs[j])
			if err != nil {
				return nil, err
			}
			d.commands(one, two, w)
			d.causes(w)
			d.File = one.Platform.String() + "/" + p.Name
			out = append(out, d.Difference)
		}
	}
	if len(out) == 0 {
		out = append(out, aroundPrograms(a.Source, b.Source))
	}
	return out, nil
}

// aroundPrograms is the difference between two images with the same programs.
func aroundPrograms(a, b Source) Difference {
	d := Difference{File: "image", What: "the programs are the same, what is said of them is not", Fix: "a clone lacks tags or commits that this folder has: push them, or fetch all of them"}
	for _, x := range [][3]string{{"version", a.Version, b.Version}, {"commit", a.Commit, b.Commit}, {"time", a.Time.String(), b.Time.String()}} {
		if x[1] != x[2] {
			d.Causes = append(d.Causes, fmt.Sprintf("version control: %s %s, %s", x[0], or(x[1], "unknown"), or(x[2], "unknown")))
		}
	}
	if d.Causes == nil {
		d.Causes, d.Fix = []string{"no cause found: compare the two images with `fairlead inspect`"}, ""
	}
	return d
}

// comparison is a difference that is being explained.
type comparison struct {
	Difference
	one, two      *inspect.Report
	first, second []byte            // the files
	parts         map[string][]byte // of the first, that differ
	others        map[string][]byte // of the second, that differ
}

func (c *comparison) add(fix, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.Causes, text) {
		c.Causes = append(c.Causes, text)
	}
	if c.Fix == "" {
		c.Fix = fix
	}
}

func compare(one, two Program) (*comparison, error) {
	c := &comparison{parts: map[string][]byte{}, others: map[string][]byte{}}
	for _, x := range []struct {
		p      Program
		report **inspect.Report
		file   *[]byte
	}{{one, &c.one, &c.first}, {two, &c.two, &c.second}} {
		var err error
		if *x.report, err = inspect.File(x.p.Path, inspect.Options{FileOnly: true}); err != nil {
			return nil, err
		}
		if *x.file, err = os.ReadFile(x.p.Path); err != nil {
			return nil, err
		}
	}
	a, b := sections(c.first), sections(c.second)
	for _, s := range a {
		i := slices.IndexFunc(b, func(o section) bool { return o.name == s.name })
		other := section{name: s.name}
		if i >= 0 {
			other = b[i]
		}
		c.section(s, other)
	}
	for _, s := range b {
		if !slices.ContainsFunc(a, func(o section) bool { return o.name == s.name }) {
			c.section(section{name: s.name}, s)
		}
	}
	c.describe()
	return c, nil
}

// section notes a pair that is not the same.
func (c *comparison) section(a, b section) {
	if bytes.Equal(a.data, b.data) {
		return
	}
	s := Section{Name: a.name, First: len(a.data), Second: len(b.data)}
	if s.First == s.Second {
		for i := range a.data {
			if a.data[i] != b.data[i] {
				s.Bytes++
			}
		}
	}
	c.Sections = append(c.Sections, s)
	c.parts[s.Name], c.others[s.Name] = a.data, b.data
}

// buildIDs are sections that follow from all the others: they differ whatever the cause is.
var buildIDs = []string{".note.go.buildid", ".note.gnu.build-id", "__LINKEDIT,__buildid"}

// describe says where the files differ. Build IDs and headers come last, since what is in them follows from the rest.
func (c *comparison) describe() {
	weight := func(s Section) int {
		if s.Name == headers || slices.Contains(buildIDs, s.Name) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(c.Sections, func(a, b Section) int { return weight(a) - weight(b) })
	var names []string
	for _, s := range c.Sections {
		names = append(names, s.String())
	}
	size := fmt.Sprintf("%d bytes each", len(c.first))
	if len(c.first) != len(c.second) {
		size = fmt.Sprintf("%d and %d bytes", len(c.first), len(c.second))
	}
	c.What = size + "; not the same: " + strings.Join(names, ", ")
}

// commands looks for differences between what the two builds were told. With -trimpath the linker's flags stand in no
// program, so they are taken from the commands.
func (c *comparison) commands(one, two Built, w Where) {
	a, b := plain(one.Args, w.First), plain(two.Args, w.Second)
	gone, come := without(a, b), without(b, a)
	for i := range max(len(gone), len(come)) {
		was, is := or(at(gone, i), "nothing"), or(at(come, i), "nothing")
		switch {
		case stamp.MatchString(was) && stamp.MatchString(is):
			c.add(takeCommitTime, "a time in build.ldflags or build.flags: %s, %s", was, is)
		case setsVariable(was) || setsVariable(is):
			c.add("take what changes from build to build out of build.ldflags; where it is the version, a clone lacks tags that this folder has", "a variable set by the linker: %s, %s", was, is)
		default:
			c.add("take what changes from build to build out of build.ldflags and build.flags", "flags of go build: %s, %s", was, is)
		}
	}
}

// plain is the words of a go command's flags, without the folder it ran in.
func plain(args []string, dir string) []string {
	var out []string
	for _, a := range args {
		if flags, ok := strings.CutPrefix(a, "-ldflags="); ok {
			out = append(out, strings.Fields(flags)...)
			continue
		}
		out = append(out, strings.ReplaceAll(a, dir, "."))
	}
	return out
}

// setsVariable reports whether a word is what -X of the linker takes: PACKAGE.NAME=VALUE.
func setsVariable(word string) bool {
	name, _, ok := strings.Cut(word, "=")
	return ok && strings.Contains(name, ".") && !strings.HasPrefix(name, "-")
}

// without is what a has more of than b: the time of a build may well be that of the commit, too.
func without(a, b []string) []string {
	left := map[string]int{}
	for _, s := range b {
		left[s]++
	}
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		left[s]--
		return left[s] >= 0
	})
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

const takeCommitTime = "take the time from the commit, as fairlead does for variables named date or buildTime: remove it from build.ldflags and generated files"

// causes looks for why in what the programs tell, in what stands in them, and in what the second build did not have.
func (c *comparison) causes(w Where) {
	for _, s := range differing(c.one.Go.Settings, c.two.Go.Settings) {
		switch {
		case strings.HasPrefix(s, "vcs."):
			c.add("commit or ignore what `git status` lists", "version control: %s (an untracked file is enough for vcs.modified)", s)
		case strings.HasPrefix(s, "-ldflags"):
			c.add("take what changes from build to build out of build.ldflags", "linker flags: %s", s)
		default:
			c.add("", "build setting %s", s)
		}
	}
	if n := len(w.Tree.Unknown); n > 0 {
		text := w.Tree.Unknown[0]
		if n > 1 {
			text = fmt.Sprintf("%s and %d more", text, n-1)
		}
		c.add("commit "+text+", or keep the build from reading it", "the build reads %s, which git ignores: a generated file", text)
	}
	c.paths(w)
	c.times()
	if c.one.Go.Cgo {
		c.add("build without cgo, or in a container with a fixed C compiler", "cgo: what the C compiler and its linker write is not Go's to fix")
	}
	if len(c.Causes) == 0 {
		c.add("", "no cause found: look for a code generator that writes maps in changing order, for what -toolexec and -overlay do, and for `go:embed` of files that change")
	}
}

// paths looks for the folders that the builds were made in.
func (c *comparison) paths(w Where) {
	const fix = "build with -trimpath (remove what switches it off from build.flags); a path in the program's own text comes from a code generator or from a C compiler"
	for _, x := range []struct {
		dir, name   string
		file, other []byte
	}{{w.First, "this folder", c.first, c.second}, {w.Second, "the second build's folder", c.second, c.first}} {
		for d := x.dir; d != filepath.Dir(d); d = filepath.Dir(d) {
			if path := []byte(filepath.ToSlash(d)); bytes.Contains(x.file, path) && !bytes.Contains(x.other, path) {
				c.add(fix, "the path of %s stands in it: %s", x.name, d)
				break
			}
		}
	}
}

// stamp is a date or a time as programs, C's __DATE__ and __TIME__ and people write them, and seconds of Unix time.
var stamp = regexp.MustCompile(strings.Join([]string{
	`20[2-9][0-9]-[01][0-9]-[0-3][0-9]([T _][0-2][0-9][:.]?[0-5][0-9]([:.]?[0-5][0-9])?)?`,
	`[0-3 ]?[0-9] [A-Z][a-z]{2} 20[2-9][0-9]( [0-2][0-9]:[0-5][0-9](:[0-5][0-9])?)?`,
	`[A-Z][a-z]{2} [ 0-3]?[0-9] ([0-2][0-9]:[0-5][0-9](:[0-5][0-9])?|20[2-9][0-9])`,
	`[0-2][0-9]:[0-5][0-9]:[0-5][0-9]`,
	`\b[12][0-9]{9}\b`,
}, "|"))

// maxTimes is how many pairs of times are told of one program.
const maxTimes = 3

// times looks for times that stand in one program and not in the other.
func (c *comparison) times() {
	var one, two []string
	for name, data := range c.parts {
		if isCode(name) {
			continue
		}
		a, b := stamps(data), stamps(c.others[name])
		one, two = append(one, without(a, b)...), append(two, without(b, a)...)
	}
	for i := range min(len(one), len(two), maxTimes) {
		c.add(takeCommitTime, "a time stands in it: %q, %q", one[i], two[i])
	}
}

// isCode reports whether a section has no text that a person wrote, but is large.
func isCode(name string) bool {
	for _, s := range []string{"text", "pclntab", "debug", "symtab", "reloc"} {
		if strings.Contains(name, s) {
			return true
		}
	}
	return slices.Contains(buildIDs, name)
}

// stamps are the times in some text, in its order. Ten digits are Unix time only when that is about now: any number may have
// ten.
func stamps(data []byte) []string {
	var out []string
	for _, m := range stamp.FindAll(data, -1) {
		s := string(m)
		if sec, err := strconv.ParseInt(s, 10, 64); err == nil && time.Since(time.Unix(sec, 0)).Abs() > 24*time.Hour {
			continue
		}
		out = append(out, s)
	}
	return out
}

// headers is the name of what is in no section.
const headers = "headers"

// section is a named part of an executable file.
type section struct {
	name string
	off  int // in the file
	data []byte
}

// sections takes an executable file apart, in its order. The programs are of the go command's making, so that the readers of
// the standard library will do. A file that they do not know is one part.
func sections(file []byte) []section {
	var out []section
	add := func(name string, off, size uint64) {
		if end := off + size; off <= end && end <= uint64(len(file)) && size > 0 {
			out = append(out, section{name, int(off), file[off:end]})
		}
	}
	r := bytes.NewReader(file)
	if f, err := elf.NewFile(r); err == nil {
		for _, s := range f.Sections {
			if s.Type != elf.SHT_NOBITS {
				add(s.Name, s.Offset, s.FileSize)
			}
		}
	} else if f, err := macho.NewFile(r); err == nil {
		for _, s := range f.Sections {
			if s.Flags&0xff != 1 { // S_ZEROFILL of mach-o/loader.h: it has no bytes in the file
				add(s.Seg+","+s.Name, uint64(s.Offset), s.Size)
			}
		}
	} else if f, err := pe.NewFile(r); err == nil {
		for _, s := range f.Sections {
			add(s.Name, uint64(s.Offset), uint64(s.Size))
		}
	}
	return append(out, section{name: headers, data: between(file, out)})
}

// between is the parts of a file that are in none of its sections.
func between(file []byte, parts []section) []byte {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b section) int { return a.off - b.off })
	var out []byte
	at := 0
	for _, p := range parts {
		if p.off > at {
			out = append(out, file[at:p.off]...)
		}
		at = max(at, p.off+len(p.data))
	}
	return append(out, file[at:]...)
}

// differing lists settings of two programs that are not the same, as NAME: one, other.
func differing(a, b map[string]string) []string {
	var out []string
	for k, v := range a {
		if v != b[k] {
			out = append(out, k+": "+or(v, "not set")+", "+or(b[k], "not set"))
		}
	}
	for k, v := range b {
		if _, both := a[k]; !both {
			out = append(out, k+": not set, "+v)
		}
	}
	slices.Sort(out)
	return out
}

func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}
