package edge

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

func TestTablesAreReadAsTheyAreWritten(t *testing.T) {
	large := Table{Generation: 7}
	for i := range 20 {
		large.Routes = append(large.Routes, Route{Service: strings.Repeat("s", i+1), Environment: "e", Listen: ":80", Hosts: []string{"<&>"},
			Backends: []Backend{{Release: i, Weight: 100, Endpoints: []Endpoint{{1, "127.0.0.1:1"}}}}, Guard: &Guard{Request: time.Second}})
	}
	for _, want := range []Table{{}, {Generation: 3}, large} {
		b, err := encodeTable(&want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeTable(bytes.NewReader(b))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n%+v\n%s", err, got, b)
		}
	}
	if got, err := decodeTable(strings.NewReader(`{"routes":null,"generation":2}`)); err != nil || got.Generation != 2 || got.Routes != nil {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{``, `null`, `[]`, `{`, `{"routes":{}}`, `{"routes":[`, `{"routes":[{}`, `{"routes":[{"servce":"x"}]}`, `{"table":[]}`, `{"generation":-1}`, `{"routes":[1]}`} {
		if got, err := decodeTable(strings.NewReader(bad)); fail.KindOf(err) != fail.Usage {
			t.Errorf("%s: %+v %v", bad, got, err)
		}
	}
}
