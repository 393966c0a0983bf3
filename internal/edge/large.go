package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

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

// decodeTable reads a table as strictly as every other body.
func decodeTable(from io.Reader) (t Table, err error) {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	defer func() {
		if err != nil {
			err = fail.New(fail.Usage, "routing table", "request body: %w", err)
		}
	}()
	if err := expect(d, json.Delim('{')); err != nil {
		return t, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return t, err
		}
		switch key {
		case "generation":
			err = d.Decode(&t.Generation)
		case "routes":
			t.Routes, err = decodeRoutes(d)
		default:
			err = fmt.Errorf("unknown field %q", key)
		}
		if err != nil {
			return t, err
		}
	}
	return t, expect(d, json.Delim('}'))
}

func decodeRoutes(d *json.Decoder) (out []Route, err error) {
	first, err := d.Token()
	if err != nil || first == nil { // null stands for none
		return nil, err
	}
	if first != json.Delim('[') {
		return nil, fmt.Errorf("%v where the routes begin", first)
	}
	for i := 0; d.More(); i++ {
		breathe(i)
		var r Route
		if err := d.Decode(&r); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, expect(d, json.Delim(']'))
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v where %v is expected", got, want)
	}
	return err
}

// encodeTable is t in JSON, a route a line.
func encodeTable(t *Table) ([]byte, error) {
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
