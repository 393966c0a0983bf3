package spec

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// maxNodes bounds how much a file may expand to through its aliases.
const maxNodes = 20000

// decoder fills the Go types from the node tree: strictly, and remembering where each value stood.
type decoder struct {
	file   string
	places map[string]*yaml.Node // by path: "run.limits.memory"
	nodes  int
	over   bool // an overlay is read: what it replaces is forgotten
}

func (d *decoder) errorf(n *yaml.Node, format string, args ...any) *fail.Error {
	return &fail.Error{Kind: fail.Usage, Place: at(d.file, n), Err: fmt.Errorf(format, args...)}
}

func (d *decoder) decode(root *yaml.Node, s *Spec) error {
	return d.value(root, reflect.ValueOf(s).Elem(), "")
}

// overlay decodes the chosen environment's keys once more, this time over the spec's own.
func (d *decoder) overlay(root *yaml.Node, s *Spec) error {
	envs, err := d.mapping(root, "environments")
	if err != nil {
		return err
	}
	node, err := d.mapping(envs, s.Environment)
	if err != nil {
		return err
	}
	v := reflect.ValueOf(s).Elem()
	d.over = true
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i].Value
		if err := d.value(node.Content[i+1], v.FieldByIndex(fieldsOf(v.Type())[key].Index), key); err != nil {
			return err
		}
	}
	return nil
}

// mapping returns the value of key in a mapping that is known to have it.
func (d *decoder) mapping(n *yaml.Node, key string) (*yaml.Node, error) {
	n, err := d.resolve(n)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return d.resolve(n.Content[i+1])
		}
	}
	return nil, d.errorf(n, "%s: is missing", key)
}

// resolve follows an alias, and counts: aliases of aliases can make a small file endless.
func (d *decoder) resolve(n *yaml.Node) (*yaml.Node, error) {
	if d.nodes++; d.nodes > maxNodes {
		return nil, d.errorf(n, "the file expands to more than %d values through its aliases", maxNodes)
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n, nil
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) error {
	n, err := d.resolve(n)
	if err != nil {
		return err
	}
	if d.over && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) {
		maps.DeleteFunc(d.places, func(p string, _ *yaml.Node) bool {
			return strings.HasPrefix(p, path+".") || strings.HasPrefix(p, path+"[")
		})
	}
	d.places[path] = n
	if p, ok := v.Addr().Interface().(parser); ok {
		return d.parsed(n, p, path)
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		if err := d.value(n, fresh.Elem(), path); err != nil {
			return err
		}
		v.Set(fresh)
		return nil
	case reflect.Struct:
		return d.object(n, v, path)
	case reflect.Map:
		return d.table(n, v, path)
	case reflect.Slice:
		return d.list(n, v, path)
	}
	return d.scalar(n, v, path)
}

func (d *decoder) parsed(n *yaml.Node, p parser, path string) error {
	text, err := d.text(n, path)
	if err != nil {
		return err
	}
	if err := p.parse(text); err != nil {
		return d.errorf(n, "%s: %w", path, err)
	}
	return nil
}

// fieldsOf lists a struct's fields by their key in the file.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	m := map[string]reflect.StructField{}
	for i := range t.NumField() {
		f := t.Field(i)
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key != "-" && key != "" {
			m[key] = f
		}
	}
	return m
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return d.wrong(n, path, "keys and values")
	}
	fields := fieldsOf(v.Type())
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		f, ok := fields[key.Value]
		if !ok {
			return d.unknownKey(key, fields, path)
		}
		if seen[key.Value] {
			return d.errorf(key, "%s stands here a second time", join(path, key.Value))
		}
		seen[key.Value] = true
		if err := d.value(val, v.FieldByIndex(f.Index), join(path, key.Value)); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) unknownKey(key *yaml.Node, fields map[string]reflect.StructField, path string) error {
	var keys []string
	for k := range fields {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	where := "at the top"
	if path != "" {
		where = "under " + path
	}
	e := d.errorf(key, "there is no key %q %s", key.Value, where)
	if k := nearest(key.Value, keys); k != "" {
		return e.Hinted("did you mean %q?", k)
	}
	return e.Hinted("the keys here are: %s", strings.Join(keys, ", "))
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return d.wrong(n, path, "keys and values")
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || seen[key.Value] {
			return d.errorf(key, "%s stands here a second time, or is no plain name", join(path, key.Value))
		}
		seen[key.Value] = true
		el := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(n.Content[i+1], el, join(path, key.Value)); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key.Value), el)
	}
	return nil
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.SequenceNode {
		return d.wrong(n, path, "a list, as [one, two]")
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		if err := d.value(c, out.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// oldOctal is a number that YAML 1.1 and 1.2 read differently: 010 is 8 or 10.
var oldOctal = regexp.MustCompile(`^[-+]?0[0-9_]+$`)

// text returns a scalar's words, refusing what is no single value or means different numbers to different readers.
func (d *decoder) text(n *yaml.Node, path string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", d.wrong(n, path, "a single value")
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 && oldOctal.MatchString(n.Value) {
		sign, digits := "", strings.TrimLeft(n.Value, "+-0_")
		if n.Value[0] == '-' {
			sign = "-"
		}
		return "", d.errorf(n, "%s: %s is an octal number to some readers and a decimal one to others", path, n.Value).
			Hinted("write %s, or %q if it is text", sign+cmp.Or(digits, "0"), n.Value)
	}
	return n.Value, nil
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) error {
	text, err := d.text(n, path)
	if err != nil {
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			return d.wrong(n, path, "true or false")
		}
		v.SetBool(text == "true" || text == "True" || text == "TRUE")
	case reflect.Int:
		x, err := strconv.Atoi(text)
		if err != nil || n.Tag != "!!int" {
			return d.wrong(n, path, "a whole number")
		}
		v.SetInt(int64(x))
	default:
		return d.errorf(n, "%s: no reader for %s", path, v.Type()) // a defect of ours: the tests read every field
	}
	return nil
}

func (d *decoder) wrong(n *yaml.Node, path, want string) error {
	have := "a list"
	switch {
	case n.Kind == yaml.MappingNode:
		have = "keys and values"
	case n.Tag == "!!null":
		have = "nothing"
	case n.Kind == yaml.ScalarNode:
		have = strconv.Quote(n.Value)
	}
	if path == "" {
		path = "the file"
	}
	return d.errorf(n, "%s: %s is wanted, here is %s", path, want, have)
}
