package edge

import (
	"encoding/json"
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
		b, err := encodeTable(&want, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := decodeTable(b, nil)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n%+v\n%s", err, got, b)
		}
	}
	if got, _, err := decodeTable([]byte(`{"routes":null,"generation":2}`), nil); err != nil || got.Generation != 2 || got.Routes != nil {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{`{"routes":[{}]}}`, `{"routes":[{}],}`, `{"routes":[{},]}`, `{"routes":[{}{}]}`, `{"routes":[{}"]}`, `{"routes":["]}`, `{"routes" []}`, `{routes:[]}`, `{"routes":[{]]}`, `{"routes":[{}]`, ``, `null`, `[]`, `{`, `{"routes":{}}`, `{"routes":[`, `{"routes":[{}`, `{"routes":[{"servce":"x"}]}`, `{"table":[]}`, `{"generation":-1}`, `{"routes":[1]}`} {
		if got, _, err := decodeTable([]byte(bad), nil); fail.KindOf(err) != fail.Usage {
			t.Errorf("%s: %+v %v", bad, got, err)
		}
	}
}

// A route that is in the next table as it was is taken from the last one, and one that is not is read.
func TestRoutesAreReadOnce(t *testing.T) {
	_, text, err := decodeTable([]byte(`{"routes":[{"service":"a","hosts":["]}\\\""]},{"service":"b"}]}`), nil)
	if err != nil || len(text.known) != 2 {
		t.Fatalf("%+v %v", text, err)
	}
	for _, r := range text.known {
		r.Environment = "known"
	}
	got, next, err := decodeTable([]byte("{ \"routes\" : [ {\"service\":\"c\"} ,\n{\"service\":\"a\",\"hosts\":[\"]}\\\\\\\"\"]}\t] , \"generation\":4 }\n"), text.known)
	want := Table{Generation: 4, Routes: []Route{{Service: "c"}, {Service: "a", Environment: "known", Hosts: []string{`]}\"`}}}}
	if err != nil || !reflect.DeepEqual(got, want) || len(next.known) != 2 {
		t.Errorf("%+v %v", got, err)
	}
}

// What is taken for a table is one for encoding/json, too, and the same one.
func FuzzTable(f *testing.F) {
	for _, s := range []string{`{"generation":3,"routes":[{"service":"a","hosts":["]}\\\""],"backends":[{"release":1,"weight":100,"endpoints":null}]}]}`, `{"routes":null}`, ` { "routes" : [ ] , "generation" : 1e0 } `, `{"routes":[1,"a]",{"service":{}}]}`, `{"ro\u0075tes":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := decodeTable(b, nil)
		if err != nil {
			return
		}
		var want Table
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%q is taken: %v", b, err)
		}
		if len(got.Routes) != len(want.Routes) || got.Generation != want.Generation || len(got.Routes) > 0 && !reflect.DeepEqual(got.Routes, want.Routes) {
			t.Fatalf("%q is read as %+v, by encoding/json as %+v", b, got, want)
		}
	})
}
