package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// maxFile is the largest fairlead.yaml that is read.
const maxFile = 1 << 20

// Load reads the fairlead.yaml of a folder (or the file itself) for an environment, "" meaning [DefaultEnvironment]. What
// comes back is complete and checked. Every error is a [fail.Usage] with file:line:column.
func Load(path, env string) (*Spec, error) {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		path = filepath.Join(path, FileName)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	b, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail.New(fail.Usage, "", "there is no %s", path).
			Hinted("run `fairlead init` in the service's folder, or name the folder that has one")
	}
	if err != nil {
		return nil, fail.New(fail.Usage, "read the spec", "%w", err)
	}
	return Parse(path, b, dir, env)
}

func readBounded(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; a spec has at most %d", path, fi.Size(), maxFile)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Parse is [Load] of b, which is called name in errors and stands in dir.
func Parse(name string, b []byte, dir, env string) (*Spec, error) {
	root, err := document(name, b)
	if err != nil {
		return nil, err
	}
	d := &decoder{file: name, places: map[string]*yaml.Node{}}
	s := &Spec{Dir: dir, Environment: DefaultEnvironment}
	if err := d.decode(root, s); err != nil {
		return nil, err
	}
	if env != "" && env != DefaultEnvironment {
		if _, ok := s.Environments[env]; !ok {
			return nil, d.unknownEnvironment(s, env)
		}
		s.Environment = env
	}
	if _, ok := s.Environments[s.Environment]; ok {
		if err := d.overlay(root, s); err != nil {
			return nil, err
		}
	}
	d.defaults(s)
	return s, d.check(s)
}

// document parses b into the node tree of its only document.
func document(name string, b []byte) (*yaml.Node, error) {
	if i := badByte(b); i >= 0 {
		line, col := 1+bytes.Count(b[:i], []byte("\n")), 1+utf8.RuneCount(b[bytes.LastIndexByte(b[:i], '\n')+1:i])
		return nil, &fail.Error{Kind: fail.Usage, Place: fmt.Sprintf("%s:%d:%d", name, line, col),
			Err: fmt.Errorf("this is no text: a byte 0x%02x stands here", b[i])}
	}
	l, err := yaml.NewLoader(strings.NewReader(string(b)))
	if err != nil {
		return nil, err
	}
	var doc, more yaml.Node
	if err := l.Load(&doc); err != nil || len(doc.Content) == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, &fail.Error{Kind: fail.Usage, Place: name + ":1:1", Err: errors.New("the file is empty"), Hint: "write `service: NAME`"}
		}
		return nil, yamlError(name, err)
	}
	switch err := l.Load(&more); {
	case err == nil && len(more.Content) > 0:
		return nil, &fail.Error{Kind: fail.Usage, Place: at(name, &more), Err: errors.New("a second document begins here; a spec is one"),
			Hint: "remove the line `---` and what follows; environments are overlays under `environments:`"}
	case err != nil && !errors.Is(err, io.EOF):
		return nil, yamlError(name, err)
	}
	return doc.Content[0], nil
}

// badByte returns the index of the first byte that is neither UTF-8 nor allowed in YAML, -1 where all are. The parser finds
// it, too, but not its place.
func badByte(b []byte) int {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 {
			return i
		}
		i += n
	}
	return -1
}

// yamlError gives the parser's complaint its place.
func yamlError(name string, err error) error {
	place := name
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		place, text = fmt.Sprintf("%s:%d:%d", name, max(le.Mark.Line, 1), max(le.Mark.Column, 1)), le.Message
	}
	return &fail.Error{Kind: fail.Usage, Place: place, Err: errors.New("this is no YAML: " + text)}
}

func (d *decoder) unknownEnvironment(s *Spec, env string) error {
	have := sortedKeys(s.Environments)
	place := d.places["environments"]
	if place == nil {
		place = d.places[""]
	}
	e := d.errorf(place, "there is no environment %q", env)
	if n := nearest(env, have); n != "" {
		return e.Hinted("did you mean %q?", n)
	}
	return e.Hinted("the file has: %s", strings.Join(append([]string{DefaultEnvironment}, have...), ", "))
}

func at(file string, n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", file, n.Line, n.Column) }

// nearest returns the candidate that differs from s in the fewest letters, "" when none is near.
func nearest(s string, candidates []string) string {
	best, dist := "", max(len(s)/2, 1)+1
	for _, c := range candidates {
		if len(s)-len(c) >= dist {
			continue // no need to look, however long s is
		}
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d < dist {
			best, dist = c, d
		}
	}
	return best
}

// distance is Levenshtein's with a swap of neighbours as one edit.
func distance(a, b string) int {
	prev2, prev := []int(nil), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
