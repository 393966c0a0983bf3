package vuln

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/fail"
)

// A stream as the scan gives it: two ways to the same symbol, one merely imported package, one module.
const stream = `
{"config":{"protocol_version":"v1.0.0","db":"https://db.example","db_last_modified":"2026-10-01T00:00:00Z","go_version":"go1.26.8"}}
{"progress":{"message":"Checking the code..."}}
{"osv":{"id":"GO-1","aliases":["CVE-1"],"summary":"one"}}
{"osv":{"id":"GO-2","summary":"two"}}
{"osv":{"id":"GO-3","summary":"told of, and not here"}}
{"finding":{"osv":"GO-2","trace":[{"module":"m2","version":"v1.0.0"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"m1","version":"v1.1.0"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"m1","version":"v1.1.0","package":"m1/p"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"m1","version":"v1.1.0","package":"m1/p","function":"Do","receiver":"*T"},{"module":"s","package":"s/x","function":"f"},{"module":"s","package":"s","function":"main"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"m1","version":"v1.1.0","package":"m1/p","function":"Do","receiver":"*T"},{"module":"s","package":"s","function":"main"}]}}
`

func TestReadTellsOfEachOnce(t *testing.T) {
	r, err := read(strings.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if r.DB != "https://db.example" || r.Go != "go1.26.8" || r.Modified.Year() != 2026 {
		t.Errorf("config: %+v", r)
	}
	if len(r.Found) != 2 {
		t.Fatalf("found %+v, want GO-1 and GO-2", r.Found)
	}
	one, two := r.Found[0], r.Found[1]
	if one.Level != Reachable || one.Fixed != "v1.2.0" || strings.Join(one.Trace, " ") != "s.main m1/p.T.Do" || !one.Is("CVE-1") || !one.Is("GO-1") || one.Is("GO-2") {
		t.Errorf("first: %+v", one)
	}
	if two.Level != Present || two.Module != "m2" || two.Summary != "two" || two.Fixed != "" || two.Trace != nil {
		t.Errorf("second: %+v", two)
	}
}

func TestBrokenAnswerIsAnError(t *testing.T) {
	if _, err := read(strings.NewReader(`{"config":{}}{"finding"`)); err == nil {
		t.Error("half an answer was taken for a whole one")
	}
}

// The whole way, over a service with modules: what it calls, what it does not call, and another version's trouble.
func TestScan(t *testing.T) {
	db := t.TempDir()
	entry := func(id, fixed, symbol string) string {
		return `{"schema_version":"1.3.1","id":"` + id + `","modified":"2026-10-01T00:00:00Z","published":"2026-10-01T00:00:00Z","summary":"s","details":"d","affected":[{"package":{"name":"github.com/gin-gonic/gin","ecosystem":"Go"},` +
			`"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"` + fixed + `"}]}],"ecosystem_specific":{"imports":[{"path":"github.com/gin-gonic/gin","symbols":["` + symbol + `"]}]}}]}`
	}
	for name, text := range map[string]string{
		"index/db.json": `{"modified":"2026-10-01T00:00:00Z"}`,
		"index/modules.json": `[{"path":"github.com/gin-gonic/gin","vulns":[{"id":"GO-2026-0001","modified":"2026-10-01T00:00:00Z","fixed":"99.0.0"},` +
			`{"id":"GO-2026-0002","modified":"2026-10-01T00:00:00Z","fixed":"99.0.0"},{"id":"GO-2026-0003","modified":"2026-10-01T00:00:00Z","fixed":"1.0.0"}]}]`,
		"index/vulns.json":     `[]`,
		"ID/GO-2026-0001.json": entry("GO-2026-0001", "99.0.0", "Context.JSON"),
		"ID/GO-2026-0002.json": entry("GO-2026-0002", "99.0.0", "Engine.RunQUIC"),
		"ID/GO-2026-0003.json": entry("GO-2026-0003", "1.0.0", "New"),
	} {
		path := filepath.Join(db, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Scan(t.Context(), Params{Dir: "../../examples/gin", Packages: []string{"."}, DB: db})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Found) != 2 {
		t.Fatalf("found %+v, want two", r.Found)
	}
	called, idle := r.Found[0], r.Found[1]
	if called.ID != "GO-2026-0001" || called.Level != Reachable || called.Fixed != "v99.0.0" || len(called.Trace) < 2 || !strings.HasSuffix(called.Trace[len(called.Trace)-1], "gin.Context.JSON") {
		t.Errorf("called: %+v", called)
	}
	if idle.ID != "GO-2026-0002" || idle.Level != Present {
		t.Errorf("not called: %+v", idle)
	}
}

func TestScanRefusesWhatCannotBeScanned(t *testing.T) {
	if _, err := Scan(t.Context(), Params{Dir: ".", DB: t.TempDir()}); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "is not a vulnerability database") {
		t.Errorf("an empty folder as database: %v", err)
	}
	if _, err := Scan(t.Context(), Params{Dir: ".", DB: "http://127.0.0.1:1"}); fail.KindOf(err) != fail.Preflight || !strings.Contains(fail.As(err).Hint, "build: {vulns: {db:") {
		t.Errorf("a database that does not answer: %v", err)
	}
}
