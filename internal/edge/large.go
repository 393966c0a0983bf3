package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// A large table is read, checked, compiled and written in the process that serves requests, on as few cores as the machine has. So
// all of that is done a few routes at a time, and requests come in between: without it some wait for a whole table, or for the ten
// milliseconds after which Go's scheduler takes the core away by itself.

// breathe is called with the number of each route.
func breathe(n int) {
	if n%8 == 7 {
		runtime.Gosched()
	}
}

// tableText is a table as it came.
type tableText struct {
	routes []byte            // all of them, in JSON
	known  map[string]*Route // and each, as it was read
	read   []*Route          // the same in their order
}

// decodeTable reads a table as strictly as every other body. Most routes are in each table as they were in the one before: those
// that last has are not read again.
func decodeTable(b []byte, last map[string]*Route) (t Table, text tableText, err error) {
	text.known = make(map[string]*Route, len(last))
	err = members(b, func(key string, value []byte) error {
		switch key {
		case "generation":
			return json.Unmarshal(value, &t.Generation)
		case "routes":
			text.routes = value
			t.Routes, err = text.decodeRoutes(last)
			return err
		}
		return fmt.Errorf("unknown field %q", key)
	})
	if err != nil {
		err = fail.New(fail.Usage, "routing table", "request body: %w", err)
	}
	return t, text, err
}

func (t *tableText) decodeRoutes(last map[string]*Route) (out []Route, err error) {
	if string(t.routes) == "null" { // which stands for none
		t.read = nil
		return nil, nil
	}
	out, t.read = slices.Grow(out, len(last)), make([]*Route, 0, len(last))
	var from bytes.Buffer
	d := json.NewDecoder(&from)
	d.DisallowUnknownFields()
	err = elements(t.routes, func(value []byte) error {
		breathe(len(out))
		text := string(value)
		r := last[text]
		if r == nil {
			r = &Route{}
			from.Write(value)
			if err := d.Decode(r); err != nil {
				return err
			}
		}
		t.known[text] = r
		t.read = append(t.read, r)
		out = append(out, *r)
		return nil
	})
	return out, err
}

var errForm = errors.New("this is not the JSON of a table")

// members calls f with each member of a JSON object. Whether the values are JSON is for f to see.
func members(b []byte, f func(key string, value []byte) error) error {
	return inside(b, '{', '}', func(item []byte) ([]byte, error) {
		n := valueEnd(item)
		rest := bytes.TrimLeft(item[n:], space)
		var key string
		if err := json.Unmarshal(item[:n], &key); err != nil || len(rest) == 0 || rest[0] != ':' {
			return nil, errors.Join(errForm, err)
		}
		rest = bytes.TrimLeft(rest[1:], space)
		n = valueEnd(rest)
		return rest[n:], f(key, rest[:n])
	})
}

// elements calls f with each element of a JSON array.
func elements(b []byte, f func(value []byte) error) error {
	return inside(b, '[', ']', func(item []byte) ([]byte, error) {
		n := valueEnd(item)
		return item[n:], f(item[:n])
	})
}

const space = " \t\r\n"

// inside calls item with what is left of b at each thing between begin and end; item returns what it left.
func inside(b []byte, begin, end byte, item func([]byte) ([]byte, error)) error {
	b = bytes.Trim(b, space)
	if len(b) < 2 || b[0] != begin || b[len(b)-1] != end {
		return errForm
	}
	b = bytes.TrimLeft(b[1:], space)
	for first := true; len(b) > 1; first = false {
		if !first {
			if b[0] != ',' {
				return errForm
			}
			b = bytes.TrimLeft(b[1:], space)
		}
		var err error
		if b, err = item(b); err != nil {
			return err
		}
		b = bytes.TrimLeft(b, space)
	}
	if len(b) == 0 {
		return errForm // the end was a part of the last thing
	}
	return nil
}

// valueEnd is the length of the JSON value that b begins with, if it is one.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
			if depth == 0 {
				return i + 1
			}
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return min(i+1, len(b))
			}
		case ',', ' ', '\t', '\r', '\n', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return len(b)
}

// encodeTable is t in JSON: with its routes as they came, where that is known, or a route a line.
func encodeTable(t *Table, routes []byte) ([]byte, error) {
	if len(routes) > 0 {
		const around = 64
		out := fmt.Appendf(make([]byte, 0, len(routes)+around), `{"generation":%d,"routes":`, t.Generation)
		return append(append(out, routes...), '}'), nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"generation":%d,"routes":[`, t.Generation)
	e := json.NewEncoder(&b)
	for i, r := range t.Routes {
		breathe(i)
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(r); err != nil {
			return nil, err
		}
	}
	b.WriteString("]}\n")
	return b.Bytes(), nil
}
